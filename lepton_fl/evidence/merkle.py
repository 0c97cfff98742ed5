"""A Merkle tree that only grows, and the two proofs about it: an entry is in it; a smaller tree is its beginning.

Source: RFC 9162, sections 2.1.1 (hashes), 2.1.3 (inclusion) and 2.1.4 (consistency); SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

HASH_BYTES = 32
LONGEST_PROOF = 64  # hashes; enough for 2^63 entries
EMPTY = hashlib.sha256(b"").digest()  # root of the tree without entries

Proof = Sequence[bytes]


def leaf_hash(entry: bytes) -> bytes:
    """32 bytes of an entry; the prefix keeps it apart from a node's."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """32 bytes of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """The hashes of all whole subtrees: the root and the proofs of every size up to now without a look at entries."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.add(leaf)

    def __len__(self) -> int:
        return len(self._levels[0])

    def add(self, leaf: bytes) -> None:
        """The tree has one more entry, with this hash."""
        self._levels[0].append(leaf)
        level = 0
        while len(self._levels[level]) % 2 == 0:
            if level + 1 == len(self._levels):
                self._levels.append([])
            self._levels[level + 1].append(node_hash(*self._levels[level][-2:]))
            level += 1

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` entries; None: of all."""
        size = len(self) if size is None else size
        self._refuse_beyond(size)
        return self._hash(0, size) if size else EMPTY

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that entry `index`, from 0, is in the tree of `size` entries."""
        self._refuse_beyond(size)
        if not 0 <= index < size:
            raise ValueError(f"entry {index} is not among {size}")
        return self._path(index, 0, size)

    def consistency(self, first: int, size: int) -> list[bytes]:
        """The proof that the tree of `first` entries is the beginning of the one of `size`; of none, or all, empty."""
        self._refuse_beyond(size)
        if not 0 <= first <= size:
            raise ValueError(f"{first} entries are not the beginning of {size}")
        return self._subproof(first, 0, size, is_known=True) if 0 < first < size else []

    def _hash(self, start: int, end: int) -> bytes:
        """Of the entries from `start` to before `end`; `start` is a multiple of the largest power of two below."""
        width = end - start
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self._levels[level][start >> level]
        split = start + _split(width)
        return node_hash(self._hash(start, split), self._hash(split, end))

    def _path(self, index: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        split = start + _split(end - start)
        if index < split:
            return [*self._path(index, start, split), self._hash(split, end)]
        return [*self._path(index, split, end), self._hash(start, split)]

    def _subproof(self, first: int, start: int, end: int, *, is_known: bool) -> list[bytes]:
        if first == end:
            return [] if is_known else [self._hash(start, end)]
        split = start + _split(end - start)
        if first <= split:
            return [*self._subproof(first, start, split, is_known=is_known), self._hash(split, end)]
        return [*self._subproof(first, split, end, is_known=False), self._hash(start, split)]

    def _refuse_beyond(self, size: int) -> None:
        if not 0 <= size <= len(self):
            raise ValueError(f"the tree has {len(self)} entries, not {size}")


def _split(width: int) -> int:
    """The largest power of two below `width`, which is more than one."""
    return 1 << ((width - 1).bit_length() - 1)


def is_included(leaf: bytes, index: int, size: int, proof: Proof, root: bytes) -> bool:
    """Whether the proof shows the entry with this hash at `index` of the tree with this size and root.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size or not _is_sound(proof):
        return False
    node, last, reached = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            reached = node_hash(sibling, reached)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            reached = node_hash(reached, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and reached == root


def is_consistent(first: tuple[int, bytes], second: tuple[int, bytes], proof: Proof) -> bool:
    """Whether the proof shows the first tree, as size and root, to be the beginning of the second.

    The tree without entries is the beginning of every other.

    Source: RFC 9162, section 2.1.4.2.
    """
    (size, root), (larger, larger_root) = first, second
    if not 0 <= size <= larger or not _is_sound(proof):
        return False
    if size in (0, larger):
        return not proof and root == (EMPTY if size == 0 else larger_root)
    path = [root, *proof] if size & (size - 1) == 0 else [*proof]
    if not path:
        return False
    node, last = size - 1, larger - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old == root and new == larger_root


def _is_sound(proof: Proof) -> bool:
    return len(proof) <= LONGEST_PROOF and all(len(one) == HASH_BYTES for one in proof)
