"""An institution's energy: told by its policy alone, in its ledger first, kept by round and phase."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from agreed import Run, arrays_of, begun, institution, left
from federations import policy_text
from lepton_server.energy import OfRun
from masked import masked
from peers import joined
from proposals import SUMMED, terms
from served import until
from test_what_leaves import write_canaries

from lepton_fl.energy import lines
from lepton_fl.energy.settings import Energy as Settings
from lepton_fl.energy.spent import Spent, coarse
from lepton_fl.federation.metered import OPERATOR
from lepton_fl.link.energy_frame import Told, to_wire
from lepton_fl.v1.federation_pb2 import ClientFrame, Energy

CAP = "budget: {unit: record, epsilon: 100.0, delta: 1.0e-4}"
TELLS = policy_text(CAP, "may_leave: [noised-update, exact-counts, energy]")
SETTINGS = Settings(20.0, 1.0, None, None, None, None, 2)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with begun(tmp_path) as made:
        made.federation.hub.energy.begin(OfRun(made.run_id, 2, tmp_path / "out", SETTINGS), is_new=True)
        yield made


def test_it_is_told_before_each_answer_and_is_in_the_ledger_to_the_byte(run: Run, tmp_path: Path) -> None:
    write_canaries(tmp_path / "data.csv")
    elm = institution(run.member, tmp_path / "elm", tmp_path / "data.csv", run.operator.port, TELLS)
    contract = run.contract(terms())
    run.offer(contract)
    elm.connect()
    until(lambda: "elm" in run.federation.hub.consent.accepted)
    for round in (1, 2):
        for kind in ("train", "evaluate"):
            run.answer(run.ask(kind, contract, arrays_of(terms()), {"server-round": round}))
    run.federation.hub.energy.end()
    told = lines.read(tmp_path / "out")
    phases = {(line.round, line.phase) for line in told if line.institution == "elm"}
    assert {(round, phase) for round in (1, 2) for phase in ("train", "evaluate", "communicate")} <= phases
    training = next(line for line in told if (line.institution, line.round, line.phase) == ("elm", 1, "train"))
    # Declared by the institution's policy, 65 W, for as long as it was busy.
    assert training.spent.total.tier in ("measured", "modelled")
    assert training.spent.wall_s == coarse(training.spent.wall_s) > 0
    assert any(line.institution == OPERATOR for line in told)
    run.federation.hub.end_run("the test is over")
    elm.over()
    rows = left(elm, run)
    kinds = [row["kind"] for row in rows if row["kind"] != "connection"]
    assert kinds == ["energy", "noised-update", "energy", "exact-counts"] * 2
    assert {row["rule"] for row in rows if row["kind"] == "energy"} == {"policy.may_leave: energy"}
    assert {row["epsilon"] for row in rows if row["kind"] == "energy"} == {None}
    assert sum(row["bytes"] for row in rows) == elm.agent.standing.sent_bytes


def test_of_a_masked_round_it_is_told_once_before_the_last_answer(run: Run, tmp_path: Path) -> None:
    write_canaries(tmp_path / "data.csv")
    policy = policy_text(CAP, "may_leave: [noised-update, energy]")
    elm = institution(run.member, tmp_path / "elm", tmp_path / "data.csv", run.operator.port, policy)
    made = masked(run, elm, terms(**SUMMED, rounds=2))
    made.offer(elm)
    made.round("train")
    told = run.federation.hub.energy.lines()
    run.federation.hub.end_run("the test is over")
    elm.over()
    kinds = [row["kind"] for row in left(elm, run) if row["kind"] != "connection"]
    assert kinds == ["masking", "masking", "noised-update", "masking", "energy", "unmasking"]
    (training,) = [line for line in told if (line.institution, line.phase) == ("elm", "train")]
    assert (training.round, training.spent.cpu_s > 0) == (1, True)
    (moved,) = [line for line in told if (line.institution, line.phase) == ("elm", "communicate")]
    assert min(moved.spent.bytes_up, moved.spent.bytes_down) > 1000


def test_without_the_policys_word_nothing_is_told(run: Run, tmp_path: Path) -> None:
    write_canaries(tmp_path / "data.csv")
    elm = institution(run.member, tmp_path / "elm", tmp_path / "data.csv", run.operator.port, policy_text(CAP))
    contract = run.contract(terms())
    run.offer(contract)
    elm.connect()
    until(lambda: "elm" in run.federation.hub.consent.accepted)
    run.answer(run.ask("train", contract, arrays_of(terms())))
    run.federation.hub.end_run("the test is over")
    elm.over()
    assert "energy" not in {row["kind"] for row in left(elm, run)}
    assert {line.institution for line in run.federation.hub.energy.lines()} == {OPERATOR}


def test_of_whoever_did_not_agree_nothing_is_kept_and_nonsense_ends_the_stream(run: Run) -> None:
    run.offer(run.contract(terms()))
    told = to_wire(Told(run.run_id, 1, {"train": Spent(1.0, 1.0, {})}))
    with joined(run.member, run.operator.port) as peer:
        peer.send(ClientFrame(energy=told), ClientFrame(energy=Energy(run_id=run.run_id)))
        assert "energy is told of phases that there are not" in peer.ending().detail
    assert {line.institution for line in run.federation.hub.energy.lines()} == {OPERATOR}
