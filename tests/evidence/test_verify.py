"""A log that was touched anywhere is noticed, and the first bad entry is named."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from logs import MODEL, NAMES, NOW, bundle, ed25519, entries_of, federation, offered, sha256

from lepton_fl.evidence import note
from lepton_fl.evidence.checking import Asked, checked
from lepton_fl.evidence.log_bundle import BadLog, Bundle, read
from lepton_fl.evidence.log_entries import Entry
from lepton_fl.evidence.log_entries import read as read_entry
from lepton_fl.evidence.merkle import leaf_hash
from lepton_fl.evidence.note import Checkpoint
from lepton_fl.evidence.verify import Problem, check_model, verify
from lepton_fl.federation import contract

MADE = federation()
CA = MADE.authority.certificate
GOOD = bundle(MADE)
CONTENT = GOOD.to_bytes()
ENTRIES = list(GOOD.entries)
KEY = ed25519(1).public_key().public_bytes_raw()
SECOND = Path(__file__).resolve().parent.parent.parent / "docs" / "verify_log.py"
MUTATIONS = 1000


def second_verifier() -> Callable[[bytes, bytes, list[str]], tuple[int | None, str | None]]:
    """The one in docs, loaded here for the many mutations; another test runs it as a process."""
    words: dict[str, Any] = {"__name__": "verify_log"}
    exec(compile(SECOND.read_text(), str(SECOND), "exec"), words)  # noqa: S102 - our own file

    def check(content: bytes, key: bytes, kept: list[str]) -> tuple[int | None, str | None]:
        try:
            index, problem = words["check"](content, key, kept)
        except Exception as error:
            return None, type(error).__name__
        return index, problem

    return check


SECOND_CHECK = second_verifier()


def first(content: bytes, kept: list[bytes] | None = None) -> Problem | None:
    """What the product finds first."""
    try:
        return verify(read(content), CA, kept or []).first
    except BadLog as error:
        return Problem(None, str(error))


def rewritten(entries: list[bytes], **parts: Any) -> Bundle:
    """A log of these entries with their hashes, under the head of the good one."""
    return replace(GOOD, entries=tuple(entries), leaves=tuple(map(leaf_hash, entries)), **parts)


def test_a_good_log_has_no_problem_and_says_who_signed_what() -> None:
    found = verify(read(CONTENT), CA, [MADE.head(ENTRIES, 5)])
    assert found.problems == ()
    assert len(found.entries) == len(ENTRIES) == 11
    assert found.signed == (
        "the log's own head has 11 entries and agrees",
        "the head that elm countersigned has 11 entries and agrees, on 2026-03-01 12:00 UTC",
        "the head that VA Long Beach countersigned has 7 entries and agrees, on 2026-03-01 12:00 UTC",
        "a head that was kept has 5 entries and agrees",
    )
    assert SECOND_CHECK(CONTENT, KEY, [MADE.head(ENTRIES, 5).decode()]) == (None, None)


def flip(rng: random.Random) -> tuple[bytes, int | None]:
    """One byte of the file."""
    changed = bytearray(CONTENT)
    changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
    return bytes(changed), None


def change(rng: random.Random) -> tuple[bytes, int | None]:
    """One byte of one entry."""
    entries, index = list(ENTRIES), rng.randrange(len(ENTRIES))
    text = bytearray(entries[index])
    at = rng.randrange(len(text))
    text[at] = rng.choice([one for one in b"abcdefgh0123456789" if one != text[at]])
    entries[index] = bytes(text)
    return replace(GOOD, entries=tuple(entries)).to_bytes(), index


def drop(rng: random.Random) -> tuple[bytes, int | None]:
    entries, index = list(ENTRIES), rng.randrange(len(ENTRIES))
    del entries[index]
    return replace(GOOD, entries=tuple(entries)).to_bytes(), index


def insert(rng: random.Random) -> tuple[bytes, int | None]:
    entries, index = list(ENTRIES), rng.randrange(len(ENTRIES) + 1)
    made = read_entry(ENTRIES[1])
    entries.insert(index, replace(made, fields={**made.fields, "institution": f"new {index}"}).to_bytes())
    return replace(GOOD, entries=tuple(entries)).to_bytes(), index


def reorder(rng: random.Random) -> tuple[bytes, int | None]:
    one, other = sorted(rng.sample(range(len(ENTRIES)), 2))
    entries = list(ENTRIES)
    entries[one], entries[other] = entries[other], entries[one]
    return replace(GOOD, entries=tuple(entries)).to_bytes(), one


def truncate(rng: random.Random) -> tuple[bytes, int | None]:
    """The end is gone, hashes included."""
    size = rng.randrange(1, len(ENTRIES))
    return rewritten(ENTRIES[:size]).to_bytes(), size


def old_head(rng: random.Random) -> tuple[bytes, int | None]:
    """The end is gone, and an older head of the log's own is put in the place of the last."""
    size = rng.randrange(1, len(ENTRIES))
    return rewritten(ENTRIES[:size], checkpoint=MADE.head(ENTRIES, size)).to_bytes(), size


def fork(rng: random.Random) -> tuple[bytes, int | None]:
    """The operator rewrites its log from an entry on, with a head that its key signs."""
    entries, index = list(ENTRIES), rng.randrange(1, len(ENTRIES))
    made = read_entry(entries[1])
    entries[index] = replace(made, fields={**made.fields, "institution": f"forked {index}"}).to_bytes()
    # The head that the second institution countersigned has 7 entries: whatever follows can be the first bad one.
    return rewritten(entries, checkpoint=MADE.head(entries)).to_bytes(), 0 if index < 7 else 7


def wrong_key(rng: random.Random) -> tuple[bytes, int | None]:
    """A head signed with another key."""
    return replace(GOOD, checkpoint=MADE.head(ENTRIES, key=rng.randrange(2, 50))).to_bytes(), None


KINDS = (flip, change, drop, insert, reorder, truncate, old_head, fork, wrong_key)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_thousand_mutations_are_noticed_at_the_right_entry_by_both_verifiers(kind: Any) -> None:
    rng = random.Random(kind.__name__)  # noqa: S311 - the same mutations each time
    for _ in range(MUTATIONS // len(KINDS) + 1):
        content, index = kind(rng)
        assert content != CONTENT
        found = first(content)
        assert found is not None, kind.__name__
        if index is not None:
            assert found.entry == index, str(found)
        entry, problem = SECOND_CHECK(content, KEY, [])
        if kind is not flip:
            assert problem is not None, kind.__name__
            if index is not None and problem == "this is not the entry that was hashed":
                assert entry == index


def test_the_second_verifier_misses_flipped_bytes_of_certificates_alone() -> None:
    unseen = [
        range(*found.span()) for found in re.finditer(rb'"(?:certificate|signature)":"[^"]*"', CONTENT)
    ]  # in an entry, quotation marks are escaped
    rng = random.Random("second")  # noqa: S311 - the same mutations each time
    for position in rng.sample(range(len(CONTENT)), 600):
        changed = bytearray(CONTENT)
        changed[position] ^= rng.randrange(1, 256)
        if not any(position in span for span in unseen):
            assert SECOND_CHECK(bytes(changed), KEY, [])[1] is not None, position


def test_a_truncated_log_that_nobody_countersigned_is_noticed_by_a_head_that_was_kept() -> None:
    short = rewritten(ENTRIES[:6], checkpoint=MADE.head(ENTRIES, 6), cosigned=())
    assert first(short.to_bytes()) is None
    found = first(short.to_bytes(), [MADE.head(ENTRIES, 7)])
    assert found is not None
    assert str(found) == "entry 6: the log ends here, and a head that was kept has 7 entries"
    assert SECOND_CHECK(short.to_bytes(), KEY, [MADE.head(ENTRIES, 7).decode()])[0] == 6


def test_a_fork_that_nobody_countersigned_is_noticed_between_two_heads_that_were_kept() -> None:
    entries = list(ENTRIES)
    entries[8] = ENTRIES[7]
    # The rounds no longer follow each other, which is noticed too, at the same entry.
    forked = rewritten(entries, checkpoint=MADE.head(entries), cosigned=())
    kept = [MADE.head(ENTRIES, size) for size in (4, 8, 10)]
    found = verify(forked, CA, kept)
    assert [str(one) for one in found.problems] == [
        "entry 8: round 1 does not follow the one before",
        "entry 8: a head that was kept of 10 entries is of another log, from here or from a later entry on",
    ]
    assert SECOND_CHECK(forked.to_bytes(), KEY, [one.decode() for one in kept])[0] == 8


def test_another_ca_trusts_nothing_of_it() -> None:
    found = verify(GOOD, federation().authority.certificate)
    assert found.first is not None
    assert found.first.entry == 0
    assert "the log's key is not the operator's" in str(found.first)


def test_a_key_that_was_replaced_has_its_own_entry() -> None:
    entries = [*ENTRIES, MADE.log_key_entry(2).to_bytes()]
    rotated = rewritten(entries, checkpoint=MADE.head(entries, key=2))
    assert verify(rotated, CA).problems == ()
    assert SECOND_CHECK(rotated.to_bytes(), ed25519(2).public_key().public_bytes_raw(), []) == (None, None)
    without = replace(GOOD, checkpoint=MADE.head(ENTRIES, key=2))
    assert [str(one) for one in verify(without, CA).problems] == ["the log's own head is not signed with the log's key"]
    old = rewritten(entries, checkpoint=MADE.head(entries, key=1))
    assert [str(one) for one in verify(old, CA).problems] == ["the log's own head is not signed with the log's key"]


def test_a_countersignature_by_another_institution_is_none() -> None:
    swapped = replace(GOOD.cosigned[0], institution=NAMES[1])
    found = verify(replace(GOOD, cosigned=(swapped,)), CA)
    assert [str(one) for one in found.problems] == [
        "the head that VA Long Beach countersigned is not countersigned by VA Long Beach"
    ]


def test_an_identity_that_another_institution_signed_is_refused() -> None:
    elm, oak = GOOD.identities
    found = verify(replace(GOOD, identities=(elm, replace(oak, signed=elm.signed))), CA)
    assert found.first is not None
    assert "the key with which VA Long Beach countersigns is not its own" in str(found.first)


def test_a_contract_that_is_not_the_runs_is_named() -> None:
    other = contract.to_bytes(replace(contract.from_bytes(GOOD.contracts[0].content), run_id=8))
    found = verify(replace(GOOD, contracts=(replace(GOOD.contracts[0], content=other),)), CA)
    assert {one.entry for one in found.problems} >= {3, None}
    assert "entry 3: the contract of this run is not beside the log" in map(str, found.problems)


def test_a_contract_that_pins_another_key_is_named() -> None:
    of = replace(offered(MADE), content=contract.to_bytes(contract.from_bytes(GOOD.contracts[0].content)))
    pinned = contract.to_bytes(replace(contract.from_bytes(of.content), log_key="00" * 32))
    of = replace(of, content=pinned, signed=MADE.operator.sign("lepton-fl/contract/1", pinned))
    entries = entries_of(MADE, of)
    made = rewritten(entries, checkpoint=MADE.head(entries), cosigned=(), contracts=(of,))
    assert [str(one) for one in verify(made, CA).problems] == [
        "entry 3: the contract of this run pins another key for the log"
    ]


def test_a_head_of_another_federation_is_refused() -> None:
    root = note.read(GOOD.checkpoint).checkpoint.root
    other = note.sign(ed25519(1), Checkpoint(note.origin_of("ab" * 32), 11, root)).to_bytes()
    found = verify(replace(GOOD, checkpoint=other), CA)
    assert [str(one) for one in found.problems] == ["the log's own head is of another federation's log"]


def test_the_model_file_of_the_run_is_told_from_any_other() -> None:
    found = verify(GOOD, CA)
    assert check_model(found, MODEL) == "7"
    for position in range(len(MODEL)):
        changed = bytearray(MODEL)
        changed[position] ^= 1
        assert check_model(found, bytes(changed)) is None


def test_a_model_that_its_gates_hold_back_is_not_called_good(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(MODEL)
    gate = {"run": "7", "failed": ["worst group recall"], "sha256": sha256("gates.json")}
    entries, said = list(ENTRIES), []
    for verdict in ("held", "overridden"):
        entries.append(Entry("gate", NOW, {**gate, "verdict": verdict}).to_bytes())
        made = rewritten(entries, checkpoint=MADE.head(entries))
        try:
            said.append(checked(made, Asked(CA, None, tmp_path / "model", None))[-1])
        except BadLog as error:
            said.append(str(error))
    assert "its gates hold it back; do not use it" in said[0]
    assert said[1].endswith("is the one that run 7 ended with, released in a person's name against its gates")


def test_the_second_verifier_is_a_short_program_of_its_own(tmp_path: Path) -> None:
    text = SECOND.read_text()
    assert len(text.splitlines()) <= 80
    assert "lepton_fl" not in text.replace("lepton-fl", "")
    (tmp_path / "log.json").write_bytes(CONTENT)
    swapped = replace(GOOD, entries=(*ENTRIES[:4], ENTRIES[9], *ENTRIES[5:9], ENTRIES[4], ENTRIES[10]))
    (tmp_path / "bad.json").write_bytes(swapped.to_bytes())

    def said(name: str) -> tuple[int, str]:
        command = [sys.executable, "-I", str(SECOND), str(tmp_path / name), KEY.hex()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    assert said("log.json") == (0, "")
    assert said("bad.json") == (1, "bad: entry 4: this is not the entry that was hashed")
