"""The same seed gives the same model; without one, nobody can repeat it; and the claim says which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compositions import sim_config
from proposals import EXACTLY
from safetensors import safe_open
from safetensors.numpy import load_file
from voices import Quiet

from lepton_fl.federation.journal import NoJournal, Progress
from lepton_fl.federation.replies import Expected
from lepton_fl.federation.rounds import Rounds, Run
from lepton_fl.flower import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict, enter_run
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.results.folder import Folder
from lepton_fl.results.terminal import JsonVoice, PlainVoice
from lepton_fl.run import Names
from lepton_fl.simulation import Plan, plan, simulate
from lepton_fl.strategies.averaging import FedAvg, FedAvgM
from lepton_fl.strategies.strategy import WEIGHT_KEY, Federation, Strategy

ROUNDS = 2
NAMES = Names("heart", "logistic", "fedavg")


def planned(*overrides: str) -> Plan:
    shared = [f"rounds={ROUNDS}", "training.sampling_rate=0.5", "training.local_steps=2", "seed=5"]
    return plan(sim_config(*shared, *overrides), NAMES)


@pytest.fixture(scope="module")
def seeded() -> dict[str, Plan]:
    """One plan for each privacy, calibrated once."""
    return {privacy: planned(f"privacy={privacy}", "model=mlp") for privacy in ("none", "record")}


@pytest.fixture(scope="module")
def plain() -> dict[str, Plan]:
    """As `seeded`, where the operator sees each update."""
    off = ("model=mlp", "secure_aggregation=off")
    return {privacy: planned(f"privacy={privacy}", *off) for privacy in ("none", "record")}


def unseeded(base: Plan) -> Plan:
    """The same plan, drawing from the operating system."""
    run = replace(
        base.run,
        terms=replace(base.run.terms, seed=None),
        facts=replace(base.run.facts, claim=replace(base.run.facts.claim, seed=None)),
        program=replace(base.run.program, randomness=Randomness(None)),
    )
    return replace(base, run=run)


def sha256(one: Plan, folder: Path) -> str:
    return simulate(one, Folder(folder), Quiet()).model_sha256


@pytest.mark.parametrize("privacy", ["none", "record"])
def test_the_same_seed_gives_the_same_model_bit_for_bit(privacy: str, seeded: dict[str, Plan], tmp_path: Path) -> None:
    first = sha256(seeded[privacy], tmp_path / "first")
    again = sha256(seeded[privacy], tmp_path / "again")
    assert first == again


def test_the_same_seed_plans_the_same_start(tmp_path: Path) -> None:
    one, two = (planned("privacy=none", "model=mlp") for _ in range(2))
    assert sha256(one, tmp_path / "one") == sha256(two, tmp_path / "two")


def test_one_plan_can_be_simulated_twice_with_the_same_result(seeded: dict[str, Plan], tmp_path: Path) -> None:
    one = seeded["none"]
    assert sha256(one, tmp_path / "first") == sha256(one, tmp_path / "again")


@pytest.mark.parametrize("strategy", ["fedadam", "fedavgm"])
def test_one_plan_of_a_strategy_with_memory_can_be_simulated_twice(strategy: str, tmp_path: Path) -> None:
    one = planned("privacy=none", f"strategy={strategy}")
    assert sha256(one, tmp_path / "first") == sha256(one, tmp_path / "again")


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    hashes = {sha256(planned("privacy=none", f"seed={seed}"), tmp_path / str(seed)) for seed in (1, 2)}
    assert len(hashes) == 2


def test_a_run_neither_uses_nor_moves_the_global_generators_of_torch(seeded: dict[str, Plan], tmp_path: Path) -> None:
    import torch

    before = torch.random.get_rng_state()
    first = sha256(seeded["record"], tmp_path / "first")
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(7)
    np.random.default_rng(0)
    assert sha256(seeded["record"], tmp_path / "again") == first


@pytest.mark.parametrize("privacy", [pytest.param("none", marks=pytest.mark.slow), "record"])
@pytest.mark.parametrize("cohort_size", [pytest.param(4, marks=pytest.mark.slow), 2])
def test_the_order_of_the_institutions_changes_nothing(
    privacy: str, cohort_size: int, plain: dict[str, Plan], tmp_path: Path
) -> None:
    base = plain[privacy]
    base = replace(base, run=replace(base.run, federation=Federation(4, cohort_size, 0.5)))
    reversed_sites = replace(base.loaded, sites=base.loaded.sites[::-1])
    backwards = tuple(reversed(base.run.facts.institutions))
    run = replace(base.run, facts=replace(base.run.facts, institutions=backwards))
    other = replace(base, loaded=reversed_sites, run=run)
    sha256(base, tmp_path / "one")
    sha256(other, tmp_path / "other")
    one = load_file(tmp_path / "one" / "model.safetensors")
    two = load_file(tmp_path / "other" / "model.safetensors")
    assert list(one) == list(two)
    assert all(np.allclose(one[name], two[name], rtol=1e-5, atol=1e-7) for name in one)


def test_the_order_of_the_institutions_changes_no_bit_of_a_sum(seeded: dict[str, Plan], tmp_path: Path) -> None:
    """Whole numbers are added up, and each institution rounds with coins of its own."""
    base = seeded["none"]
    facts = replace(base.run.facts, institutions=tuple(reversed(base.run.facts.institutions)))
    other = replace(
        base, loaded=replace(base.loaded, sites=base.loaded.sites[::-1]), run=replace(base.run, facts=facts)
    )
    assert sha256(base, tmp_path / "one") == sha256(other, tmp_path / "other")


@pytest.mark.parametrize("privacy", [pytest.param("none", marks=pytest.mark.slow), "record"])
def test_a_sum_is_the_mean_that_the_operator_would_make_to_within_the_rounding(
    privacy: str, seeded: dict[str, Plan], plain: dict[str, Plan], tmp_path: Path
) -> None:
    """A step of the quantiser is 8 / (2^21 - 1); two rounds of four institutions add at most a few."""
    sha256(seeded[privacy], tmp_path / "summed")
    sha256(plain[privacy], tmp_path / "plain")
    summed = load_file(tmp_path / "summed" / "model.safetensors")
    mean = load_file(tmp_path / "plain" / "model.safetensors")
    assert [*summed] == [*mean]
    assert max(np.abs(summed[name] - mean[name]).max() for name in mean) < 1e-4
    assert max(np.abs(mean[name]).max() for name in mean) > 1e-2


def test_without_a_seed_two_private_runs_differ(seeded: dict[str, Plan], tmp_path: Path) -> None:
    base = unseeded(seeded["record"])
    assert sha256(base, tmp_path / "one") != sha256(base, tmp_path / "two")


# What a run says about itself.


def metadata(folder: Path) -> dict[str, str]:
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        return dict(file.metadata())


def written(one: Plan, folder: Path) -> tuple[dict[str, object], list[dict[str, object]], dict[str, str]]:
    simulate(one, Folder(folder), Quiet())
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return json.loads((folder / "result.json").read_text()), rounds, metadata(folder)


Files = tuple[dict[str, object], list[dict[str, object]], dict[str, str]]


@pytest.fixture(scope="module")
def files(seeded: dict[str, Plan], tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What a seeded run with privacy=record wrote."""
    return written(seeded["record"], tmp_path_factory.mktemp("seeded"))


def test_a_seeded_run_is_labelled_not_private_in_every_file(files: Files) -> None:
    result, rounds, labels = files
    assert result["private"] is False
    assert result["epsilon"] is None
    assert "seed=5" in str(result["not_private_because"])
    assert result["seed"] == 5
    assert [line["private"] for line in rounds] == [False] * ROUNDS
    assert [line["epsilon"] for line in rounds] == [None] * ROUNDS
    assert "seed=5" in labels["privacy"]


def test_a_seeded_run_still_tells_what_it_would_cost_without_the_seed(files: Files) -> None:
    result, rounds, _ = files
    spent = [float(str(line["epsilon_without_seed"])) for line in rounds]
    assert spent == sorted(spent)
    assert 0 < spent[0] < spent[-1] <= 1.0
    assert result["epsilon_without_seed"] == spent[-1]


def test_an_unseeded_private_run_is_labelled_private_in_every_file(seeded: dict[str, Plan], tmp_path: Path) -> None:
    result, rounds, labels = written(unseeded(seeded["record"]), tmp_path)
    assert result["private"] is True
    assert result["not_private_because"] is None
    assert 0 < float(str(result["epsilon"])) <= 1.0
    assert [line["private"] for line in rounds] == [True] * ROUNDS
    assert labels["privacy"] == "private"


@pytest.mark.parametrize("seed", [5, None])
def test_a_run_without_privacy_is_never_labelled_private(
    seed: int | None, seeded: dict[str, Plan], tmp_path: Path
) -> None:
    base = seeded["none"] if seed else unseeded(seeded["none"])
    result, rounds, labels = written(base, tmp_path)
    assert (result["private"], result["epsilon"], result["unit"]) == (False, None, "none")
    assert [line["private"] for line in rounds] == [False] * ROUNDS
    assert "privacy=none" in labels["privacy"]


def test_a_seeded_run_says_on_the_terminal_that_it_is_not_private(
    seeded: dict[str, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voice = PlainVoice()
    voice.finished(simulate(seeded["record"], Folder(tmp_path), voice), "out")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("NOT PRIVATE") and "seed=5" in line]
    rounds = [line for line in lines if line.startswith("round ")]
    assert len(rounds) == ROUNDS
    assert all("not private" in line and "epsilon" not in line for line in rounds)
    assert all("not private" in line for line in lines if line.startswith("result"))


def test_a_seeded_run_says_in_its_json_log_that_it_is_not_private(
    seeded: dict[str, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voice = JsonVoice()
    voice.finished(simulate(seeded["record"], Folder(tmp_path), voice), "out")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["started", *["round"] * ROUNDS, "finished"]
    assert [event["private"] for event in events] == [False] * len(events)
    assert [event["epsilon"] for event in events] == [None] * len(events)


# The checks change no number: Flower's strategy alone, and numpy by hand, give the same aggregate.

MODELS = [np.array([0.1, -2.0, 3.3], dtype=np.float32) * scale for scale in (1.0, 2.5, -0.7)]
WEIGHTS = [7, 11, 2]
START = ArrayRecord({"w": Array(np.array([0.5, 0.5, 0.5], dtype=np.float32))})


class Three:
    """What a strategy asks of a grid when it chooses whom to ask."""

    @staticmethod
    def get_node_ids() -> list[int]:
        return [1, 2, 3]


def replies() -> list[Message]:
    out = []
    for node, (model, weight) in enumerate(zip(MODELS, WEIGHTS, strict=True), start=1):
        content = RecordDict(
            {"arrays": ArrayRecord({"w": Array(model)}), "metrics": MetricRecord({WEIGHT_KEY: weight})}
        )
        asked = Message(RecordDict(), dst_node_id=node, message_type="train")
        out.append(Message(content, reply_to=asked))
    return out


def wrapped(chosen: Strategy) -> Rounds:
    names = {1: "a", 2: "b", 3: "c"}
    expected = Expected({"w": (3,)}, EXACTLY, 1000, 1000, with_loss=False)
    inner = chosen.build(Federation(3, 3, 0.1), is_summed=False)
    return Rounds(
        inner,
        Run(names, expected, NoJournal(Randomness(1)), None, lambda report: None, 1, None),
        Progress(ArrayRecord()),
    )


@pytest.mark.parametrize("chosen", [FedAvg(), FedAvgM(server_learning_rate=0.5, server_momentum=0.9)])
def test_the_checks_change_no_number_of_an_aggregate(chosen: Strategy) -> None:
    enter_run(1)
    alone, rounds = chosen.build(Federation(3, 3, 0.1), is_summed=False), wrapped(chosen)
    aggregates = []
    for strategy in (alone, rounds):
        list(strategy.configure_train(1, START.copy(), ConfigRecord(), Three()))  # type: ignore[arg-type]
        arrays, _ = strategy.aggregate_train(1, replies())
        assert arrays is not None
        aggregates.append(arrays["w"].numpy())
    assert np.array_equal(aggregates[0].astype(np.float32), aggregates[1])


def test_fedavg_is_the_weighted_mean_that_numpy_computes() -> None:
    enter_run(1)
    rounds = wrapped(FedAvg())
    list(rounds.configure_train(1, START.copy(), ConfigRecord(), Three()))  # type: ignore[arg-type]
    arrays, _ = rounds.aggregate_train(1, replies())
    assert arrays is not None
    by_hand = np.average(np.stack(MODELS).astype(np.float64), axis=0, weights=WEIGHTS)
    assert np.allclose(arrays["w"].numpy(), by_hand, rtol=1e-6, atol=1e-7)
