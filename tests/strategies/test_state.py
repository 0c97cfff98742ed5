"""Every strategy goes on after a checkpoint exactly as if it had never stopped."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lepton_server.checkpoint import Checkpoints
from lepton_server.database import StoreError
from proposals import EXACTLY

from lepton_fl import strategies
from lepton_fl.config import look_up
from lepton_fl.federation.journal import NoJournal, Progress
from lepton_fl.federation.replies import Expected
from lepton_fl.federation.rounds import Rounds, Run
from lepton_fl.flower import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict, enter_run
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.strategies.state import restore, state_of
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, WEIGHT_KEY, Federation, Strategy

INSTITUTIONS, ROUNDS, STOPPED_AFTER = 7, 3, 2
# Flower works these two out reply by reply, which takes ten times as long.
_SLOW = {"bulyan", "qfedavg"}
STRATEGIES = [pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ()) for name in sorted(strategies.TABLE)]
NAMES = {node: f"hospital-{node}" for node in range(2, INSTITUTIONS + 2)}
SHAPES = {"weight": (3, 2), "bias": (2,), "scale": ()}
SETTINGS: dict[str, dict[str, Any]] = {
    "afl": {"step": 0.2, "most": 3.0},
    "bulyan": {"num_malicious_nodes": 1},
    "fedadagrad": {"server_learning_rate": 0.1, "tau": 1e-3},
    "fedadam": {"server_learning_rate": 0.1, "tau": 1e-3, "beta_1": 0.9, "beta_2": 0.99},
    "fedavgm": {"server_learning_rate": 0.7, "server_momentum": 0.9},
    "fedprox": {"proximal_mu": 0.1},
    "fedtrimmedavg": {"beta": 0.2},
    "fedyogi": {"server_learning_rate": 0.1, "tau": 1e-3, "beta_1": 0.9, "beta_2": 0.99},
    "krum": {"num_malicious_nodes": 1},
    "multikrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "qfedavg": {"q": 0.2},
}


def chosen(name: str) -> Strategy:
    made: Strategy = look_up(strategies.TABLE, name)(**SETTINGS.get(name, {}))
    return made


class Nodes:
    """As much of a Grid as sampling needs."""

    @staticmethod
    def get_node_ids() -> Sequence[int]:
        """Everybody."""
        return sorted(NAMES)

    @staticmethod
    def create_message(content: RecordDict, message_type: str, dst_node_id: int, group_id: str) -> Message:
        """See Grid."""
        return Message(content, dst_node_id, message_type, group_id=group_id)


def initial() -> ArrayRecord:
    return ArrayRecord({name: Array(np.zeros(shape, dtype=np.float32)) for name, shape in SHAPES.items()})


def rounds_of(settings: Strategy, progress: Progress) -> Rounds:
    enter_run(1)
    expected = Expected(SHAPES, EXACTLY, 1000, 1000, settings.needs_exact_loss)
    run = Run(NAMES, expected, NoJournal(Randomness(1)), None, lambda report: None, settings.least_replies, None)
    return Rounds(settings.build(Federation(INSTITUTIONS, INSTITUTIONS, 0.1), is_summed=False), run, progress)


def reply(message: Message, round: int) -> Message:
    """What an institution sends: decided by its id and the round alone."""
    node = message.metadata.dst_node_id
    generator = np.random.default_rng((node, round))
    values = {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    arrays = ArrayRecord({name: Array(value) for name, value in values.items()})
    metrics = MetricRecord({WEIGHT_KEY: node, TRAIN_LOSS_KEY: float(generator.random())})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def one_round(rounds: Rounds, counted: int, round: int) -> None:
    """Flower counts from 1 after every start; the institutions see the round's own number."""
    sent = list(rounds.configure_train(counted, rounds.arrays.copy(), ConfigRecord(), Nodes()))  # type: ignore[arg-type]
    assert {message.content.config_records["config"]["server-round"] for message in sent} == {round}
    rounds.aggregate_train(counted, [reply(message, round) for message in sent])
    rounds.configure_evaluate(counted, rounds.arrays.copy(), ConfigRecord(), Nodes())  # type: ignore[arg-type]
    rounds.aggregate_evaluate(counted, [])


def values(arrays: ArrayRecord) -> dict[str, bytes]:
    return {name: array.numpy().tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_goes_on_after_a_checkpoint_bit_for_bit(name: str, tmp_path: Path) -> None:
    straight = rounds_of(chosen(name), Progress(initial()))
    for round in range(1, ROUNDS + 1):
        one_round(straight, round, round)

    first = rounds_of(chosen(name), Progress(initial()))
    for round in range(1, STOPPED_AFTER + 1):
        one_round(first, round, round)
    checkpoints = Checkpoints(tmp_path)
    sha256 = checkpoints.write(STOPPED_AFTER, first.arrays, state_of(first._inner))
    arrays, state = checkpoints.read(STOPPED_AFTER, sha256, list(SHAPES))
    again = rounds_of(chosen(name), Progress(arrays, state, tuple(first.reports)))
    for counted, round in enumerate(range(STOPPED_AFTER + 1, ROUNDS + 1), start=1):
        one_round(again, counted, round)

    assert values(again.arrays) == values(straight.arrays)
    assert [report.round for report in again.reports] == list(range(1, ROUNDS + 1))
    assert any(np.frombuffer(value, np.float32).any() for value in values(straight.arrays).values())


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_state_holds_every_attribute_that_a_round_changes(name: str) -> None:
    rounds = rounds_of(chosen(name), Progress(initial()))
    fresh = rounds_of(chosen(name), Progress(initial()))
    for round in range(1, 3):
        one_round(rounds, round, round)
    restore(fresh._inner, state_of(rounds._inner))
    fresh.configure_train(3, rounds.arrays.copy(), ConfigRecord(), Nodes())  # type: ignore[arg-type]
    rounds.configure_train(3, rounds.arrays.copy(), ConfigRecord(), Nodes())  # type: ignore[arg-type]
    ours, theirs = plain(vars(fresh._inner)), plain(vars(rounds._inner))
    assert ours == theirs


def plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as values that can be compared."""
    out: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, ArrayRecord):
            out[name] = values(value)
        elif isinstance(value, dict):
            out[name] = {
                key: one.tobytes() if isinstance(one, np.ndarray | np.generic) else one for key, one in value.items()
            }
        elif isinstance(value, list):
            out[name] = [one.tobytes() if isinstance(one, np.ndarray | np.generic) else one for one in value]
        elif not callable(value):
            out[name] = copy.copy(value)
    return out


def test_a_checkpoint_that_is_not_the_one_committed_is_named_and_nothing_else_happens(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    sha256 = checkpoints.write(3, initial(), {"m_t/weight": np.ones(2)})
    path = tmp_path / "round-00000003.safetensors"
    whole = path.read_bytes()
    for damage in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damage)
        with pytest.raises(StoreError, match=r"round-00000003.* is not the model that was committed"):
            checkpoints.read(3, sha256, list(SHAPES))
    path.unlink()
    with pytest.raises(StoreError, match="restore the home from a backup"):
        checkpoints.read(3, sha256, list(SHAPES))


def test_a_checkpoint_keeps_types_order_and_states_of_other_precision(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    state = {"v_t/bias": np.array([1e-300, 2.0]), "momentum_vector/000000": np.array(3.0, dtype=np.float32)}
    sha256 = checkpoints.write(1, initial(), state)
    arrays, back = checkpoints.read(1, sha256, list(SHAPES))
    assert list(arrays) == list(SHAPES)
    assert {path: (value.dtype, value.tobytes()) for path, value in back.items()} == {
        path: (value.dtype, value.tobytes()) for path, value in state.items()
    }
