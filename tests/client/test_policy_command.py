"""`lepton-client policy` writes a policy once, says what it says, and says why a run is accepted or refused."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from lepton_client.explain import find_contract
from lepton_client.policy import MAY_LEAVE, from_fields, read
from lepton_client.policy_command import policy
from lepton_client.policy_file import Answers, ask, text
from lepton_client.refused import Refused
from proposals import SUMMED, contract, terms

from lepton_fl import models, strategies
from lepton_fl.errors import ConfigError
from lepton_fl.federation.contract import digest, to_bytes
from lepton_fl.plain_yaml import parse_yaml

COMMAND = Path(sys.executable).with_name("lepton-client")
ANSWERS = ["--data-set", "hearts", "--unit", "record", "--epsilon", "3", "--delta", "1e-4", "--task", "heart"]
ENOUGH = ["--least-cohort", "4"]


def init(home: Path, *more: str) -> None:
    policy(["init", "--home", str(home), *ANSWERS, *more])


def store(home: Path, run_id: int, **parts: Any) -> Path:
    path = home / "contracts" / str(run_id) / "contract.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(to_bytes(replace(contract(terms(**parts)), run_id=run_id)))
    return path


def test_init_writes_a_commented_policy_that_only_its_owner_can_read(tmp_path: Path) -> None:
    init(tmp_path / "new")
    path = tmp_path / "new" / "policy.yaml"
    written = read(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().count("#") > 20
    assert (written.data_set, written.budget.epsilon, written.budget.delta) == ("hearts", 3.0, 1e-4)
    assert (written.accept, written.public_data, written.may_leave) == (
        "by-hand",
        False,
        ["noised-update", "noised-counts"],
    )
    assert written.plugins == []


def test_init_lists_every_model_and_strategy_that_ships(tmp_path: Path) -> None:
    init(tmp_path)
    written = read(tmp_path / "policy.yaml")
    assert (written.models, written.strategies) == (sorted(models.TABLE), sorted(strategies.TABLE))


def test_init_for_public_data_lets_every_kind_of_message_leave(tmp_path: Path) -> None:
    init(tmp_path, "--public-data", "yes", "--accept", "by-policy")
    written = read(tmp_path / "policy.yaml")
    assert (written.public_data, written.accept, written.may_leave) == (True, "by-policy", [*MAY_LEAVE])


def test_init_never_replaces_a_policy(tmp_path: Path) -> None:
    init(tmp_path)
    before = (tmp_path / "policy.yaml").read_bytes()
    with pytest.raises(ConfigError, match="is there already; it was not changed"):
        init(tmp_path, "--epsilon", "100")
    assert (tmp_path / "policy.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--unit", "person", "policy.budget.unit"),
        ("--epsilon", "much", "--epsilon must be a number"),
        ("--epsilon", "nan", "policy.budget.epsilon"),
        ("--delta", "1", "policy.budget.delta"),
        ("--task", "hart", "did you mean heart"),
        ("--accept", "later", "policy.accept"),
        ("--public-data", "perhaps", "must be yes or no"),
        ("--least-cohort", "many", "--least-cohort must be a whole number"),
        ("--least-cohort", "0", "policy.least_cohort"),
        ("--data-set", "", "needs --data-set"),
    ],
)
def test_init_writes_nothing_after_a_wrong_answer(tmp_path: Path, option: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        init(tmp_path, option, value)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ['a "quoted" name', "a: b # c", "${oc.env:HOME}", "$unit", "Ärzte", "'"])
def test_a_name_stays_as_it_was_typed_or_is_refused(name: str) -> None:
    written = text(Answers(name, "record", "3", "1e-5", "any", "by-hand", "no", "5"))
    fields = parse_yaml(written.encode(), "it")
    assert fields["data_set"] == name
    if "${" in name:
        with pytest.raises(ConfigError, match="data_set"):
            from_fields(fields)
    else:
        assert from_fields(fields).data_set == name


def test_numbers_are_numbers_for_every_reader_of_yaml() -> None:
    written = text(Answers("a", "record", "3", "1e-5", "any", "by-hand", "no", "5"))
    assert yaml.safe_load(written)["budget"] == {"unit": "record", "epsilon": 3.0, "delta": 1e-5}


def test_without_anybody_to_ask_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"needs --data-set, --epsilon, --delta, --task; nothing was written"):
        ask({"unit": "record"}, None)


def test_only_what_was_not_given_is_asked_and_three_questions_have_a_safe_answer() -> None:
    typed = iter(["3", "1e-5", "", "", ""])
    asked: list[str] = []

    def question(words: str) -> str:
        asked.append(words)
        return next(typed)

    answers = ask({"data_set": "a", "unit": "record", "task": "heart"}, question)
    assert answers == Answers("a", "record", "3", "1e-5", "heart", "by-hand", "no", "5")
    assert [words.split()[0] for words in asked] == ["epsilon", "delta,", "accept", "is", "institutions"]


def test_on_a_terminal_init_asks(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    command = [str(COMMAND), "policy", "init", "--home", str(tmp_path)]
    with subprocess.Popen(command, stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        os.write(terminal, b"hearts\nrecord\n3\n1e-4\nheart\n\n\n3\n")
        said, mistakes = running.communicate(timeout=60)
    os.close(terminal)
    os.close(end)
    assert running.returncode == 0, mistakes
    assert "epsilon 3 at delta 0.0001" in said
    written = read(tmp_path / "policy.yaml")
    assert (written.data_set, written.least_cohort, written.secure_aggregation) == ("hearts", 3, "required")


def test_show_says_every_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init(tmp_path)
    capsys.readouterr()
    policy(["show", "--home", str(tmp_path)])
    said = capsys.readouterr().out
    for words in ("hearts", "epsilon 3 at delta 0.0001", "by hand", "noised-update", "heart", "tanh_cnn", "krum"):
        assert words in said
    policy(["show", "--home", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["budget"] == {"unit": "record", "epsilon": 3.0, "delta": 1e-4}


def test_explain_says_the_price_and_that_every_clause_is_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path, *ENOUGH)
    store(tmp_path, 7, **SUMMED)
    policy(["explain", "7", "--home", str(tmp_path)])
    said = capsys.readouterr().out
    assert "epsilon 0.00 now, 1.00 after, of 3 per record at delta 0.0001" in said
    assert "refused" not in said.split("price")[1]
    assert said.splitlines()[-1].startswith("accepted    by hand")


def test_explain_says_what_a_share_of_the_noise_is_worth_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path, *ENOUGH)
    path = tmp_path / "policy.yaml"
    path.write_text(path.read_text().replace("[noised-update, noised-counts]", "[shared-noise-update]"))
    store(tmp_path, 7, noise="shared", **SUMMED)
    policy(["explain", "7", "--home", str(tmp_path)])
    said = capsys.readouterr().out
    assert "epsilon 0.00 now, 1.00 after" in said
    assert said.splitlines()[-1].startswith("share       epsilon 1.47 of the whole run")


def test_explain_names_the_refusing_field_and_both_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init(tmp_path, *ENOUGH)
    store(tmp_path, 8, rounds=1001, **SUMMED)
    capsys.readouterr()
    with pytest.raises(Refused, match=r"policy\.run\.rounds refuses: the run has 1001 rounds, and 1000 may be"):
        policy(["explain", "8", "--home", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["is_accepted"] is False
    assert [one["name"] for one in found["clauses"] if not one["is_met"]] == ["policy.run.rounds"]
    assert found["price"]["epsilon_after"] == pytest.approx(1.0, abs=0.01)


def test_a_contract_is_named_by_file_by_number_or_by_the_beginning_of_its_digest(tmp_path: Path) -> None:
    first, second = store(tmp_path, 7), store(tmp_path, 8, rounds=5)
    asked = find_contract(tmp_path, "8")
    assert asked.run_id == 8
    assert find_contract(tmp_path, str(second)) == asked
    assert find_contract(tmp_path, digest(asked)[:8]) == asked
    for name in ("9", "", "../7", digest(asked)[:3], 64 * "z"):
        with pytest.raises(ConfigError, match=r"\(7, 8\).*; nothing was done"):
            find_contract(tmp_path, name)
    assert find_contract(tmp_path, str(first)).run_id == 7


def test_without_a_policy_nothing_is_explained(tmp_path: Path) -> None:
    store(tmp_path, 7)
    with pytest.raises(ConfigError, match="there is no policy"):
        policy(["explain", "7", "--home", str(tmp_path)])
