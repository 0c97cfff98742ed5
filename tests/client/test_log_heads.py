"""An institution trains only for an operator whose log goes on from what was seen, here and elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lepton_client.log_heads import EVIDENCE, Logged, LogHeads, LogRefused, Promised, promised_of
from logs import ed25519, sha256
from proposals import SUMMED, contract, terms

from lepton_fl.errors import ConfigError
from lepton_fl.evidence import note
from lepton_fl.evidence.checking import HEADS, read_heads
from lepton_fl.evidence.log_entries import Entry
from lepton_fl.evidence.merkle import Tree, leaf_hash
from lepton_fl.evidence.note import Checkpoint as Head
from lepton_fl.v1.federation_pb2 import Checkpoint, Included, Witnessed

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEY, OWN, OAKS = ed25519(1), ed25519(2), ed25519(3)
ORIGIN = note.origin_of("ab" * 32)
PROMISED = Promised("7", ORIGIN, KEY.public_key().public_bytes_raw(), {"oak": OAKS.public_key().public_bytes_raw()})


def a_round(number: int, run: str = "7") -> bytes:
    fields = {"run": run, "round": number, "model": sha256("m"), "cohort": [], "replied": [], "refused": {}}
    return Entry("round", NOW, {**fields, "skipped": False, "epsilon": None}).to_bytes()


ENTRIES = [Entry("revoked", NOW, {"institution": f"number {one}"}).to_bytes() for one in range(4)]
ENTRIES += [a_round(number) for number in range(4)]
OTHERS = [*ENTRIES[:2], ENTRIES[0], *ENTRIES[3:]]


def tree_of(entries: Sequence[bytes], size: int) -> Tree:
    return Tree(map(leaf_hash, entries[:size]))


def head(size: int, entries: Sequence[bytes] = ENTRIES, key: int = 1, origin: str = ORIGIN) -> note.Note:
    return note.sign(ed25519(key), Head(origin, size, tree_of(entries, size).root()))


def said(size: int, since: int = 0, entries: Sequence[bytes] = ENTRIES) -> Checkpoint:
    """What an operator with this log sends."""
    tree = tree_of(entries, size)
    proof = tree.consistency(since, size) if since <= size else []
    return Checkpoint(note=head(size, entries).to_bytes(), from_size=since, consistency=proof)


def witnessed(size: int, of: int, entries: Sequence[bytes] = ENTRIES, shown: Sequence[bytes] = ENTRIES) -> Witnessed:
    """Oak's head of a log, and a proof that the one that is shown would need."""
    cosigned = note.cosign(OAKS, note.name_of("oak"), head(size, entries), int(NOW.timestamp()))
    proof = tree_of(shown, of).consistency(size, of)
    return Witnessed(institution="oak", note=cosigned.to_bytes(), consistency=proof)


@pytest.fixture
def heads(tmp_path: Path) -> LogHeads:
    made = LogHeads(tmp_path, "elm", OWN)
    made.shown(said(4), PROMISED, NOW)
    return made


def test_a_log_that_goes_on_is_countersigned_and_kept(heads: LogHeads, tmp_path: Path) -> None:
    shown = heads.shown(said(7, 4), PROMISED, NOW)
    assert shown.countersigned is not None
    found = note.read(shown.countersigned)
    assert found.checkpoint == head(7).checkpoint
    assert found.cosigned_at(note.name_of("elm"), OWN.public_key().public_bytes_raw()) == int(NOW.timestamp())
    assert heads.last == shown.countersigned == LogHeads(tmp_path, "elm", OWN).last
    assert [note.read(one).checkpoint.size for one in read_heads(tmp_path / HEADS)] == [4, 7]
    assert (tmp_path / HEADS).stat().st_mode & 0o777 == 0o600


def test_the_same_head_again_is_neither_kept_nor_countersigned_twice(heads: LogHeads, tmp_path: Path) -> None:
    assert heads.shown(said(4, 4), PROMISED, NOW).countersigned is None
    assert len(read_heads(tmp_path / HEADS)) == 1


CHANGED: dict[str, tuple[Checkpoint, str]] = {
    "smaller": (said(3, 4), "it has 3 entries, and had 4 before"),
    "another of the same size": (said(4, 4, OTHERS), "its 4 entries are not those that were there before"),
    "a fork": (said(6, 4, OTHERS), "its 6 entries do not go on from the 4"),
    "no proof": (Checkpoint(note=head(6).to_bytes(), from_size=4), "its 6 entries do not go on from the 4"),
    "a proof from elsewhere": (said(6, 3), "its 6 entries do not go on from the 4"),
    "from nothing": (said(6, 0), "its 6 entries do not go on from the 4"),
    "another key": (Checkpoint(note=head(6, key=9).to_bytes()), "not signed with the key that the contract names"),
    "another federation": (Checkpoint(note=head(6, origin="x").to_bytes()), "not signed with the key"),
    "no head": (Checkpoint(note=b"hello"), "it is no head of a log"),
}


@pytest.mark.parametrize("change", sorted(CHANGED))
def test_a_log_that_was_changed_ends_the_work_and_both_heads_are_evidence(
    heads: LogHeads, tmp_path: Path, change: str
) -> None:
    shown, why = CHANGED[change]
    kept = heads.last
    with pytest.raises(LogRefused, match=why) as refused:
        heads.shown(shown, PROMISED, NOW)
    assert refused.value.exit_code == 12
    assert "nothing was trained or sent" in str(refused.value)
    assert heads.last == kept
    (line,) = (tmp_path / EVIDENCE).read_text().splitlines()
    assert json.loads(line)["shown"].encode() == shown.note
    assert json.loads(line)["kept"].encode() == kept


def test_a_key_that_was_replaced_between_two_runs_goes_on_with_the_same_log(heads: LogHeads) -> None:
    tree = tree_of(ENTRIES, 6)
    shown = Checkpoint(note=head(6, key=9).to_bytes(), from_size=4, consistency=tree.consistency(4, 6))
    assert heads.shown(shown, replace(PROMISED, key=ed25519(9).public_key().public_bytes_raw()), NOW).countersigned


def test_what_another_institution_saw_of_the_same_log_is_fine(heads: LogHeads) -> None:
    shown = said(8, 4)
    shown.cosigned.extend([witnessed(3, 8), witnessed(8, 8)])
    assert heads.shown(shown, PROMISED, NOW).countersigned is not None


@pytest.mark.parametrize("size", [3, 6, 8])
def test_another_log_that_another_institution_was_shown_ends_the_work(heads: LogHeads, size: int) -> None:
    shown = said(8, 4)
    shown.cosigned.append(witnessed(size, 8, OTHERS))
    with pytest.raises(LogRefused, match=f"oak was shown another log of {size} entries"):
        heads.shown(shown, PROMISED, NOW)


def test_a_larger_log_that_another_institution_was_shown_ends_the_work(heads: LogHeads) -> None:
    shown = said(6, 4)
    shown.cosigned.append(Witnessed(institution="oak", note=witnessed(8, 8).note))
    with pytest.raises(LogRefused, match="oak was shown another log of 8 entries"):
        heads.shown(shown, PROMISED, NOW)


def test_what_nobody_can_have_seen_ends_the_work(heads: LogHeads) -> None:
    nobody = note.cosign(ed25519(9), note.name_of("oak"), head(3, key=9), 1)
    shown = said(8, 4)
    shown.cosigned.append(Witnessed(institution="oak", note=nobody.to_bytes()))
    with pytest.raises(LogRefused, match="signed by nobody who could have seen it"):
        heads.shown(shown, PROMISED, NOW)


def test_the_last_round_is_told_with_its_proof(heads: LogHeads) -> None:
    tree, shown = tree_of(ENTRIES, 7), said(7, 4)
    shown.last_round.CopyFrom(Included(index=6, entry=ENTRIES[6], proof=tree.inclusion(6, 7)))
    assert heads.shown(shown, PROMISED, NOW).last_round == Logged(2, bytes.fromhex(sha256("m")))
    assert heads.shown(said(8, 7), PROMISED, NOW).last_round is None


@pytest.mark.parametrize(
    ("index", "entry", "why"),
    [
        (5, ENTRIES[6], "is not in it"),
        (6, a_round(3), "is not in it"),
        (3, ENTRIES[3], "is of something else"),
        (7, ENTRIES[7], "is of something else"),
    ],
)
def test_a_last_round_that_is_not_the_runs_or_not_in_the_log_ends_the_work(
    heads: LogHeads, index: int, entry: bytes, why: str
) -> None:
    tree, shown = tree_of(ENTRIES, 8), said(8, 4)
    shown.last_round.CopyFrom(Included(index=index, entry=entry, proof=tree.inclusion(index, 8)))
    promised = PROMISED if index != 7 else replace(PROMISED, run="8")
    with pytest.raises(LogRefused, match=why):
        heads.shown(shown, promised, NOW)


def test_a_contract_without_a_log_is_refused_where_there_was_one(heads: LogHeads, tmp_path: Path) -> None:
    heads.refuse_none(PROMISED)
    with pytest.raises(LogRefused, match="promises no log, and the operator kept one before"):
        heads.refuse_none(None)
    LogHeads(tmp_path / "elsewhere", "elm", OWN).refuse_none(None)


def test_a_contract_says_which_log_it_promises() -> None:
    made = contract(terms(**SUMMED))
    assert promised_of(made) is None
    promised = promised_of(replace(made, log_key="ab" * 32))
    assert promised is not None
    assert (promised.run, promised.origin, promised.key) == ("7", note.origin_of("ab" * 32), b"\xab" * 32)
    assert promised.identities["Hungary"] == b"\x01" * 32


def test_a_line_that_a_crash_tore_is_dropped(heads: LogHeads, tmp_path: Path) -> None:
    kept = (tmp_path / HEADS).read_bytes()
    (tmp_path / HEADS).write_bytes(kept + kept[:50])
    again = LogHeads(tmp_path, "elm", OWN)
    assert again.last == heads.last
    again.shown(said(7, 4), PROMISED, NOW)
    assert [note.read(one).checkpoint.size for one in read_heads(tmp_path / HEADS)] == [4, 7]


@pytest.mark.parametrize("content", [b"no json\n", b"{}\n", b'{"note": "no head"}\n', b"[" * 5000 + b"\n"])
def test_damaged_heads_are_refused_not_forgotten(tmp_path: Path, content: bytes) -> None:
    (tmp_path / HEADS).write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged"):
        LogHeads(tmp_path, "elm", OWN)
