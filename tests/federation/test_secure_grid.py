"""A round under masks comes to the mean of whoever stayed, or to no sum at all; a killed server changes neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from lepton_server.database import StoreError
from lepton_server.decisions import Decisions
from masked_rounds import (
    NAMES,
    ROUND,
    Institutions,
    content,
    counts_by_hand,
    flat,
    instructions,
    made,
    mean_by_hand,
)

from lepton_fl.federation.local_grid import LocalGrid, node_id_of
from lepton_fl.federation.secure_grid import COHORT, SecureGrid
from lepton_fl.federation.steps import ECHOES, INBOX, PARAMS, ROSTER, STEPS, SURVIVORS, Step, answer, record_of, step_of
from lepton_fl.flower import NODE_UNAVAILABLE, Array, ArrayRecord, Context, Error, Message, RecordDict
from lepton_fl.secure_aggregation.messages import Advert
from lepton_fl.strategies.strategy import WEIGHT_KEY

STEP = 1.0 / (2**21 - 1)  # of the quantiser, whose bound is 1; rounding moves each institution's part by less


def play(grid: SecureGrid, purpose: str = "train", round: int = ROUND) -> tuple[list[Message], dict[str, str]]:
    """One round: the replies, and why each institution that is not in them failed."""
    names = {node_id_of(name): name for name in NAMES}
    replies = list(grid.send_and_receive(instructions(grid, purpose, round)))
    errors = {names[one.metadata.src_node_id]: str(one.error.reason) for one in replies if one.has_error()}
    return [one for one in replies if not one.has_error()], errors


def survivors_of(reply: Message) -> tuple[str, ...]:
    return tuple(str(one) for one in reply.content.config_records[COHORT]["survivors"])  # type: ignore[union-attr]


def is_the_mean_of(reply: Message, survivors: Sequence[str]) -> None:
    expected = mean_by_hand(survivors)
    weight = int(str(reply.content.metric_records["metrics"][WEIGHT_KEY]))
    assert weight == sum(10 * (1 + NAMES.index(name)) for name in survivors)
    rounding = len(survivors) * STEP * made()[1].form.scale / weight
    assert np.abs(flat(reply.content.array_records["arrays"]) - expected).max() < rounding + 1e-6
    assert np.abs(flat(content().array_records["arrays"]) - expected).max() > 1e-3  # training moved it


def test_a_strategy_sees_one_reply_that_is_the_mean_of_all() -> None:
    institutions = Institutions()
    (reply,), errors = play(institutions.secure())
    assert errors == {}
    assert survivors_of(reply) == NAMES
    is_the_mean_of(reply, NAMES)
    assert reply.content.metric_records["metrics"] == {WEIGHT_KEY: 10 + 20 + 30 + 40}
    assert set(reply.content) == {COHORT, "arrays", "metrics"}
    assert {name: institutions.steps_of(name) for name in NAMES} == {name: [*STEPS] for name in NAMES}


def test_only_the_first_message_of_a_round_has_the_model() -> None:
    institutions = Institutions()
    play(institutions.secure())
    for _, step, said in institutions.asked:
        assert ("arrays" in said.array_records) == (step.name == PARAMS)


def test_counts_are_the_sum_of_all_and_whoever_declines_is_not_told_apart() -> None:
    for declining, counting in (((), NAMES), (("elm",), ("ash", "oak", "yew"))):
        institutions = Institutions(declining=declining)
        (reply,), errors = play(institutions.secure(), "evaluate")
        assert errors == {}
        assert survivors_of(reply) == NAMES
        assert reply.content.metric_records["metrics"]["scores"] == counts_by_hand(counting)


def test_where_everybody_declines_there_are_no_counts() -> None:
    (reply,), errors = play(Institutions(declining=NAMES).secure(), "evaluate")
    assert (errors, set(reply.content)) == ({}, {COHORT})


# -- who drops out


@pytest.mark.parametrize("step", [PARAMS, ROSTER, INBOX])
def test_whoever_drops_out_before_its_vector_came_is_left_out_by_name(step: str) -> None:
    (reply,), errors = play(Institutions(silent={("oak", step, 1)}).secure())
    assert survivors_of(reply) == ("ash", "elm", "yew")
    is_the_mean_of(reply, ("ash", "elm", "yew"))
    assert errors == {"oak": "RuntimeError"}  # what it says stays at the institution


@pytest.mark.parametrize("step", [SURVIVORS, ECHOES])
def test_whoever_drops_out_after_its_vector_came_is_in_the_sum(step: str) -> None:
    (reply,), errors = play(Institutions(silent={("oak", step, 1)}).secure())
    assert survivors_of(reply) == NAMES
    is_the_mean_of(reply, NAMES)
    assert errors == {}


@pytest.mark.parametrize("step", STEPS)
def test_with_too_few_left_there_is_no_sum_and_every_institution_is_named(step: str) -> None:
    gone = {(name, step, attempt) for name in ("elm", "yew") for attempt in (1, 2)}
    institutions = Institutions(silent=gone)
    replies, errors = play(institutions.secure())
    assert replies == []
    assert sorted(errors) == sorted(NAMES)
    assert errors["elm"] == errors["yew"] == "RuntimeError"
    assert "2 institutions are left" in errors["ash"]
    assert "a sum takes 3" in errors["oak"]
    unmasked = [name for name, said in institutions.replied if said.name == ECHOES]
    assert unmasked == (["ash", "oak"] if step == ECHOES else [])  # two shares open nothing


def test_what_was_unmasked_once_is_not_tried_again() -> None:
    institutions = Institutions(silent={(name, ECHOES, 1) for name in ("elm", "yew")})
    play(institutions.secure())
    assert institutions.steps_of("ash") == [*STEPS]


@pytest.mark.parametrize("step", [PARAMS, ROSTER, INBOX, SURVIVORS])
def test_a_second_attempt_has_other_keys_trains_nothing_again_and_comes_to_the_sum(step: str) -> None:
    institutions = Institutions(silent={(name, step, 1) for name in ("elm", "yew")})
    (reply,), errors = play(institutions.secure())
    assert errors == {}
    is_the_mean_of(reply, NAMES)  # a round that is trained twice is refused by `InMemory`
    adverts = [
        Advert.from_bytes(said.body) for name, said in institutions.replied if (name, said.name) == ("ash", PARAMS)
    ]
    assert len(adverts) == 2
    keys = {key for advert in adverts for key in (advert.mask_public, advert.channel_public, advert.commitment)}
    assert len(keys) == 6


# -- who answers wrongly


def garbage(asked: Message, answered: Message) -> Message:
    step = step_of(answered.content)
    assert step is not None
    content = RecordDict({**answered.content})
    content["secure-aggregation"] = record_of(Step(step.name, b"garbage"))
    return Message(content, reply_to=asked)


def nothing(asked: Message, answered: Message) -> Message:
    return Message(RecordDict(), reply_to=asked)


def another_step(asked: Message, answered: Message) -> Message:
    step = step_of(asked.content)
    assert step is not None
    return answer(asked, Step(STEPS[(STEPS.index(step.name) + 1) % 5], b""))


def more(asked: Message, answered: Message) -> Message:
    content = RecordDict({**answered.content, "arrays": ArrayRecord({"w": Array(np.zeros(3, np.float32))})})
    return Message(content, reply_to=asked)


@pytest.mark.parametrize("alter", [garbage, nothing, another_step, more])
@pytest.mark.parametrize("step", [PARAMS, ROSTER, INBOX])
def test_whoever_answers_with_something_else_is_named_and_the_others_go_on(
    step: str, alter: Callable[[Message, Message], Message]
) -> None:
    (reply,), errors = play(Institutions(altered={("ash", step): alter}).secure())
    assert [*errors] == ["ash"]
    assert errors["ash"]
    assert survivors_of(reply) == ("elm", "oak", "yew")
    is_the_mean_of(reply, ("elm", "oak", "yew"))


def short(asked: Message, answered: Message) -> Message:
    packed = answered.content.array_records["vector"]["packed"].numpy()[:-1]
    content = RecordDict({**answered.content, "vector": ArrayRecord({"packed": Array(packed)})})
    return Message(content, reply_to=asked)


def flipped(asked: Message, answered: Message) -> Message:
    packed = answered.content.array_records["vector"]["packed"].numpy().copy()
    packed[0] ^= 1
    content = RecordDict({**answered.content, "vector": ArrayRecord({"packed": Array(packed)})})
    return Message(content, reply_to=asked)


@pytest.mark.parametrize(("alter", "said"), [(short, "another length"), (flipped, "not the one it signed")])
def test_a_vector_that_is_not_the_signed_one_is_left_out(
    alter: Callable[[Message, Message], Message], said: str
) -> None:
    (reply,), errors = play(Institutions(altered={("yew", INBOX): alter}).secure())
    assert said in errors["yew"]
    is_the_mean_of(reply, ("ash", "elm", "oak"))


# -- the grid


def test_a_message_is_never_sent_by_itself() -> None:
    grid = Institutions().secure()
    with pytest.raises(NotImplementedError):
        grid.push_messages(instructions(grid))
    with pytest.raises(NotImplementedError):
        grid.pull_messages(["1"])


def test_nodes_outside_of_the_contract_are_not_offered_to_a_strategy() -> None:
    institutions = Institutions()
    inner = LocalGrid(institutions, (*NAMES, "fig"))
    assert sorted(institutions.secure(inner).get_node_ids()) == sorted(node_id_of(name) for name in NAMES)


def test_a_round_of_nobody_is_no_round() -> None:
    assert list(Institutions().secure().send_and_receive([])) == []


def test_two_rounds_follow_each_other_and_a_round_of_before_is_refused() -> None:
    institutions = Institutions()
    grid = institutions.secure()
    assert [len(play(grid, round=round)[0]) for round in (ROUND, ROUND + 1)] == [1, 1]
    replies, errors = play(grid, round=ROUND)
    assert (replies, sorted(errors)) == ([], sorted(NAMES))


# -- a server that is killed


class Killed(BaseException):
    """As by `kill -9`: nobody handles it."""


class Stored(LocalGrid):
    """As over the network: an answer that came is on the disk, and a question that was asked is not asked again."""

    def __init__(self, institutions: Institutions, store: dict[object, Message]) -> None:
        super().__init__(institutions, NAMES)
        self._store = store
        self.late: set[tuple[int, str]] = set()  # (node, step): its answer came when nobody waited any more
        self.killed_at = ("never", 0)  # (step, answers that came by then)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See `Grid.send_and_receive`."""
        replies = []
        for count, message in enumerate(messages):
            step, node_id = step_of(message.content), message.metadata.dst_node_id
            assert step is not None
            if self.killed_at == (step.name, count):
                raise Killed
            asked = (node_id, message.metadata.message_type, message.metadata.group_id, step)
            if asked not in self._store:
                (self._store[asked],) = super().send_and_receive([message])
            if (node_id, step.name) in self.late:
                replies.append(Message(Error(NODE_UNAVAILABLE, "it did not answer in time"), reply_to=message))
            else:
                replies.append(self._store[asked])
        return replies


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("step", STEPS)
def test_a_server_killed_at_any_step_comes_to_the_very_same_sum(step: str, count: int, tmp_path: Path) -> None:
    (undisturbed,), _ = play(Institutions().secure())
    institutions, store = Institutions(), dict[object, Message]()
    dying, living = Stored(institutions, store), Stored(institutions, store)
    dying.killed_at = (step, count)
    with pytest.raises(Killed):
        play(institutions.secure(dying, Decisions(tmp_path).decide))
    (reply,), errors = play(institutions.secure(living, Decisions(tmp_path).decide))
    assert errors == {}
    # The run is seeded, so that not even the rounding differs.
    arrays = [one.content.array_records["arrays"] for one in (undisturbed, reply)]
    assert np.array_equal(flat(arrays[0]), flat(arrays[1]))
    assert {name: institutions.steps_of(name) for name in NAMES} == {name: [*STEPS] for name in NAMES}


@pytest.mark.parametrize("step", [PARAMS, ROSTER, INBOX])
def test_whoever_was_left_out_before_the_kill_is_left_out_after_it(step: str, tmp_path: Path) -> None:
    """Its answer came meanwhile; a second roster or survivor list would burn the round."""
    institutions, store = Institutions(), dict[object, Message]()
    dying, living = Stored(institutions, store), Stored(institutions, store)
    dying.late, dying.killed_at = {(node_id_of("yew"), step)}, (SURVIVORS, 2)
    with pytest.raises(Killed):
        play(institutions.secure(dying, Decisions(tmp_path).decide))
    (reply,), errors = play(institutions.secure(living, Decisions(tmp_path).decide))
    assert survivors_of(reply) == ("ash", "elm", "oak")
    is_the_mean_of(reply, ("ash", "elm", "oak"))
    assert [*errors] == ["yew"]


def test_what_was_decided_stands_and_is_readable_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "steps"
    assert Decisions(folder).decide("train-1-1-nonce", lambda: b"first") == b"first"
    assert Decisions(folder).decide("train-1-1-nonce", lambda: b"second") == b"first"
    assert Decisions(folder).decide("train-1-2-nonce", lambda: b"second") == b"second"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_decision_that_cannot_be_kept_is_none(tmp_path: Path) -> None:
    (tmp_path / "steps").write_text("a file where the folder belongs")
    with pytest.raises(StoreError, match="the round goes on where it is; make room"):
        Decisions(tmp_path / "steps").decide("train-1-1-nonce", lambda: b"first")


def test_the_model_that_was_asked_for_is_the_one_that_the_parameters_name() -> None:
    """Whoever is shown another model takes no part."""
    institutions = Institutions()
    grid = institutions.secure()
    messages = instructions(grid)
    other = {name: Array(array.numpy() + 1) for name, array in content().array_records["arrays"].items()}
    opened = institutions.apps["ash"]
    institutions.apps["ash"] = lambda message, context: opened(  # type: ignore[assignment]
        Message(
            RecordDict({**message.content, "arrays": ArrayRecord(other)}),
            dst_node_id=message.metadata.dst_node_id,
            message_type="train",
        )
        if "arrays" in message.content
        else message,
        context,
    )
    replies = list(grid.send_and_receive(messages))
    (reason,) = [str(one.error.reason) for one in replies if one.has_error()]
    assert "another model" in reason
    assert made()[1].training.length == 41


def test_whoever_is_told_other_weights_of_groups_takes_no_part() -> None:
    institutions = Institutions()
    grid = institutions.secure()
    messages = instructions(grid)
    cells = 2 * made()[0].cells  # of two labels
    for message in messages:
        message.content.config_records["config"]["group-weights"] = [1.0] * cells
    opened = institutions.apps["ash"]

    def favoured(message: Message, context: Context) -> Message:
        if "config" in message.content.config_records:
            message.content.config_records["config"]["group-weights"] = [2.0] + [1.0] * (cells - 1)
        return opened(message, context)

    institutions.apps["ash"] = favoured  # type: ignore[assignment]
    replies = list(grid.send_and_receive(messages))
    (reason,) = [str(one.error.reason) for one in replies if one.has_error()]
    assert "another model" in reason
    assert survivors_of(next(one for one in replies if not one.has_error())) == ("elm", "oak", "yew")
