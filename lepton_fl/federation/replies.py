"""What comes back from an institution, checked before a strategy sees it.

A reply is hostile until its names, shapes, types and values were checked. What fails is left out with the
institution named, and the round goes on with the others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lepton_fl.federation.arrays import BadArrays, Template, checked
from lepton_fl.federation.codec import array_of
from lepton_fl.federation.evaluating import Evaluating
from lepton_fl.federation.histograms import BadHistograms, Evaluated, from_record
from lepton_fl.flower import Message, MetricRecord, RecordDict, array_record, config_of
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, WEIGHT_KEY

LARGEST_TRAIN_LOSS = 1e6  # nats per record; a larger one is a broken model or a lie


NOT_ASKED = "it was not asked in this round"
SECOND_REPLY = "a second reply was ignored"
DECLINED = "declined: "  # how the reason begins where nothing failed, and a policy keeps the answer at home


class BadReply(ValueError):
    """A reply that is left out; the message says why, never a value."""


@dataclass(frozen=True)
class Expected:
    """What replies of this run must look like."""

    template: Template
    evaluating: Evaluating
    weight_cap: int  # the most an institution's claimed weight can count; under privacy all weigh 1
    most_records: int  # that an evaluation may count
    with_loss: bool  # privacy=none: replies tell the training loss


@dataclass(frozen=True)
class Sorted:
    """Replies apart: what can be used, in the order of the institutions' names, and why the rest cannot."""

    usable: list[Message]
    refused: dict[str, str]  # institution: reason


def sort_replies(
    replies: Iterable[Message], names: Mapping[int, str], asked: Collection[int], expected: Expected
) -> Sorted:
    """Check and clean every training reply; sums of floats depend on order, so names decide it.

    Args:
        names: node id to institution, of the whole federation.
        asked: node ids of those who were asked in this round.
    """
    usable: dict[int, Message] = {}
    refused: dict[str, str] = {}
    seen: set[int] = set()
    for reply in replies:
        node_id = reply.metadata.src_node_id
        name = names.get(node_id, f"node {node_id}")
        if node_id not in asked:
            refused[name] = NOT_ASKED
            continue
        if node_id in seen:
            refused.setdefault(name, SECOND_REPLY)
            continue
        seen.add(node_id)
        try:
            usable[node_id] = _clean(reply, expected)
        except (BadReply, BadArrays) as error:
            refused[name] = str(error)
    return Sorted([usable[node_id] for node_id in sorted(usable, key=lambda one: names[one])], refused)


def sort_summed(
    replies: Iterable[Message], names: Mapping[int, str], asked: Collection[int]
) -> tuple[Sorted, list[str]]:
    """As `sort_replies`, where `SecureGrid` made one reply of all; and the institutions in it."""
    usable, refused, summed = [], {}, []
    for reply in replies:
        if reply.has_error():
            name = names.get(reply.metadata.src_node_id, f"node {reply.metadata.src_node_id}")
            refused[name] = NOT_ASKED if reply.metadata.src_node_id not in asked else _reason(reply)
            continue
        usable.append(reply)
        summed += [str(name) for name in _texts(reply)]
    return Sorted(usable, refused), sorted(summed)


def _texts(reply: Message) -> list[object]:
    names = config_of(reply.content, "cohort")["survivors"]
    return list(names) if isinstance(names, list) else []


def _clean(reply: Message, expected: Expected) -> Message:
    """The reply rebuilt from checked values alone, its weight capped."""
    content = _content(reply)
    if list(content.array_records) != ["arrays"]:
        raise BadReply("it does not hold exactly one set of parameters")
    metrics = _metrics(content)
    values = checked(content.array_records["arrays"], expected.template)
    weight = _number(metrics, WEIGHT_KEY)
    if weight <= 0:
        raise BadReply("its weight is not a positive number")
    kept = MetricRecord({WEIGHT_KEY: min(weight, expected.weight_cap)})
    if expected.with_loss:
        loss = _number(metrics, TRAIN_LOSS_KEY)
        if not 0 <= loss <= LARGEST_TRAIN_LOSS:
            raise BadReply("its training loss is out of range")
        kept[TRAIN_LOSS_KEY] = loss
    arrays = array_record((name, array_of(value)) for name, value in values.items())
    reply.content = RecordDict({"arrays": arrays, "metrics": kept})
    return reply


def evaluated(reply: Message, expected: Expected, round: int, noises: int) -> Evaluated:
    """What an evaluation's reply shows.

    Args:
        noises: institutions whose noise may be in it.

    Raises:
        BadReply: another histogram than is due, a wrong length, a cell or a loss out of range.
    """
    try:
        return from_record(expected.evaluating, round, _metrics(_content(reply)), (expected.most_records, noises))
    except BadHistograms as error:
        raise BadReply(str(error)) from error


def _content(reply: Message) -> RecordDict:
    if reply.has_error():
        raise BadReply(_reason(reply))
    return reply.content


def _reason(reply: Message) -> str:
    reason = _printable(reply.error.reason)
    return f"it {reason}" if reason.startswith(DECLINED) else f"it failed: {reason}"


def _metrics(content: RecordDict) -> MetricRecord:
    if list(content.metric_records) != ["metrics"]:
        raise BadReply("it does not hold exactly one set of metrics")
    return content.metric_records["metrics"]


def _number(metrics: MetricRecord, key: str) -> int | float:
    value = metrics.get(key)
    # Integers are finite, and some are too large for math.isfinite.
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise BadReply(f"{key} is not a finite number")


def _printable(text: object) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:120])
