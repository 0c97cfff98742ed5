"""Every strategy in the table trains, keeps the model's form, and refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from compositions import sim_config
from proposals import EXACTLY
from safetensors.numpy import load_file
from voices import Quiet

from lepton_fl.config import config_dir
from lepton_fl.errors import ConfigError, TrainingFailed
from lepton_fl.federation.arrays import template_of
from lepton_fl.federation.journal import NoJournal, Progress
from lepton_fl.federation.replies import Expected
from lepton_fl.federation.rounds import Rounds, Run
from lepton_fl.federation.summed import sums_of
from lepton_fl.flower import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict, enter_run
from lepton_fl.flower import strategies as flower
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.results.folder import Folder
from lepton_fl.run import Names
from lepton_fl.simulation import Plan, SimConfig, plan, simulate
from lepton_fl.strategies import TABLE
from lepton_fl.strategies.averaging import FedAvg, FedAvgM, FedProx, QFedAvg
from lepton_fl.strategies.robust import Bulyan, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from lepton_fl.strategies.strategy import SUMMABLE as SAID_TO_BE_SUMMABLE
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, WEIGHT_KEY, Federation, Strategy

ROUNDS = 2
NEEDS_LOSS = {"afl", "qfedavg"}
OWN = {"afl"}  # Flower has no such class: institutions weigh themselves, and its FedAvg takes the mean


def settings(*overrides: str) -> SimConfig:
    return sim_config(f"rounds={ROUNDS}", "seed=1", "evaluation=exact", "evaluation.every=1", *overrides)


def strategy(name: str, *overrides: str) -> Strategy:
    return settings(f"strategy={name}", *overrides).strategy


@pytest.fixture(scope="module")
def plans() -> dict[tuple[str, str], Plan]:
    """One plan for each privacy, with and without secure aggregation; the noise does not depend on the strategy."""
    names = Names("heart", "logistic", "fedavg")
    return {
        (privacy, summed): plan(settings(f"privacy={privacy}", f"secure_aggregation={summed}"), names)
        for privacy in ("none", "record")
        for summed in ("on", "off")
    }


def with_strategy(base: Plan, name: str) -> Plan:
    """The same plan for another strategy, with a model that nobody has trained yet."""
    run = base.run
    terms = replace(run.terms, strategy=strategy(name))
    sums = sums_of(terms, run.program, len(run.facts.institutions)) if terms.is_summed else None
    return replace(base, run=replace(run, terms=terms, facts=replace(run.facts, strategy=name), sums=sums))


SUMMABLE = {"afl", "fedadagrad", "fedadam", "fedavg", "fedavgm", "fedprox", "fedyogi", "qfedavg"}
CHOICES = [
    (name, privacy, summed)
    for name in sorted(TABLE)
    for privacy in (("none",) if name in NEEDS_LOSS else ("none", "record"))
    for summed in (("on", "off") if name in SUMMABLE and privacy == "none" else ("on" if name in SUMMABLE else "off",))
]


@pytest.mark.parametrize(("name", "privacy", "summed"), CHOICES)
def test_a_strategy_trains_and_keeps_the_models_form(
    name: str, privacy: str, summed: str, plans: dict[tuple[str, str], Plan], tmp_path: Path
) -> None:
    planned = with_strategy(plans[privacy, summed], name)
    template = template_of(planned.run.program.model)

    outcome = simulate(planned, Folder(tmp_path), Quiet())

    trained = load_file(tmp_path / "model.safetensors")
    assert {key: value.shape for key, value in trained.items()} == dict(template)
    assert {value.dtype for value in trained.values()} == {np.dtype(np.float32)}
    assert [report.round for report in outcome.reports] == list(range(1, ROUNDS + 1))
    assert all(report.replied == report.cohort and not report.refused for report in outcome.reports)
    # Logistic regression starts at zero, where every score is the same and the AUC is one half.
    pooled = outcome.reports[-1].metrics
    assert pooled is not None
    assert pooled.auc is not None
    assert pooled.auc > 0.75


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_strategies_that_secure_aggregation_can_sum_are_those_that_it_says(name: str) -> None:
    assert strategy(name).has_sum_form == (name in SUMMABLE) == (name in SAID_TO_BE_SUMMABLE.split(", "))


@pytest.mark.parametrize("name", sorted({*TABLE} - SUMMABLE))
def test_a_strategy_that_compares_single_updates_is_refused_before_anything_is_trained(name: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        plan(settings(f"strategy={name}", "privacy=none"), Names("heart", "logistic", name))
    assert str(refusal.value) == (
        "this strategy compares single updates, and secure aggregation shows only their sum; nothing was trained; "
        "choose one of afl, fedadagrad, fedadam, fedavg, fedavgm, fedprox, fedyogi, qfedavg, or secure_aggregation=off "
        "where every policy allows it"
    )


@pytest.mark.parametrize(
    ("name", "built_as"), [(name, "FedAvg" if name in NEEDS_LOSS else None) for name in sorted(SUMMABLE)]
)
def test_a_strategy_of_sums_is_flowers_own_but_where_the_sums_hold_its_step(name: str, built_as: str | None) -> None:
    built = strategy(name).build(Federation(8, 8, 0.5), is_summed=True)
    assert type(built).__name__ == (built_as or TABLE[name].partition(":")[2])


@pytest.mark.parametrize("name", sorted(NEEDS_LOSS))
def test_an_exact_loss_strategy_is_refused_under_privacy(name: str) -> None:
    with pytest.raises(ConfigError, match="exact training loss"):
        plan(settings(f"strategy={name}", "privacy=record"), Names("heart", "logistic", name))


def test_a_plan_refuses_a_strategy_that_the_cohort_is_too_small_for() -> None:
    config = settings("strategy=krum", "strategy.num_malicious_nodes=1", "privacy=none", "secure_aggregation=off")
    with pytest.raises(ConfigError, match="num_malicious_nodes"):
        plan(config, Names("heart", "logistic", "krum"))


def test_the_table_and_the_yaml_files_name_the_same_strategies() -> None:
    assert {path.stem for path in (config_dir() / "strategy").glob("*.yaml")} == set(TABLE)


@pytest.mark.parametrize("name", sorted({*TABLE} - OWN))
def test_a_strategy_builds_flowers_class_of_its_name(name: str) -> None:
    built = strategy(name).build(Federation(institutions=8, cohort_size=8, client_learning_rate=0.5), is_summed=False)
    class_name = TABLE[name].partition(":")[2]
    assert type(built) is getattr(flower, class_name)
    assert class_name.lower() == name


@pytest.mark.parametrize("name", sorted({*TABLE} - OWN))
def test_every_setting_reaches_flower(name: str) -> None:
    chosen = strategy(name)
    built = strategy(name).build(Federation(institutions=8, cohort_size=6, client_learning_rate=0.25), is_summed=False)
    flowers_name = {"server_learning_rate": "eta"} if hasattr(built, "eta") else {}
    for field_name, value in vars(chosen).items():
        assert getattr(built, flowers_name.get(field_name, field_name)) == value
    assert built.min_train_nodes == 6
    assert built.min_evaluate_nodes == built.min_available_nodes == 8
    assert built.fraction_train == 0.75
    assert built.weighted_by_key == WEIGHT_KEY
    if name == "qfedavg":
        assert (built.client_learning_rate, built.train_loss_key) == (0.25, TRAIN_LOSS_KEY)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("fedprox", "proximal_mu", "-0.1"),
        ("fedprox", "proximal_mu", "nan"),
        ("fedprox", "proximal_mu", "inf"),
        ("fedavgm", "server_learning_rate", "0"),
        ("fedavgm", "server_learning_rate", "inf"),
        ("fedavgm", "server_momentum", "1.0"),
        ("fedavgm", "server_momentum", "-0.1"),
        ("afl", "step", "-1"),
        ("afl", "most", "5"),
        ("qfedavg", "q", "-1"),
        ("qfedavg", "q", "inf"),
        ("fedadagrad", "server_learning_rate", "-1"),
        ("fedadagrad", "tau", "0"),
        ("fedadagrad", "tau", "inf"),
        ("fedadam", "beta_1", "1.0"),
        ("fedadam", "beta_2", "-0.5"),
        ("fedadam", "tau", "nan"),
        ("fedyogi", "beta_1", "-0.1"),
        ("fedyogi", "beta_2", "1"),
        ("fedyogi", "server_learning_rate", "0"),
        ("fedtrimmedavg", "beta", "0.5"),
        ("fedtrimmedavg", "beta", "-0.1"),
        ("krum", "num_malicious_nodes", "-1"),
        ("multikrum", "num_malicious_nodes", "-1"),
        ("multikrum", "num_nodes_to_select", "0"),
        ("bulyan", "num_malicious_nodes", "-1"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        settings(f"strategy={name}", "privacy=none", f"strategy.{setting}={value}")


@pytest.mark.parametrize(
    ("too_demanding", "cohort", "least"),
    [
        (Krum(num_malicious_nodes=0), 2, 3),
        (Krum(num_malicious_nodes=1), 4, 5),
        (MultiKrum(num_malicious_nodes=2, num_nodes_to_select=1), 6, 7),
        (Bulyan(num_malicious_nodes=1), 6, 7),
    ],
)
def test_a_cohort_below_the_papers_bound_is_refused(too_demanding: Strategy, cohort: int, least: int) -> None:
    with pytest.raises(ConfigError, match=rf"num_malicious_nodes.* {cohort} take part") as refusal:
        too_demanding.build(Federation(institutions=12, cohort_size=cohort, client_learning_rate=0.1), is_summed=False)
    assert f"= {least} " in str(refusal.value)
    too_demanding.build(Federation(institutions=12, cohort_size=least, client_learning_rate=0.1), is_summed=False)


def test_multikrum_does_not_average_more_models_than_are_honest() -> None:
    federation = Federation(institutions=5, cohort_size=5, client_learning_rate=0.1)
    with pytest.raises(ConfigError, match="num_nodes_to_select must be at most 4 and finite, got 5"):
        MultiKrum(num_malicious_nodes=1, num_nodes_to_select=5).build(federation, is_summed=False)
    MultiKrum(num_malicious_nodes=1, num_nodes_to_select=4).build(federation, is_summed=False)


@pytest.mark.parametrize("cohort", range(3, 13))
def test_a_trimmed_mean_that_cuts_nobody_is_refused_with_a_share_that_would_do(cohort: int) -> None:
    federation = Federation(institutions=cohort, cohort_size=cohort, client_learning_rate=0.1)
    with pytest.raises(ConfigError, match=r"strategy\.beta 0\.01 .* cuts off nobody") as refusal:
        FedTrimmedAvg(beta=0.01).build(federation, is_summed=False)
    advised = float(str(refusal.value).rpartition(" ")[2])
    FedTrimmedAvg(beta=advised).build(federation, is_summed=False)


def test_a_cohort_of_two_is_not_told_to_trim_an_impossible_share() -> None:
    with pytest.raises(ConfigError, match="cuts off nobody") as refusal:
        FedTrimmedAvg(beta=0.4).build(
            Federation(institutions=2, cohort_size=2, client_learning_rate=0.1), is_summed=False
        )
    assert "0.5" not in str(refusal.value)


# Hand-made replies: a model of two numbers, honest institutions near (1, -1).

HONEST = np.array([1.0, -1.0], dtype=np.float32)


def replies(updates: Sequence[Sequence[float]], weights: Sequence[float] | None = None) -> list[Message]:
    """Institutions 1, 2, ... answer a round with these models."""
    enter_run(1)
    out = []
    for node, (values, weight) in enumerate(zip(updates, weights or [1] * len(updates), strict=True), start=1):
        asked = Message(RecordDict(), dst_node_id=node, message_type="train")
        arrays = ArrayRecord({"weight": Array(np.array(values, dtype=np.float32))})
        metrics = MetricRecord({WEIGHT_KEY: weight, TRAIN_LOSS_KEY: 0.5})
        out.append(Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=asked))
    return out


@dataclass
class Nodes:
    """What a strategy asks of a grid when it chooses whom to ask."""

    count: int
    sent: list[Message] = field(default_factory=list)

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.count + 1))


def rounds_of(chosen: Strategy, institutions: int, start: Sequence[float] = (0.0, 0.0)) -> Rounds:
    """Rounds in which the first round's cohort was asked."""
    enter_run(1)
    names = {node: f"hospital-{node}" for node in range(1, institutions + 1)}
    expected = Expected({"weight": (2,)}, EXACTLY, 1000, 1000, chosen.needs_exact_loss)
    inner = chosen.build(Federation(institutions, institutions, 0.1), is_summed=False)
    run = Run(names, expected, NoJournal(Randomness(1)), None, lambda report: None, chosen.least_replies, None)
    rounds = Rounds(inner, run, Progress(ArrayRecord()))
    arrays = ArrayRecord({"weight": Array(np.array(start, dtype=np.float32))})
    list(rounds.configure_train(1, arrays, ConfigRecord(), Nodes(institutions)))  # type: ignore[arg-type]
    return rounds


ROBUST = [
    (FedMedian(), 5),
    (FedTrimmedAvg(beta=0.2), 5),
    (Krum(num_malicious_nodes=1), 5),
    (MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3), 5),
    (Bulyan(num_malicious_nodes=1), 7),
]


def crowd(institutions: int, hostile: Sequence[float]) -> list[list[float]]:
    """All but one near (1, -1); the hostile one in the middle."""
    honest = [[1 + 0.01 * k, -1 - 0.01 * k] for k in range(institutions - 1)]
    return [*honest[:2], list(hostile), *honest[2:]]


@pytest.mark.parametrize("hostile", [(1e6, -1e6), (-50.0, 50.0), (9e5, 9e5)])
@pytest.mark.parametrize(("chosen", "institutions"), ROBUST)
def test_a_robust_strategy_withstands_one_hostile_institution(
    chosen: Strategy, institutions: int, hostile: tuple[float, float]
) -> None:
    arrays, _ = rounds_of(chosen, institutions).aggregate_train(1, replies(crowd(institutions, hostile)))
    assert arrays is not None
    assert np.allclose(arrays["weight"].numpy(), HONEST, atol=0.1)


@pytest.mark.parametrize("hostile", [(1e18, 1e18), (1e30, 1e30), (3e38, -3e38)])
@pytest.mark.parametrize(("chosen", "institutions"), ROBUST)
def test_an_update_whose_square_would_overflow_is_left_out_and_the_others_suffice(
    chosen: Strategy, institutions: int, hostile: tuple[float, float]
) -> None:
    arrays, _ = rounds_of(chosen, institutions + 1).aggregate_train(1, replies(crowd(institutions + 1, hostile)))
    assert arrays is not None
    assert np.allclose(arrays["weight"].numpy(), HONEST, atol=0.1)


@pytest.mark.parametrize("chosen", [FedAvg(), FedProx(proximal_mu=0.01)])
def test_an_average_does_not_withstand_a_hostile_institution(chosen: Strategy) -> None:
    arrays, _ = rounds_of(chosen, 5).aggregate_train(1, replies(crowd(5, (1e6, -1e6))))
    assert arrays is not None
    assert arrays["weight"].numpy()[0] == pytest.approx(2e5, rel=1e-3)


@pytest.mark.parametrize(
    ("chosen", "institutions"), [(FedTrimmedAvg(beta=0.2), 5), (Krum(num_malicious_nodes=1), 5), *ROBUST[3:]]
)
def test_lost_replies_do_not_let_the_hostile_one_in(chosen: Strategy, institutions: int) -> None:
    """What is left of a cohort must still be enough, or the round must not move the model."""
    answered = replies(crowd(institutions, (1e6, -1e6)))[2:4]
    try:
        arrays, _ = rounds_of(chosen, institutions).aggregate_train(1, answered)
    except TrainingFailed:
        return
    assert arrays is None or np.allclose(arrays["weight"].numpy(), HONEST, atol=0.1)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_round_without_a_usable_reply_leaves_the_model_alone(name: str) -> None:
    rounds = rounds_of(strategy(name), 5)
    arrays, _ = rounds.aggregate_train(1, replies([[float("nan"), 0.0]] * 5))
    assert arrays is None
    start = ArrayRecord({"weight": Array(np.zeros(2, dtype=np.float32))})
    list(rounds.configure_train(2, start, ConfigRecord(), Nodes(5)))  # type: ignore[arg-type]
    arrays, _ = rounds.aggregate_train(2, replies([[1.0, -1.0]] * 5))
    assert arrays is not None
    assert arrays["weight"].numpy().dtype == np.float32
    assert arrays["weight"].numpy()[0] > 0 > arrays["weight"].numpy()[1]


# Each paper's formula by hand, on replies of two institutions.


def test_fedavg_is_the_weighted_mean() -> None:
    arrays, _ = rounds_of(FedAvg(), 2).aggregate_train(1, replies([[1.0, 2.0], [4.0, 8.0]], weights=[1, 2]))
    assert arrays is not None
    assert arrays["weight"].numpy().tolist() == pytest.approx([3.0, 6.0], rel=1e-6)


def test_fedavgm_takes_a_step_of_the_server_learning_rate_towards_the_mean() -> None:
    chosen = FedAvgM(server_learning_rate=0.5, server_momentum=0.0)
    arrays, _ = rounds_of(chosen, 2, start=(2.0, 2.0)).aggregate_train(1, replies([[4.0, 0.0], [4.0, 0.0]]))
    assert arrays is not None
    assert arrays["weight"].numpy().tolist() == pytest.approx([3.0, 1.0])


def test_qfedavg_with_q_zero_is_the_plain_mean() -> None:
    arrays, _ = rounds_of(QFedAvg(q=0.0), 2).aggregate_train(1, replies([[1.0, 2.0], [3.0, 6.0]]))
    assert arrays is not None
    assert arrays["weight"].numpy().tolist() == pytest.approx([2.0, 4.0], rel=1e-6)


def test_a_fedprox_message_carries_mu_to_the_institutions() -> None:
    enter_run(1)
    inner = FedProx(proximal_mu=0.3).build(Federation(2, 2, 0.1), is_summed=False)
    arrays = ArrayRecord({"weight": Array(np.zeros(2, dtype=np.float32))})
    messages = list(inner.configure_train(1, arrays, ConfigRecord(), Nodes(2)))  # type: ignore[arg-type]
    assert [message.content.config_records["config"]["proximal-mu"] for message in messages] == [0.3, 0.3]
