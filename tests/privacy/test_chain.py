"""Every change of a chained file is noticed, and the first bad entry is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_fl.privacy.chain import GENESIS, Damaged, Head, after, genuine, head_line, line, read_head, verify

KEY = bytes(range(32))
LENGTH = 1000


@cache
def lines(length: int = LENGTH) -> tuple[bytes, ...]:
    made, head = [], GENESIS
    for number in range(1, length + 1):
        made.append(line(head, {"at": "2026-01-01T00:00:00+00:00", "kind": "left", "round": number}, KEY))
        head = after(head, made[-1])
    return tuple(made)


@cache
def heads(length: int = LENGTH) -> tuple[Head, ...]:
    """The head after 0, 1, 2 ... entries."""
    made = [GENESIS]
    for text in lines(length):
        made.append(after(made[-1], text))
    return tuple(made)


def damage(content: bytes, head: Head, start: Head = GENESIS) -> Damaged:
    with pytest.raises(Damaged) as caught:
        verify(content, KEY, head, start)
    return caught.value


def damage_after(before: int, rest: list[bytes], head: Head) -> Damaged:
    """As `damage` of the whole file of which the first `before` entries are as they were."""
    return damage(b"".join(rest), head, heads()[before])


def flipped(content: bytes, position: int, mask: int) -> bytes:
    return content[:position] + bytes([content[position] ^ mask]) + content[position + 1 :]


def test_what_was_written_is_read_back() -> None:
    found = verify(b"".join(lines(3)), KEY, heads(3)[3])
    assert [entry.fields["round"] for entry in found.entries] == [1, 2, 3]
    assert (found.size, found.torn) == (sum(map(len, lines(3))), 0)
    assert verify(b"", KEY, GENESIS).entries == ()


def test_an_entry_written_before_its_head_counts_and_a_torn_one_does_not() -> None:
    three = lines(3)
    whole = verify(b"".join(three), KEY, heads(3)[2])
    assert len(whole.entries) == 3
    torn = verify(b"".join(three)[:-9], KEY, heads(3)[2])
    assert (len(torn.entries), torn.torn) == (2, len(three[2]) - 9)


def test_two_entries_beyond_the_head_are_damage() -> None:
    assert damage(b"".join(lines(3)), heads(3)[1]).entry == 3
    assert damage(b"".join(lines(3))[:-9], heads(3)[1]).entry == 3


def refuses_change(entry: int, byte: int, mask: int) -> None:
    texts, head = lines(), heads()[LENGTH]
    # From the changed entry on: those before it are as they were. The two after it show what a lost line break does.
    changed = [flipped(texts[entry], byte, mask), *texts[entry + 1 : entry + 3]]
    found = damage_after(entry, changed, head)
    assert found.entry == entry + 1


def test_every_single_changed_byte_names_its_entry() -> None:
    for entry, text in enumerate(lines()):
        for byte in range(len(text)):
            refuses_change(entry, byte, 1 << (byte % 8))


def test_a_changed_byte_is_found_in_the_whole_file_as_from_its_entry_on() -> None:
    content, head = b"".join(lines()), heads()[LENGTH]
    for entry, mask in ((0, 1), (499, 32), (999, 255)):
        start = sum(map(len, lines()[:entry]))
        assert damage(flipped(content, start + 20, mask), head).entry == entry + 1


def test_a_deleted_entry_is_named() -> None:
    texts, head = lines(), heads()[LENGTH]
    for entry in range(LENGTH):
        found = damage_after(entry, list(texts[entry + 1 : entry + 3]), head)
        assert (found.entry, "missing" in found.what) == (entry + 1, True)


def test_a_swapped_pair_is_out_of_order() -> None:
    texts, head = lines(), heads()[LENGTH]
    for entry in range(LENGTH - 1):
        found = damage_after(entry, [texts[entry + 1], texts[entry]], head)
        assert (found.entry, found.what) == (entry + 1, "is out of order")


def test_an_entry_that_stands_twice_is_out_of_order() -> None:
    texts, head = lines(), heads()[LENGTH]
    found = damage_after(5, [texts[5], texts[5], texts[6]], head)
    assert (found.entry, "out of order" in found.what) == (7, True)


def test_a_file_cut_off_between_entries_names_the_first_that_is_gone() -> None:
    head, content = heads()[LENGTH], b"".join(lines())
    for kept in range(LENGTH):
        found = damage(b"", head, heads()[kept])
        assert (found.entry, "ends early" in found.what) == (kept + 1, True)
    assert damage(content[: sum(map(len, lines()[:700]))], head).entry == 701


def test_a_file_cut_off_within_an_entry_names_that_entry() -> None:
    for cut in range(1, len(lines()[999])):
        found = damage(lines()[999][:cut], heads()[LENGTH], heads()[LENGTH - 1])
        assert (found.entry, "cut short" in found.what) == (LENGTH, True)


def test_an_older_file_under_a_newer_head_is_damage_and_so_is_an_older_head_than_was_read() -> None:
    assert damage(b"".join(lines()[:900]), heads()[LENGTH]).entry == 901
    assert damage(b"", heads()[899], heads()[900]).entry == 900


def test_another_genuine_file_is_not_the_one_that_the_head_names() -> None:
    other = line(GENESIS, {"kind": "settled"}, KEY)
    assert damage(other, heads()[1]).entry == 1
    assert damage(other + lines()[1], heads()[2]).entry == 2  # entry 1 is whole, and entry 2 follows another


def test_a_genuine_line_in_another_form_is_damage() -> None:
    spaced = lines()[0].replace(b'":', b'": ')
    assert damage(spaced, heads()[1]).entry == 1
    doubled = lines()[0].replace(b'"kind"', b'"round":1,"kind"')
    assert damage(doubled, heads()[1]).entry == 1


@pytest.mark.parametrize("text", [b"[" * 100_000, b"NaN", b'{"n":1e999}', b"\xff", b"", b"{}", b"null", b"1" * 5000])
def test_nonsense_in_a_whole_line_is_damage_and_never_a_crash(text: bytes) -> None:
    assert damage(text + b"\n", heads()[1]).entry == 1


def test_another_key_reads_nothing() -> None:
    with pytest.raises(Damaged, match="entry 1 was changed"):
        verify(lines()[0], bytes(32), heads()[1])


def test_a_head_is_read_back_and_any_changed_byte_of_it_is_damage() -> None:
    content = head_line(heads()[7], KEY)
    assert read_head(content, KEY) == heads()[7]
    for position in range(len(content)):
        for mask in (1, 32, 255):
            with pytest.raises(Damaged, match="head"):
                read_head(flipped(content, position, mask), KEY)
    for cut in range(len(content)):
        with pytest.raises(Damaged, match="head"):
            read_head(content[:cut], KEY)


def test_an_entry_cannot_pass_for_a_head() -> None:
    with pytest.raises(Damaged):
        read_head(line(GENESIS, {"position": 3, "sha256": "0" * 64}, KEY), KEY)


def test_what_can_be_read_of_a_damaged_file_is_every_genuine_line() -> None:
    texts = list(lines(5))
    texts[1] = flipped(texts[1], 30, 1)
    assert [entry.head.position for entry in genuine(b"".join(reversed(texts)), KEY)] == [5, 4, 3, 1]


def test_the_fields_of_the_chain_are_no_users() -> None:
    with pytest.raises(ValueError, match="mac"):
        line(GENESIS, {"mac": "00"}, KEY)


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)
names = st.text().filter(lambda name: name not in ("n", "previous", "mac"))


@given(st.lists(st.dictionaries(names, values, max_size=4), max_size=5))
def test_any_fields_come_back_as_they_were(written: list[dict[str, object]]) -> None:
    content, head = b"", GENESIS
    for fields in written:
        text = line(head, fields, KEY)
        content, head = content + text, after(head, text)
    assert [dict(entry.fields) for entry in verify(content, KEY, head).entries] == written


def change(content: bytes, position: int, value: int) -> bytes:
    return content[:position] + bytes([value]) + content[position + 1 :]


def insert(content: bytes, position: int, value: int) -> bytes:
    return content[:position] + bytes([value]) + content[position:]


def drop(content: bytes, position: int, value: int) -> bytes:
    return content[:position] + content[position + 1 + value :]


@given(st.sampled_from([change, insert, drop]), st.integers(0, 10**6), st.integers(0, 255))
def test_no_other_file_passes_for_the_one_that_was_written(
    edit: Callable[[bytes, int, int], bytes], position: int, value: int
) -> None:
    content = b"".join(lines(8))
    edited = edit(content, position % len(content), value)
    # One more torn byte after the last entry is what a killed process leaves, and changes no entry.
    if edited == content or (edited[:-1] == content and edited[-1:] != b"\n"):
        return
    assert 1 <= damage(edited, heads(8)[8]).entry <= 9
