"""What a run leaves behind and says: whole files with documented keys, lines with fixed columns."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compositions import sim_config
from proposals import EXACTLY
from voices import Quiet

from lepton_fl.errors import ConfigError, TrainingFailed
from lepton_fl.evaluation.metrics import Metrics
from lepton_fl.federation.journal import RoundReport
from lepton_fl.flower import Array, ArrayRecord
from lepton_fl.results.curve import draw
from lepton_fl.results.folder import Folder
from lepton_fl.results.lines import closing, opening, round_line
from lepton_fl.results.outcome import Claim, Facts, Outcome, no_claim
from lepton_fl.results.terminal import JsonVoice, PlainVoice
from lepton_fl.run import Names
from lepton_fl.simulation import Plan, output_folder, plan, simulate

ROUNDS = 10
FILES = {
    "result.json", "evaluation.json", "rounds.jsonl", "model.safetensors", "learning_curve.png", "energy.jsonl",
}  # fmt: skip


def planned(*overrides: str) -> Plan:
    return plan(sim_config(f"rounds={ROUNDS}", *overrides), Names("heart", "logistic", "fedavg"))


@pytest.fixture(scope="module")
def base() -> Plan:
    return planned("privacy=record", "evaluation=exact", "evaluation.every=1")


@pytest.fixture(scope="module")
def finished(base: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("run")
    return simulate(base, Folder(folder), Quiet()), folder  # type: ignore[arg-type]


# Files.


def test_a_run_leaves_exactly_its_files(finished: tuple[Outcome, Path]) -> None:
    assert {path.name for path in finished[1].iterdir()} == FILES


def test_result_json_has_the_documented_keys(finished: tuple[Outcome, Path]) -> None:
    result = json.loads((finished[1] / "result.json").read_text())
    assert {
        "schema", "version", "finished_at", "task", "model", "strategy", "parameters", "institutions", "rounds",
        "metrics", "metrics_by_institution", "evaluation", "secure_aggregation", "private", "not_private_because",
        "unit",
        "neighbouring_relation",
        "epsilon", "epsilon_without_seed", "epsilon_budget", "delta", "noise_multiplier", "clipping_norm",
        "sampling_rate", "steps", "seed", "noise", "honest", "epsilon_of_a_share", "seconds", "energy",
        "stopped", "verdict", "model_sha256",
    } == set(result)  # fmt: skip
    assert (result["task"], result["model"], result["strategy"]) == ("heart", "logistic", "fedavg")
    assert (result["rounds"], result["steps"], result["parameters"]) == (ROUNDS, ROUNDS, 39)
    assert (result["private"], result["unit"]) == (True, "record")
    assert result["neighbouring_relation"] == "add or remove one record"
    assert 0.9 < result["epsilon"] <= result["epsilon_budget"] == 1.0
    assert result["delta"] == 1e-4
    assert result["seconds"] > 0
    assert (result["secure_aggregation"], result["noise"], result["honest"]) == (True, "own", None)


def test_result_json_of_sums_tells_pooled_figures_and_none_of_an_institution(finished: tuple[Outcome, Path]) -> None:
    result = json.loads((finished[1] / "result.json").read_text())
    assert set(result["metrics"]) == {"records", "accuracy", "auc", "loss"}
    assert result["metrics_by_institution"] == {}
    rounds = [json.loads(line) for line in (finished[1] / "rounds.jsonl").read_text().splitlines()]
    assert result["metrics"]["records"] == rounds[0]["metrics"]["records"] > 100
    assert 0.5 < result["metrics"]["auc"] <= 1


def test_result_json_tells_figures_pooled_and_by_institution(tmp_path: Path) -> None:
    simulate(planned("privacy=none", "secure_aggregation=off", "rounds=2"), Folder(tmp_path), Quiet())
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["metrics"]) == {"records", "accuracy", "auc", "loss"}
    assert set(result["metrics_by_institution"]) == set(result["institutions"])
    by_institution = result["metrics_by_institution"].values()
    assert sum(one["records"] for one in by_institution) == result["metrics"]["records"]
    right = sum(one["accuracy"] * one["records"] for one in by_institution)
    assert right / result["metrics"]["records"] == pytest.approx(result["metrics"]["accuracy"])
    assert 0.5 < result["metrics"]["auc"] <= 1


def test_the_hash_is_that_of_the_models_file(finished: tuple[Outcome, Path]) -> None:
    outcome, folder = finished
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert outcome.model_sha256 == digest
    assert json.loads((folder / "result.json").read_text())["model_sha256"] == digest


def test_the_picture_is_a_png_of_1200_by_480(finished: tuple[Outcome, Path]) -> None:
    picture = (finished[1] / "learning_curve.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", picture[16:24]) == (1200, 480)


def test_there_is_one_line_for_each_round(finished: tuple[Outcome, Path]) -> None:
    outcome, folder = finished
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
    assert {tuple(line) for line in lines} == {
        (
            "round",
            "cohort",
            "replied",
            "refused",
            "not_evaluated",
            "skipped",
            "metrics",
            "private",
            "unit",
            "neighbouring_relation",
            "epsilon",
            "epsilon_without_seed",
            "seconds",
        )
    }
    assert lines[-1]["metrics"] == json.loads((folder / "result.json").read_text())["metrics"]
    spent = [line["epsilon"] for line in lines]
    assert spent == sorted(set(spent))
    assert lines[-1]["cohort"] == lines[-1]["replied"] == sorted(outcome.facts.institutions)


def test_a_rounds_line_is_on_disk_before_the_next_round(base: Plan, tmp_path: Path) -> None:
    seen = []

    class Watching(Quiet):
        """Counts the lines on disk whenever a round ends."""

        def round_done(self, report: RoundReport) -> None:
            """See `Voice`."""
            seen.append((tmp_path / "rounds.jsonl").read_text().count("\n"))

    simulate(base, Folder(tmp_path), Watching())
    assert seen == list(range(1, ROUNDS + 1))


def test_a_failing_run_leaves_no_result(tmp_path: Path) -> None:
    overflowing = planned("privacy=none", "rounds=1", "training.weight_decay=1e38", "training.local_steps=3")
    with pytest.raises(TrainingFailed):
        simulate(overflowing, Folder(tmp_path), Quiet())
    assert "result.json" not in {path.name for path in tmp_path.iterdir()}
    assert not list(tmp_path.glob(".*"))


def test_an_earlier_result_is_gone_as_soon_as_a_run_starts(finished: tuple[Outcome, Path], tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes((finished[1] / name).read_bytes())
    (tmp_path / "notes.txt").write_text("mine")
    folder = Folder(tmp_path)
    folder.begin((), finished[0].facts.claim)
    assert {path.name for path in tmp_path.iterdir()} == {"rounds.jsonl", "notes.txt"}
    assert (tmp_path / "rounds.jsonl").read_text() == ""
    folder.finish(finished[0])


def test_a_place_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to .*nothing was trained; choose output=DIR"):
        Folder(tmp_path / "file")


def test_equal_models_have_equal_files(tmp_path: Path) -> None:
    def sha256(name: str, value: float) -> str:
        folder = Folder(tmp_path / name)
        record = ArrayRecord({"w": Array(np.array([value, 2.0], dtype=np.float32))})
        digest = folder.add_model(record, {"w": (2,)}, no_claim(None))
        folder.finish(outcome(report(1)))
        return digest

    assert sha256("one", 1.0) == sha256("two", 1.0) != sha256("three", 1.5)


def test_each_job_of_a_sweep_has_a_folder_of_its_own() -> None:
    assert output_folder("out", None) == Path("out")
    assert output_folder("out", 3) == Path("out/3")
    assert output_folder(None, None).parent.parent == Path("outputs")


# Lines. Hand-made reports, of up to a dozen institutions.

INSTITUTIONS = tuple(f"hospital-{number}" for number in range(1, 13))


def claim(budget: float = 4.0, seed: int | None = None) -> Claim:
    return Claim("record", "add or remove one record", budget, 1e-5, 1.1, 1.0, 0.1, 100, seed)


def facts(rounds: int = 100, promise: Claim | None = None, *, is_summed: bool = True) -> Facts:
    return Facts(
        "heart", "heart", "logistic", "fedavg", rounds, INSTITUTIONS, 39, promise or claim(), is_summed, EXACTLY
    )


def metrics(loss: float = 0.5, auc: float | None = 0.8, accuracy: float = 0.75) -> Metrics:
    return Metrics(200, accuracy, auc, loss)


def report(
    number: int, *, replied: int = 12, figures: Metrics | None = None, epsilon: float | None = 1.0, seconds: float = 1.0
) -> RoundReport:
    return RoundReport(number, INSTITUTIONS, INSTITUTIONS[:replied], {}, figures or metrics(), {}, epsilon, seconds)


def outcome(*reports: RoundReport, promise: Claim | None = None) -> Outcome:
    return Outcome(facts(len(reports), promise), reports, 12.3, "0" * 64)


def columns(line: str) -> list[int]:
    """Where each column starts: at every first letter of a name after two spaces."""
    names = ("round", "cohort", "replied", "loss", "auc", "accuracy", "epsilon", "not private")
    return [line.index(name) for name in names if name in line] + [len(line)]


def test_the_lines_of_a_run_share_their_columns(base: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voice = PlainVoice()
    voice.finished(simulate(base, Folder(tmp_path), voice), "out")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round ")]
    assert len(lines) == ROUNDS
    assert {tuple(columns(line)) for line in lines} == {tuple(columns(lines[0]))}
    assert lines[0].startswith("round  1/10  cohort 4  replied 4  loss ")
    assert lines[-1].startswith("round 10/10  cohort 4  replied 4  loss ")


@pytest.mark.parametrize(
    "other",
    [
        report(100),
        report(2, seconds=99.9),
        report(2, epsilon=3.99),
        report(2, replied=9),
        report(2, replied=0),
        report(2, figures=metrics(loss=12.5)),
    ],
    ids=["last round", "slow round", "more epsilon", "fewer replies", "no reply", "two-digit loss"],
)
def test_a_round_line_keeps_the_columns_whatever_happened(other: RoundReport) -> None:
    assert columns(round_line(other, facts())) == columns(round_line(report(1), facts()))


def test_a_round_line_keeps_the_columns_with_a_two_digit_budget() -> None:
    promise = facts(promise=claim(budget=10.0))
    first, last = (round_line(report(1, epsilon=epsilon), promise) for epsilon in (9.5, 10.0))
    assert columns(first) == columns(last)


def test_a_round_line_without_evaluation_keeps_its_length() -> None:
    unmeasured = RoundReport(2, INSTITUTIONS, INSTITUTIONS, {}, None, {}, 1.0, 1.0)
    assert len(round_line(unmeasured, facts())) == len(round_line(report(1), facts()))


def test_the_opening_says_unit_budget_delta_and_relation() -> None:
    text = "\n".join(opening(facts()))
    for part in ("12 institutions", "39 parameters", "per record", "add or remove one record", "epsilon 4.00", "1e-05"):
        assert part in text
    assert "NOT PRIVATE" not in text


def test_the_opening_says_whose_updates_the_operator_sees() -> None:
    """Of twelve, three may side with the operator, so eight must answer."""
    assert (
        "aggregation secure: the operator sees sums alone; 8 of 12 must answer, 3 may side with the operator"
        in opening(facts())
    )
    plain = opening(facts(is_summed=False))
    assert "aggregation NOT SECURE: the operator sees each institution's update" in plain
    assert any(line.startswith("evaluation  exact counts") for line in plain)
    assert not any("exact counts" in line for line in opening(facts()))


@pytest.mark.parametrize("promise", [no_claim(None), no_claim(3), claim(seed=3)])
def test_the_opening_says_plainly_that_a_run_is_not_private(promise: Claim) -> None:
    assert opening(facts(promise=promise))[-1].startswith("NOT PRIVATE")
    assert "not private" in round_line(report(1), facts(promise=promise))


def test_the_closing_names_the_files_that_are_there(finished: tuple[Outcome, Path]) -> None:
    last = closing(finished[0], "out")[-1]
    assert last.startswith("written     out: ")
    assert set(last.removeprefix("written     out: ").split(", ")) == FILES


def test_an_institution_left_out_is_named_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    voice = PlainVoice()
    voice.started(facts())
    voice.round_done(replace(report(1), refused={"mill lane": "its weight is not a positive number"}))
    assert capsys.readouterr().out.splitlines()[-1] == "  mill lane left out: its weight is not a positive number"


def test_warnings_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    PlainVoice().noticed(["column age: clipped"])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "warning: column age: clipped\n")


def test_every_line_of_the_json_log_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    voice = JsonVoice()
    voice.noticed(["column age: clipped\nand more"])
    voice.started(facts())
    voice.round_done(report(1))
    voice.round_done(RoundReport(2, INSTITUTIONS, (), {"a\n\x1b": "no\nanswer"}, None, {}, None, 0.1))
    voice.finished(outcome(report(1)), "out")
    captured = capsys.readouterr()
    events = [json.loads(line, parse_constant=pytest.fail) for line in captured.out.splitlines()]
    assert [event["event"] for event in events] == ["warning", "started", "round", "round", "finished"]
    assert captured.err == ""


@pytest.mark.parametrize(
    "one",
    [
        outcome(report(1)),
        outcome(report(1), report(2)),
        outcome(*(report(number, figures=metrics(auc=None)) for number in range(1, 4))),
        outcome(replace(report(1), metrics=None), report(2)),
        outcome(report(1), replace(report(2), metrics=None)),
        outcome(replace(report(1), metrics=None)),
        outcome(report(1, epsilon=None), promise=no_claim(None)),
        outcome(replace(report(1), metrics=None, epsilon=None), promise=no_claim(1)),
        outcome(report(1), promise=claim(seed=1)),
        outcome(*(report(number, figures=metrics(auc=1.0, accuracy=1.0)) for number in range(1, 40))),
    ],
    ids=[
        "one round", "two rounds", "no auc", "first unmeasured", "last unmeasured", "unmeasured", "not private",
        "not private, unmeasured", "seeded", "perfect",
    ],
)  # fmt: skip
def test_any_finished_run_can_be_drawn(one: Outcome) -> None:
    picture = draw(one)
    assert struct.unpack(">II", picture[16:24]) == (1200, 480)


def test_equal_outcomes_give_equal_pictures() -> None:
    assert draw(outcome(report(1), report(2))) == draw(outcome(report(1), report(2)))
