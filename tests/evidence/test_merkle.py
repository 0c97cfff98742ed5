"""The log's tree is RFC 9162's: published roots, a naive oracle for every small size, and proofs that hold for nothing
else."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_fl.evidence.merkle import EMPTY, Tree, is_consistent, is_included, leaf_hash

# The eight entries of Certificate Transparency's own test vectors (RFC 6962's reference implementation), and the root
# of each size from one on.
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
MOST = 300


def naive(entries: list[bytes]) -> bytes:
    """The recursive definition of RFC 9162, section 2.1.1, word by word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + naive(entries[:k]) + naive(entries[k:])).digest()


def tree(size: int) -> tuple[Tree, list[bytes]]:
    entries = [str(number).encode() for number in range(size)]
    return Tree(map(leaf_hash, entries)), entries


WHOLE, OF_WHOLE = tree(MOST)


def test_the_roots_are_the_published_ones() -> None:
    made = Tree()
    assert made.root() == EMPTY == naive([])
    for entry, root in zip(ENTRIES, ROOTS, strict=True):
        made.add(leaf_hash(entry))
        assert made.root().hex() == root


def test_the_proofs_are_the_published_ones() -> None:
    made = Tree(map(leaf_hash, ENTRIES))
    assert [one.hex()[:8] for one in made.inclusion(0, 8)] == ["96a296d2", "5f083f0a", "6b47aaf2"]
    assert [one.hex()[:8] for one in made.inclusion(5, 8)] == ["bc1a0643", "ca854ea1", "d37ee418"]
    assert [one.hex()[:8] for one in made.consistency(1, 8)] == ["96a296d2", "5f083f0a", "6b47aaf2"]
    assert [one.hex()[:8] for one in made.consistency(6, 8)] == ["0ebc5d34", "ca854ea1", "d37ee418"]


@pytest.mark.parametrize("size", range(1, MOST + 1, 7))
def test_every_size_has_the_root_and_the_proofs_of_the_definition(size: int) -> None:
    root = naive(OF_WHOLE[:size])
    assert WHOLE.root(size) == tree(size)[0].root() == root
    for index in {0, size // 2, size - 1}:
        assert is_included(leaf_hash(OF_WHOLE[index]), index, size, WHOLE.inclusion(index, size), root)
    for first in {0, 1, size // 3, size // 2, size - 1, size}:
        proof = WHOLE.consistency(first, size)
        assert is_consistent((first, naive(OF_WHOLE[:first])), (size, root), proof)


def test_all_roots_up_to_three_hundred_are_the_definitions() -> None:
    assert [WHOLE.root(size) for size in range(0, MOST + 1, 3)] == [
        naive(OF_WHOLE[:size]) for size in range(0, MOST + 1, 3)
    ]


@given(st.data())
def test_a_proof_shows_no_other_entry_place_size_or_root(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 40))
    index = data.draw(st.integers(0, size - 1))
    proof, root = WHOLE.inclusion(index, size), WHOLE.root(size)
    assert not is_included(leaf_hash(b"another"), index, size, proof, root)
    assert not is_included(leaf_hash(OF_WHOLE[index]), (index + 1) % size, size, proof, root)
    assert not is_included(leaf_hash(OF_WHOLE[index]), index, size, [*proof, root], root)
    assert not is_included(leaf_hash(OF_WHOLE[index]), index, size, proof[:-1], root)
    assert not is_included(leaf_hash(OF_WHOLE[index]), index, size, proof, WHOLE.root(size - 1))


@given(st.data())
def test_a_log_with_another_past_has_no_proof(data: st.DataObject) -> None:
    first = data.draw(st.integers(1, 40))
    second = data.draw(st.integers(first, 60))
    changed = data.draw(st.integers(0, first - 1))
    entries = [*OF_WHOLE[:second]]
    entries[changed] = b"another"
    forked = Tree(map(leaf_hash, entries))
    seen, shown = (first, WHOLE.root(first)), (second, forked.root())
    assert not is_consistent(seen, shown, forked.consistency(first, second))
    assert not is_consistent(seen, shown, WHOLE.consistency(first, second))
    assert not is_consistent((second, WHOLE.root(second)), (first, WHOLE.root(first)), []) or first == second


def test_what_is_no_proof_shows_nothing() -> None:
    root = WHOLE.root(8)
    assert not is_included(leaf_hash(OF_WHOLE[0]), 0, 8, [b"short"] * 3, root)
    assert not is_included(leaf_hash(OF_WHOLE[0]), 8, 8, [], root)
    assert not is_consistent((3, WHOLE.root(3)), (8, root), [root] * 65)
    assert not is_consistent((3, WHOLE.root(3)), (8, root), [])
    assert not is_consistent((0, root), (8, root), [])
    assert not is_consistent((8, root), (8, WHOLE.root(7)), [])


@pytest.mark.parametrize(
    "ask", [lambda one: one.root(301), lambda one: one.inclusion(8, 8), lambda one: one.consistency(9, 8)]
)
def test_what_is_not_in_the_tree_has_no_root_and_no_proof(ask) -> None:
    with pytest.raises(ValueError, match="entr"):
        ask(WHOLE)
