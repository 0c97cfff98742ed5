"""`lepton-client check` says all that can be seen here before a run: the data, what would leave, device and disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from federations import PUBLIC_POLICY, policy_text
from homes import enrolled
from lepton_client import sections
from lepton_client.home import Home
from lepton_client.policy import read
from one_process import Answer, answers
from proposals import EXACTLY

from lepton_fl.config import config_dir
from lepton_fl.evaluation.plan import plan
from lepton_fl.evaluation.settings import Private
from lepton_fl.federation.arrays import to_arrays
from lepton_fl.federation.client_app import ClientProgram, answer_evaluation, answer_training
from lepton_fl.flower import ConfigRecord, Message, RecordDict, enter_run
from lepton_fl.models.logistic import Logistic
from lepton_fl.models.shape import Shape
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.rounds_spent import InMemory
from lepton_fl.training.device import Seen
from lepton_fl.training.examples import Examples, Site
from lepton_fl.training.private import Mechanism
from lepton_fl.training.settings import Training

COMMAND = Path(sys.executable).with_name("lepton-client")
CONFIGURATION = 2
CPU = Seen("cpu", "2 threads", 8 << 30)
GPU = Seen("cuda:0", "H200", 141 << 30)
TASK = """\
defaults: [tabular_schema]

title: high blood pressure
declared_records: 100
partition: {prefix: site, institutions: 1, alpha: 1.0, seed: 0}
file: null
institution: null
subject: patient
label: {column: ill, values: ["no", "yes"]}
sensitive: [sex]
missing: ["NA"]
columns:
  age: {kind: numeric, unit: years, low: 18, high: 100}
  sex: {kind: categorical, values: [f, m]}
"""


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    alone = {name: value for name, value in os.environ.items() if name != "LEPTON_HOME"} | {"HOME": str(folder)}
    return subprocess.run(
        [COMMAND, *arguments], cwd=folder, env=alone, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 rows: 4 without an age, 3 older than the bounds, 2 of an undeclared sex, 1 of none, 5 without a label."""
    folder = tmp_path_factory.mktemp("check")
    rows = [[f"P{row}", str(20 + row % 60), "fm"[row % 2], "yes" if row % 4 == 0 else "no"] for row in range(100)]
    for row in range(4):
        rows[row][1] = "NA"
    for row in range(10, 13):
        rows[row][1] = "140"
    rows[20][2], rows[21][2], rows[22][2] = "x", "y", ""
    for row in range(30, 35):
        rows[row][3] = ""
    text = "\n".join(",".join(row) for row in [["patient", "age", "sex", "ill"], *rows])
    (folder / "table.csv").write_text(text + "\n")
    (folder / "my" / "task").mkdir(parents=True)
    (folder / "my" / "task" / "pressure.yaml").write_text(TASK)
    enrolled(Home(folder / "north", "North Hospital", ("127.0.0.1:1",)))
    return folder


CHECK = ("check", "--config-dir", "my", "task=pressure", "data.path=table.csv")


ABSENT = {"cuda:9999": "device=cpu", "gpu": "cpu, cuda, cuda:N or auto"}  # a device, and what is said of it
WITHOUT_DEVICE = [(verb, name) for verb in ("check", "run") for name in ABSENT]


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, Answer]:
    """What each command says."""
    (folder / "public.yaml").write_text(PUBLIC_POLICY)
    home = Home(folder / "open", "North Hospital", ("127.0.0.1:1",))
    enrolled(home)
    home.key.chmod(0o644)
    nowhere = ("data.path=missing.csv", "--home", "nowhere")
    cases = {f"{verb} on {name}": (verb, *nowhere, f"device={name}") for verb, name in WITHOUT_DEVICE}
    return answers(
        "lepton-client",
        {
            "for people": CHECK,
            "a key that others can read": (*CHECK, "--home", "open"),
            "a policy": (*CHECK, "log=json", "policy=public.yaml"),
            "a policy that is not there": (*CHECK, "policy=other.yaml"),
            **cases,
        },
        folder,
        home=folder,
    )


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    done = call(folder, *CHECK, "log=json", "--home", "north")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_link_is_looked_at_in_the_order_in_which_to_mend_it(report: dict[str, Any]) -> None:
    states = {one["name"]: one["state"] for one in report["link"]}
    assert list(states)[:5] == ["key", "certificate", "ca", "validity", "purpose"]
    assert {states[name] for name in list(states)[:5]} == {"ok"}
    assert states["server"] == "warning"  # it listens only while a run is under way


def test_a_home_that_could_not_take_part_fails_the_check_after_the_whole_report(said: dict[str, Answer]) -> None:
    done = said["a key that others can read"]
    assert done.code == 7
    assert "can be read by others" in done.err
    assert "rows        100 in the file" in done.out
    assert "ready" not in done.out


def test_the_report_counts_everything_that_had_to_be_mended(report: dict[str, Any]) -> None:
    assert (report["rows"], report["usable"]) == (100, 95)
    assert report["missing"] == {"age": 4, "sex": 1}
    assert [line.split(" (")[0].split(", first")[0] for line in report["warnings"]] == [
        "column ill: label missing, row left out",
        "column age: outside the declared bounds 18..100, clipped",
        "column sex: undeclared category, taken as missing",
    ]
    assert [line.split("(")[1].split(" ")[0] for line in report["warnings"]] == ["5", "3", "2"]


def test_the_report_has_the_balance_of_the_label_in_each_sensitive_group(report: dict[str, Any]) -> None:
    groups = {(row["column"], row["group"]): (row["positive"], row["records"]) for row in report["balance"]}
    assert groups[("all", "")] == (24, 95)
    assert groups[("sex", "m")] == (0, 47)
    assert set(groups) == {("all", ""), ("sex", "f"), ("sex", "m"), ("sex", "x"), ("sex", "y"), ("sex", "unknown")}


def test_the_report_for_machines_has_every_section(report: dict[str, Any], folder: Path) -> None:
    assert set(report) == {
        *(
            "task",
            "rows",
            "usable",
            "held_out",
            "subjects",
            "most_records",
            "institutions",
            "missing",
            "balance",
            "warnings",
        ),
        *("link", "leaves", "device", "disk"),
    }
    assert report["leaves"] == sections.leaves(None).content
    assert report["device"]["chosen"] == "cpu"
    assert report["device"]["seen"][0]["name"] == "cpu"
    assert report["disk"]["institution"] == "North Hospital"
    assert report["disk"]["folder"] == str((folder / "north").resolve())
    assert report["disk"]["free_bytes"] > 0


def test_the_report_for_people_has_every_section_and_ends_with_ready(said: dict[str, Answer], folder: Path) -> None:
    done = said["for people"]
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    words = list(dict.fromkeys(line.split()[0] for line in lines))
    assert words == ["task", "rows", "subjects", "missing", "ill=yes", "warning", "leaves", "device", "disk", "ready"]
    assert lines[-1] == "ready       this table can be trained on; nothing of it left this machine"
    assert any("not enrolled yet" in line and "lepton-client enroll" in line for line in lines)
    assert str(folder.resolve()) in next(line for line in lines if line.startswith("disk"))


def test_what_would_leave_is_what_the_policy_lets(said: dict[str, Answer], folder: Path) -> None:
    assert json.loads(said["a policy"].out)["leaves"] == sections.leaves(read(folder / "public.yaml")).content


def test_a_policy_that_was_chosen_and_is_not_there_ends_the_check(said: dict[str, Answer]) -> None:
    done = said["a policy that is not there"]
    assert done.code == CONFIGURATION
    assert "there is no policy at other.yaml" in done.err


@pytest.mark.parametrize(("verb", "name"), WITHOUT_DEVICE)
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(
    verb: str, name: str, said: dict[str, Answer]
) -> None:
    done = said[f"{verb} on {name}"]
    assert done.code == CONFIGURATION
    assert len(done.err.splitlines()) == 1
    assert ABSENT[name] in done.err
    assert "missing.csv" not in done.err
    assert "nowhere" not in done.err


def test_a_check_and_a_run_start_from_the_same_settings() -> None:
    check, client = (yaml.safe_load((config_dir() / f"{name}.yaml").read_text()) for name in ("check", "client"))
    shared = ("home", "device", "policy", "data")
    assert {name: check[name] for name in shared} == {name: client[name] for name in shared}


# -- what would leave


def sentence(text: str, folder: Path, beginning: str) -> str:
    """What the report says under this policy about what begins so."""
    file = folder / "policy.yaml"
    file.write_text(text)
    (found,) = [line for line in sections.leaves(read(file)).content if line.startswith(beginning)]  # type: ignore[attr-defined]
    return str(found)


def test_a_careful_policy_lets_no_count_and_no_unprotected_value_leave(tmp_path: Path) -> None:
    careful = policy_text()
    assert "nothing; such a run is refused" in sentence(careful, tmp_path, "each round of a run without it")
    assert "declined" in sentence(careful, tmp_path, "each evaluation of a run with noise")
    assert "declined" in sentence(careful, tmp_path, "each evaluation of a run without it")
    assert "nothing" in sentence(careful, tmp_path, "what a round took")
    private = sentence(careful, tmp_path, "each round of a run with this institution's own noise")
    assert "no record, no number of records, no loss" in private
    assert "epsilon 1 at delta 0.0001 per record" in private


def test_a_policy_for_public_data_names_every_exact_number_that_would_leave(tmp_path: Path) -> None:
    unprotected = sentence(PUBLIC_POLICY, tmp_path, "each round of a run without it")
    assert "how many records were trained on, and their mean loss" in unprotected
    assert "policy.public_data" in unprotected
    energy = policy_text("may_leave: [noised-update, energy]")
    assert "two significant digits; no epsilon" in sentence(energy, tmp_path, "what a round took")
    noised = sentence(PUBLIC_POLICY, tmp_path, "each evaluation of a run with noise")
    assert "with this institution's noise" in noised
    assert "at most epsilon 100 at delta 0.0001 per record" in noised
    counted = sentence(PUBLIC_POLICY, tmp_path, "each evaluation of a run without it")
    for words in ("exact counts", "how many records", "sum of their losses", "no epsilon", "policy.may_leave"):
        assert words in counted


MECHANISM = Mechanism(noise_multiplier=1.0, clipping_norm=0.5, sampling_rate=0.5, expected_batch=8.0)


@pytest.mark.parametrize(
    ("kind", "mechanism", "arrays", "numbers"),
    [
        ("train", MECHANISM, {"arrays"}, {"num-examples"}),
        ("train", None, {"arrays"}, {"num-examples", "train-loss"}),
        # A round of the two: its decisions, noised; at the end there would be the scores beside them.
        ("evaluate", MECHANISM, set(), {"decisions", "noises"}),
        ("evaluate", None, set(), {"scores", "noises", "loss-sum"}),
    ],
)
def test_an_answer_holds_what_the_check_says_and_no_more(
    kind: str, mechanism: Mechanism | None, arrays: set[str], numbers: set[str]
) -> None:
    enter_run(1)
    examples = Examples(torch.ones(20, 3), torch.arange(20) % 2)
    training = Training(1, 0.5, 0.1, 1.0, 0.0, 0.0, 8, "sgd")
    evaluating = EXACTLY
    if mechanism is not None:
        settings = Private(every=1, bins=20, confidence=0.95, epsilon=1.0, by_institution=False)
        evaluating = replace(EXACTLY, settings=settings, rounds=2, plan=plan(settings, 1e-4, 2, 1, 2, has_tune=False))
    model = Logistic().build(Shape((3,), 1))
    made = ClientProgram(model, 1, training, mechanism, 5, Randomness(None), evaluating)
    content = RecordDict({"arrays": to_arrays(made.model), "config": ConfigRecord({"server-round": 1})})
    message = Message(content, dst_node_id=2, message_type=kind)
    site = Site("A", examples, examples, examples.at(torch.arange(0)))
    if kind == "train":
        answer = answer_training(made, site, message, InMemory())
    else:
        answer = answer_evaluation(made, site, message, InMemory())
    assert set(answer.content.array_records) == arrays
    assert set(answer.content.config_records) == set()
    assert set(answer.content.metric_records) == {"metrics"}
    told = answer.content.metric_records["metrics"]
    assert set(told) == numbers
    if kind == "train":
        assert told["num-examples"] == (1 if mechanism is not None else 20)
        assert set(answer.content.array_records["arrays"]) == {"1.weight", "1.bias"}


# -- device and disk


def test_the_chosen_device_is_marked_among_those_that_are_seen() -> None:
    section = sections.device([CPU, GPU], "auto", torch.device("cuda", 0))
    assert section.lines == (
        "device      cpu (2 threads, 8.0 GiB)",
        "device      cuda:0 (H200, 141.0 GiB), which device=auto chooses",
    )
    assert json.loads(json.dumps(section.content))["chosen"] == "cuda:0"


def test_a_machine_without_a_gpu_is_told_so() -> None:
    assert sections.device([CPU], "cpu", torch.device("cpu")).lines[-1] == "device      torch sees no GPU"


@pytest.mark.parametrize(("free_bytes", "warns"), [((1 << 30) - 1, True), (1 << 30, False)])
def test_a_disk_with_less_than_a_gibibyte_is_warned_about(free_bytes: int, warns: bool) -> None:
    section = sections.disk(Path("home"), free_bytes, "North")
    assert any(line.startswith("warning") for line in section.lines) is warns
    assert json.loads(json.dumps(section.content))["is_enough"] is not warns
