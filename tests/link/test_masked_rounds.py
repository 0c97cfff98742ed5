"""An institution's real agent in masked rounds: what it refuses, what it says again, and what its ledger says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreed import Capture, Institution, Run, arrays_of, begun, institution, left, reconnect
from federations import PUBLIC_POLICY, policy_text, write_rows
from lepton_client.records import own_site
from lepton_client.refused import Refused
from line import Line
from masked import Masked, masked
from proposals import SUMMED, terms

from lepton_fl.evaluation.settings import Private
from lepton_fl.federation.steps import ECHOES, INBOX, PARAMS, ROSTER, STEPS, SURVIVORS
from lepton_fl.federation.terms import Terms
from lepton_fl.flower import ConfigRecord
from lepton_fl.link.frames import Parts
from lepton_fl.link.spool import Spool
from lepton_fl.privacy.books import HELD_OUT, TRAINED_ON
from lepton_fl.privacy.units import NoPrivacy
from lepton_fl.tasks.task import DataSource
from lepton_fl.v1.federation_pb2 import ClientFrame

PURPOSES = ("train", "evaluate")
CLEVELAND = 303  # patients
PRIVATE = terms(**SUMMED, rounds=2)
WITHOUT_NOISE = terms(**SUMMED, rounds=2, privacy=NoPrivacy())
SHARED_NOISE = terms(**SUMMED, rounds=2, noise="shared")
EVALUATION = Private(every=1, bins=20, confidence=0.95, epsilon=1.0, by_institution=False)
NOISED = terms(**SUMMED, rounds=2, evaluation=EVALUATION)
SHARED_EVALUATION = terms(**SUMMED, rounds=2, evaluation=EVALUATION, noise="shared")
STRICT = policy_text("budget: {unit: record, epsilon: 100.0, delta: 1.0e-4}", "may_leave: [noised-update]")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with begun(tmp_path) as made:
        yield made


def elm_of(run: Run, tmp_path: Path, policy: str = PUBLIC_POLICY, port: int | None = None) -> Institution:
    write_rows(tmp_path / "data.csv", ["Cleveland"])
    return institution(run.member, tmp_path / "elm", tmp_path / "data.csv", port or run.operator.port, policy)


@pytest.fixture
def elm(run: Run, tmp_path: Path) -> Institution:
    return elm_of(run, tmp_path)


@pytest.fixture
def agreed(run: Run, elm: Institution) -> Masked:
    """A run of three that the institution accepted; one without noise, since its noise need not be calibrated."""
    made = masked(run, elm, WITHOUT_NOISE)
    made.offer(elm)
    return made


def refusal(elm: Institution) -> str:
    """The sentence with which the institution refused, which ended its stream."""
    refused = elm.over()
    assert isinstance(refused, Refused), refused
    return str(refused)


def rounds_paid(elm: Institution, run: Run) -> int:
    known = elm.ledger.run(str(run.run_id))
    return 0 if known is None else known.rounds


# -- what is refused


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_masked_run_refuses_a_plain_instruction(run: Run, elm: Institution, agreed: Masked, purpose: str) -> None:
    run.ask(purpose, agreed.contract, agreed.arrays, {"cohort-size": 3})
    assert "asks for what was not signed: secure_aggregation: signed True, now False; nothing was read" in refusal(elm)
    assert rounds_paid(elm, run) == 0


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_masked_run_refuses_a_plain_instruction_in_the_middle_of_a_round(
    run: Run, elm: Institution, agreed: Masked, purpose: str
) -> None:
    attempt = agreed.attempt("train")
    attempt.hear(PARAMS, run.answer(attempt.ask(PARAMS)))
    run.ask(purpose, agreed.contract, agreed.arrays, {"cohort-size": 3})
    assert "secure_aggregation: signed True, now False" in refusal(elm)
    assert [row["kind"] for row in rows_of(elm, run)] == ["masking"]


def test_a_plain_run_refuses_a_masked_instruction(run: Run, elm: Institution) -> None:
    made = masked(run, elm, WITHOUT_NOISE)
    plain = run.contract(terms(rounds=2, privacy=NoPrivacy()), 3, made.contract.institutions)
    Masked(run, plain, made.others, made.sums, made.arrays).offer(elm)
    made.attempt("train").ask(PARAMS)
    assert "secure_aggregation: signed False, now True" in refusal(elm)
    assert rounds_paid(elm, run) == 0


@pytest.mark.parametrize(
    ("late", "more"),
    [
        (ROSTER, {"arrays": arrays_of(PRIVATE)}),
        (INBOX, {"config": ConfigRecord({"server-round": 1})}),
        (SURVIVORS, {"other": ConfigRecord({})}),
        (ECHOES, {"arrays": arrays_of(PRIVATE), "config": ConfigRecord({"server-round": 2})}),
    ],
    ids=["a model", "settings", "an empty record", "a whole instruction"],
)
def test_a_later_step_that_holds_more_than_its_own_bytes_is_refused(
    run: Run, elm: Institution, agreed: Masked, late: str, more: dict[str, Any]
) -> None:
    attempt = agreed.attempt("train")
    for step in STEPS[: STEPS.index(late)]:
        attempt.hear(step, run.answer(attempt.ask(step)))
    attempt.ask(late, **more)
    assert "not signed: secure_aggregation: a step holds more than its own bytes" in refusal(elm)


@pytest.mark.parametrize(("begun_as", "then"), [PURPOSES, PURPOSES[::-1]])
def test_the_upload_of_a_round_cannot_be_asked_for_as_that_of_another_kind(
    run: Run, elm: Institution, agreed: Masked, begun_as: str, then: str
) -> None:
    """By its kind it is decided which rule lets it leave, and as what it stands in the ledger."""
    agreed.round(then)  # so that the round of the other kind was paid
    attempt = agreed.attempt(begun_as)
    for step in (PARAMS, ROSTER):
        attempt.hear(step, run.answer(attempt.ask(step)))
    assert run.answer(attempt.ask(INBOX, then)).error.reason == "refused: other purpose"
    assert run.answer(attempt.ask(INBOX)).error.reason == "refused: burned"
    assert [row["kind"] for row in rows_of(elm, run)[5:]] == ["masking"] * 4


def test_a_step_of_a_round_that_never_began_is_refused_by_name(run: Run, agreed: Masked) -> None:
    assert run.answer(agreed.attempt("train").ask(ROSTER)).error.reason == "refused: burned"


def test_a_contract_that_names_another_key_for_this_institution_is_refused(run: Run, elm: Institution) -> None:
    made = masked(run, elm, WITHOUT_NOISE, key=bytes(range(32)))
    run.offer(made.contract)
    elm.connect()
    assert "the contract names another key for this institution than its own; nothing was read or sent" in refusal(elm)
    assert run.federation.hub.consent.accepted == set()
    assert elm.ledger.run(str(run.run_id)) is None
    assert elm.agent._desk.contracts.find(run.run_id) is None


def test_a_contract_that_changes_another_institutions_key_in_mid_run_is_refused(
    run: Run, elm: Institution, agreed: Masked
) -> None:
    run.offer(masked(run, elm, WITHOUT_NOISE).contract)  # with other keys of the two others
    assert "the run is no longer what was signed: identities.ash: signed" in refusal(elm)


# -- what is said again


@dataclass
class Cutting(Capture):
    """Cuts the line when an answer is about to go out, if it is armed; keeps what goes out on each stream."""

    line: Line
    is_armed: bool = False
    frames: list[bytes] = field(default_factory=list)

    def _kept(self, requests: Iterator[ClientFrame]) -> Iterator[ClientFrame]:
        for frame in requests:
            if self.is_armed and frame.WhichOneof("frame") == "begin":
                self.is_armed = False
                self.line.cut()
            self.frames.append(frame.SerializeToString())
            yield frame

    def answers(self) -> list[tuple[bytes, bytes]]:
        """Of each answer that was announced, its digest and as much as followed."""
        found: list[tuple[bytes, bytes]] = []
        for frame in map(ClientFrame.FromString, self.frames):
            if frame.WhichOneof("frame") == "begin":
                found.append((frame.begin.sha256, b""))
            elif frame.WhichOneof("frame") == "chunk":
                found[-1] = found[-1][0], found[-1][1] + frame.chunk.data
        return found


def bytes_of(parts: Parts) -> bytes:
    return b"".join(bytes(part) for part in parts.all())


def test_the_kept_answer_of_each_step_is_sent_again_bit_for_bit_after_a_reconnect(run: Run, tmp_path: Path) -> None:
    with Line(run.operator.port) as line:
        elm, cutting = elm_of(run, tmp_path, port=line.port), Cutting(line)
        made = masked(run, elm, WITHOUT_NOISE)
        run.offer(made.contract)
        reconnect(elm, cutting)
        attempt = made.attempt("train")
        for step in STEPS:
            before, cutting.is_armed = len(cutting.answers()), True
            message_id = attempt.ask(step)
            elm.over()
            assert list(run.grid.pull_messages([message_id])) == []
            kept = Spool(elm.home.path / "spool").find(message_id)
            assert kept is not None
            reconnect(elm, cutting)
            attempt.hear(step, run.answer(message_id))
            first, second = cutting.answers()[before:]
            assert first[0] == second[0] == kept.sha256
            assert second[1] == bytes_of(kept)
        run.federation.hub.end_run("the test is over")
        elm.over()
    # Nothing was computed or masked twice, so the sum is right, and the ledger has each sending.
    assert attempt.total["weight"] == [records_trained(tmp_path)]
    kinds = [row["kind"] for row in rows_of(elm, run)]
    assert kinds == [kind for kind in ["masking", "masking", "summed-update", "masking", "unmasking"] for _ in "ab"]
    assert rounds_paid(elm, run) == 1


def test_a_client_that_starts_again_sends_the_answer_that_was_kept_and_has_no_keys_any_more(
    run: Run, tmp_path: Path
) -> None:
    with Line(run.operator.port) as line:
        elm, cutting = elm_of(run, tmp_path, port=line.port), Cutting(line)
        made = masked(run, elm, WITHOUT_NOISE)
        run.offer(made.contract)
        reconnect(elm, cutting)
        attempt, cutting.is_armed = made.attempt("train"), True
        message_id = attempt.ask(PARAMS)
        elm.over()
        kept = Spool(elm.home.path / "spool").find(message_id)
        assert kept is not None
        again, capture = elm_of(run, tmp_path), Cutting(line)
        reconnect(again, capture)
        attempt.hear(PARAMS, run.answer(message_id))
        assert capture.answers() == [(kept.sha256, bytes_of(kept))]
        assert run.answer(attempt.ask(ROSTER)).error.reason == "refused: burned"
        assert made.round("train", round=2)["update"].any()  # the next round is like any other
        run.federation.hub.end_run("the test is over")
        again.over()


# -- what the ledger says


def records_trained(tmp_path: Path) -> int:
    """Cleveland's patients without the hold-out."""
    return len(own_site(WITHOUT_NOISE, DataSource(str(tmp_path / "data.csv"), None), "elm").train)


ALWAYS_MASKING = "always: keys, shares, signatures and masked zeros, which hold nothing of the data"
ALWAYS_UNMASKING = "always: shares that unmask the sum of a cohort above the threshold, once in a round"


def rows_of(elm: Institution, run: Run) -> list[dict[str, Any]]:
    """What left in answers to instructions."""
    return [row for row in left(elm, run) if row["kind"] != "connection"]


def around(kind: str, rule: str) -> list[tuple[str, str]]:
    """The kinds and rules of a round's five answers, whose third is this."""
    masking = "masking", ALWAYS_MASKING
    return [masking, masking, (kind, rule), masking, ("unmasking", ALWAYS_UNMASKING)]


@pytest.mark.parametrize(
    ("asked", "kind", "is_covered"),
    [
        (PRIVATE, "noised-update", True),
        (SHARED_NOISE, "shared-noise-update", True),
        (WITHOUT_NOISE, "summed-update", False),
    ],
    ids=["own noise", "shared noise", "no noise"],
)
def test_the_ledger_has_each_step_of_a_masked_round_with_its_kind_rule_and_epsilon(
    run: Run, elm: Institution, asked: Any, kind: str, is_covered: bool
) -> None:
    made = masked(run, elm, asked)
    made.offer(elm)
    made.round("train")
    spent = elm.ledger.epsilon_after(str(run.run_id))
    total = made.round("evaluate")
    assert int(total["counting"][0]) == 1
    assert 0 < int(np.sum(total["scores"])) < CLEVELAND
    run.federation.hub.end_run("the test is over")
    elm.over()
    rows = rows_of(elm, run)
    expected = [*around(kind, f"policy.may_leave: {kind}"), *around("summed-counts", "policy.may_leave: summed-counts")]
    assert [(row["kind"], row["rule"]) for row in rows] == expected
    assert {row["round"] for row in rows} == {1}
    if is_covered:
        assert spent is not None
        assert 0 < spent < 1
        assert [row["epsilon"] for row in rows] == [*[spent] * 7, None, *[spent] * 2]
        assert elm.ledger.spent("heart", "record").uncovered == 1
    else:
        assert [row["epsilon"] for row in rows] == [None] * 10
    assert sum(row["bytes"] for row in left(elm, run)) == elm.agent.standing.sent_bytes


def test_where_counts_may_not_leave_zeros_take_their_place_and_nothing_is_declined(run: Run, tmp_path: Path) -> None:
    elm = elm_of(run, tmp_path, STRICT)
    made = masked(run, elm, PRIVATE)
    made.offer(elm)
    made.round("train")
    total = made.round("evaluate")
    run.federation.hub.end_run("the test is over")
    elm.over()
    assert [int(np.sum(total[name])) for name in ("scores", "loss", "counting")] == [0, 0, 0]
    evaluated = rows_of(elm, run)[5:]
    assert [(row["kind"], row["rule"]) for row in evaluated] == around("masking", ALWAYS_MASKING)
    assert elm.ledger.spent("heart", "record").uncovered == 0


@pytest.mark.parametrize(
    ("asked", "kind"), [(NOISED, "noised-counts"), (SHARED_EVALUATION, "shared-noise-counts")], ids=["own", "shared"]
)
def test_noised_counts_are_paid_for_by_who_is_held_out(run: Run, elm: Institution, asked: Terms, kind: str) -> None:
    made = masked(run, elm, asked)
    made.offer(elm)
    total = made.round("evaluate")
    assert set(total) == {"decisions", "counting"}
    assert int(total["counting"][0]) == 1
    rows = rows_of(elm, run)
    assert [(row["kind"], row["rule"]) for row in rows] == around(kind, f"policy.may_leave: {kind}")
    held_out, trained_on = (elm.ledger.spent("heart", "record", part) for part in (HELD_OUT, TRAINED_ON))
    assert 0 < rows[2]["epsilon"] < 1.0
    assert (held_out.rounds, trained_on.rounds, held_out.uncovered) == (1, 0, 0)
    again = made.attempt("evaluate", number=2)
    assert run.answer(again.ask(PARAMS)).error.reason == "BudgetSpent"
    assert elm.ledger.spent("heart", "record", HELD_OUT).rounds == 1
    run.federation.hub.end_run("the test is over")
    elm.over()


def test_where_noised_counts_may_not_leave_the_others_still_get_the_noise(run: Run, tmp_path: Path) -> None:
    elm = elm_of(run, tmp_path, STRICT)
    made = masked(run, elm, NOISED)
    made.offer(elm)
    total = made.round("evaluate")
    run.federation.hub.end_run("the test is over")
    elm.over()
    assert int(total["counting"][0]) == 0
    assert np.any(total["decisions"])
    assert [(row["kind"], row["rule"]) for row in rows_of(elm, run)] == around("masking", ALWAYS_MASKING)
    assert elm.ledger.spent("heart", "record", HELD_OUT).rounds == 0
