"""A policy is read as it is written, or nothing runs."""

from __future__ import annotations

import re
from datetime import time
from pathlib import Path
from typing import Any

import pytest
from lepton_client.policy import approved_tasks, is_within, place, read
from proposals import POLICY, policy, write

from lepton_fl.errors import ConfigError


def with_field(path: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        name: dict(inner) if isinstance(inner, dict) else inner for name, inner in POLICY.items()
    }
    *outer, name = path.split(".")
    inside = document
    for part in outer:
        inside = inside[part]
    inside[name] = value
    return document


def test_every_field_of_the_file_is_in_the_policy(tmp_path: Path) -> None:
    read_policy = policy(tmp_path)
    assert read_policy.budget.epsilon == 3.0
    assert read_policy.run.rounds == 30
    assert set(vars(read_policy)) == {*POLICY}


def test_without_a_file_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"without one nothing runs; .*lepton-client policy init"):
        read(tmp_path / "policy.yaml")


def test_the_policy_lies_in_the_home_unless_another_file_is_chosen(tmp_path: Path) -> None:
    assert place(tmp_path, None) == tmp_path / "policy.yaml"
    assert place(tmp_path, "/etc/lepton.yaml") == Path("/etc/lepton.yaml")


@pytest.mark.parametrize("field", [*POLICY, "budget.unit", "budget.epsilon", "budget.delta", "run.rounds"])
def test_a_field_that_is_missing_is_named(tmp_path: Path, field: str) -> None:
    document = with_field(field, None)
    inside = document
    *outer, name = field.split(".")
    for part in outer:
        inside = inside[part]
    del inside[name]
    with pytest.raises(ConfigError, match=rf"policy\.{field}\b.*; nothing was run; "):
        read(write(tmp_path, document))


@pytest.mark.parametrize("field", ["epsilon", "budget.epsilonn", "run.minutes"])
def test_a_field_that_is_unknown_is_named(tmp_path: Path, field: str) -> None:
    with pytest.raises(ConfigError, match=field.rpartition(".")[2]):
        read(write(tmp_path, with_field(field, 1)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_set", ""),
        ("data_set", " "),
        ("budget.unit", "person"),
        ("budget.epsilon", 0.0),
        ("budget.epsilon", float("nan")),
        ("budget.epsilon", float("inf")),
        ("budget.epsilon", 101.0),
        ("budget.epsilon", "much"),
        ("budget.delta", 0.5),
        ("run.epsilon", -1.0),
        ("run.rounds", 0),
        ("run.rounds", 1.5),
        ("run.holdout_share", 1.0),
        ("run.compute_hours", 0.0),
        ("public_data", "perhaps"),
        ("accept", "later"),
        ("may_leave", ["the data"]),
        ("may_leave", "noised-update"),
        ("tasks", ["any", "heart"]),
        ("tasks", ["../heart"]),
        ("tasks", ["sha256:12"]),
        ("models", ["sha256:" + 64 * "0"]),
        ("strategies", [""]),
        ("plugins", [{"module": "one.two", "sha256": 64 * "0"}]),
        ("plugins", [{"module": "one", "sha256": "0"}]),
        ("plugins", [{"module": "one", "sha256": 64 * "0"}, {"module": "one", "sha256": 64 * "1"}]),
        ("least_cohort", 0),
        ("secure_aggregation", "yes"),
        ("hours", "20:00"),
        ("hours", "24:00-06:00"),
        ("hours", "06:00-06:00"),
        ("power_w", -1.0),
        ("data_set", "${oc.env:HOME}"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"policy\.{field}\b[^;]*; nothing was run; ") as caught:
        read(write(tmp_path, with_field(field, value)))
    assert "\n" not in str(caught.value)


def test_a_policy_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, POLICY)
    path.chmod(0o660)
    with pytest.raises(ConfigError, match="others on this machine can write"):
        read(path)


@pytest.mark.parametrize(
    ("field", "name", "hint"),
    [
        ("tasks", "hart", "did you mean heart?"),
        ("models", "logistics", "policy.models names logistics"),
        ("strategies", "fedmean", "policy.strategies names fedmean"),
    ],
)
def test_a_name_that_is_not_here_is_told(tmp_path: Path, field: str, name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint.replace("?", r"\?")):
        approved_tasks(policy(tmp_path, **{field: [name]}), tmp_path / "policy.yaml")


def test_tasks_of_ones_own_lie_beside_the_policy(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    shipped = (Path(__file__).parents[2] / "conf" / "task" / "heart.yaml").read_text()
    (tmp_path / "task" / "mine.yaml").write_text(shipped.replace("high: 100", "high: 90"))
    found = approved_tasks(policy(tmp_path, tasks=["heart", "mine"]), tmp_path / "policy.yaml")
    assert found["heart"]["columns"]["age"]["high"] == 100
    assert found["mine"]["columns"]["age"]["high"] == 90


def test_a_task_of_ones_own_cannot_take_a_shipped_name(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "heart.yaml").write_text("defaults: [tabular_schema]\n")
    with pytest.raises(ConfigError, match="ships with Lepton FL"):
        approved_tasks(policy(tmp_path), tmp_path / "policy.yaml")


@pytest.mark.parametrize(
    ("hours", "now", "is_inside"),
    [
        (None, "12:00", True),
        ("08:00-18:00", "08:00", True),
        ("08:00-18:00", "17:59", True),
        ("08:00-18:00", "18:00", False),
        ("08:00-18:00", "07:59", False),
        ("20:00-06:00", "23:59", True),
        ("20:00-06:00", "00:00", True),
        ("20:00-06:00", "05:59", True),
        ("20:00-06:00", "06:00", False),
        ("20:00-06:00", "19:59", False),
    ],
)
def test_hours_may_go_over_midnight(hours: str | None, now: str, is_inside: bool) -> None:
    assert is_within(hours, time.fromisoformat(now)) is is_inside


def test_the_documents_example_is_a_policy_and_its_table_has_every_field(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    (tmp_path / "policy.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    example = read(tmp_path / "policy.yaml")
    told = set(re.findall(r"`([a-z_.]+)`", "\n".join(line.split(" | ")[0] for line in page.splitlines())))
    nested = {f"{name}.{inner}" for name in ("budget", "run") for inner in vars(getattr(example, name))}
    assert (set(POLICY) - {"budget", "run"}) | nested <= told
