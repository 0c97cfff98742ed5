"""A message's size is told without its bytes, and is that of its bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lepton_fl.federation.codec import array_of, encode
from lepton_fl.federation.sizes import size_of
from lepton_fl.flower import ConfigRecord, Message, MetricRecord, RecordDict, array_record, enter_run

NAMES = st.text(max_size=200)
WHOLE = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-300, 300))
NUMBERS = (WHOLE, st.floats())
KINDS = (*NUMBERS, st.booleans(), st.text(max_size=200), st.binary(max_size=200))
SHAPES = st.lists(st.integers(0, 40), max_size=2)


def values_of_any(*kinds: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(*kinds, *(st.lists(kind, max_size=40) for kind in kinds))


METRICS = st.dictionaries(NAMES, values_of_any(*NUMBERS), max_size=5)
CONFIGS = st.dictionaries(NAMES, values_of_any(*KINDS), max_size=5)


@pytest.fixture(autouse=True)
def _coordinator() -> None:
    enter_run(1)


@settings(deadline=None)
@given(st.dictionaries(NAMES, SHAPES, max_size=4), METRICS, CONFIGS, NAMES)
@example({}, {}, {}, "")
@example({"": [0]}, {}, {"": [], "a": 0, "b": "", "c": [b""], "d": [-1, 0]}, "a" * 130)
def test_any_message_has_the_size_of_its_bytes(
    shapes: dict[str, list[int]], metrics: dict[str, object], configs: dict[str, object], group: str
) -> None:
    content = RecordDict(
        {
            "arrays": array_record((name, array_of(np.zeros(shape, dtype="<f4"))) for name, shape in shapes.items()),
            "metrics": MetricRecord(metrics),  # type: ignore[arg-type]
            "config": ConfigRecord(configs),  # type: ignore[arg-type]
        }
    )
    message = Message(content, 42, "train", group_id=group)
    assert size_of(message.metadata, content) == encode(message).size()


@pytest.mark.parametrize("number", [0, 1, 63, 64, -64, -65, 8191, 8192, 2**63 - 1, -(2**63)])
def test_a_number_takes_the_bytes_that_it_needs(number: int) -> None:
    content = RecordDict({"config": ConfigRecord({"server-round": number})})
    message = Message(content, 42, "train")
    assert size_of(message.metadata, content) == encode(message).size()


def test_a_message_without_records_is_its_envelope() -> None:
    message = Message(RecordDict(), 42, "train")
    # The type's tag, length and five letters; the content's tag and a length of nothing.
    assert size_of(message.metadata, message.content) == encode(message).size() == 7 + 2
