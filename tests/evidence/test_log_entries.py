"""An entry has one form and exact fields; what could identify a person does not get in."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import NOW, bundle, federation, sha256

from lepton_fl.evidence import log_bundle
from lepton_fl.evidence.log_bundle import BadLog
from lepton_fl.evidence.log_entries import BadEntry, Entry, clause_word, commitment, read, reason_word

ROUND = Entry(
    "round",
    NOW,
    {
        "run": "7",
        "round": 3,
        "model": sha256("model"),
        "cohort": ["elm", "oak"],
        "replied": ["elm"],
        "refused": {"oak": "failed"},
        "skipped": False,
        "epsilon": 0.1,
    },
)
BYTES = ROUND.to_bytes()


def changed(**fields: Any) -> Entry:
    return replace(ROUND, fields={**ROUND.fields, **fields})


def test_an_entry_is_canonical_json_and_comes_back_as_it_was() -> None:
    start = b'{"at":"2026-03-01T12:00:00.000000+00:00","fields":{"cohort":["elm","oak"],"epsilon":0.1,'
    assert BYTES.startswith(start)
    assert BYTES.endswith(b'"run":"7","skipped":false},"kind":"round"}')
    assert read(BYTES) == ROUND


@given(st.integers(0, len(BYTES) - 1), st.integers(1, 255))
def test_no_other_bytes_are_the_same_entry(position: int, change: int) -> None:
    content = bytearray(BYTES)
    content[position] ^= change
    try:
        found = read(bytes(content))
    except BadEntry:
        return
    assert found != ROUND
    assert found.to_bytes() == bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b" " + BYTES,
        BYTES.replace(b"0.1", b"1e-1"),
        BYTES.replace(b"0.1", b"NaN"),
        BYTES.replace(b"+00:00", b"+01:00"),
        BYTES.replace(b'"kind":"round"', b'"kind":["round"]'),
        b"x" * (65 << 10),
        b"[" * 5000,
    ],
)
def test_another_form_is_no_entry(content: bytes) -> None:
    with pytest.raises(BadEntry):
        read(content)


@pytest.mark.parametrize(
    "entry",
    [
        replace(ROUND, kind="birthday"),
        changed(run=7),
        changed(run="07"),
        changed(round=True),
        changed(round=-1),
        changed(epsilon=float("inf")),
        changed(epsilon="0.1"),
        changed(skipped=None),
        changed(model="AB" * 32),
        changed(cohort="elm"),
        changed(cohort=[""]),
        changed(refused={"oak": "its 38 records are too few"}),
        changed(accuracy=0.8),
        replace(ROUND, fields={name: value for name, value in ROUND.fields.items() if name != "model"}),
        Entry("override", NOW, {"run": "7", "by": "Ada Lovelace", "reason": sha256("reason")}),
        Entry("feedback", NOW, {"run": "7"}),
        changed(cohort=["x" * 200] * 400),
    ],
)
def test_other_fields_and_other_values_do_not_get_in(entry: Entry) -> None:
    with pytest.raises(BadEntry, match="nothing was written"):
        entry.to_bytes()


def test_free_text_becomes_one_of_a_few_words() -> None:
    texts = [
        "it failed: 38 records of Ada",
        "it declined: exact-counts may not leave",
        "it was not asked in this round",
    ]
    assert [reason_word(text) for text in texts] == ["failed", "declined", "not asked"]
    assert [reason_word(text) for text in ("a second reply was ignored", "Ada was here")] == [
        "second reply",
        "unusable",
    ]
    refused = "policy.budget.epsilon: 1 per record at delta 0.0001"
    assert [clause_word(text) for text in (refused, "Ada said no", "")] == ["policy.budget.epsilon", "other", "other"]


def test_a_commitment_is_opened_by_text_and_salt_together() -> None:
    salt = bytes(range(32))
    made = commitment("Ada Lovelace", salt)
    assert made == commitment("Ada Lovelace", salt)
    assert made != commitment("Ada Lovelace", bytes(32))
    assert made != commitment("Ada Byron", salt)
    assert made != sha256("Ada Lovelace")


def test_a_bundle_comes_back_as_it_was_and_has_one_form() -> None:
    made = bundle(federation())
    content = made.to_bytes()
    assert log_bundle.read(content) == made
    for other in (
        b"",
        b"[]",
        b"{}",
        content + b"\n",
        content[:-1],
        content.replace(b'"schema"', b'"scheme"'),
        b"[" * 9999,
    ):
        with pytest.raises(BadLog):
            log_bundle.read(other)


def test_time_is_utc_whatever_the_clock_said() -> None:
    from datetime import timezone

    there = replace(ROUND, at=NOW.astimezone(timezone(timedelta(hours=2))))
    assert there.to_bytes() == BYTES
