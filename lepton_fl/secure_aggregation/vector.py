"""What a masked vector carries: a public schema, the same for the whole cohort, that says what each word stands for.

Counts and losses identify an institution as an update does, so they ride in the same vector. The schema is hashed into
the round's parameters; an institution that was shown another one takes no part.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lepton_fl.errors import ConfigError
from lepton_fl.secure_aggregation.packing import WIRE_BITS, signed
from lepton_fl.secure_aggregation.quantise import Quantiser, dequantise, quantise
from lepton_fl.secure_aggregation.source import Source

Kind = Literal["values", "integers", "ring"]

LIMB_BITS = 15
LARGEST_COHORT_OF_LIMBS = 256  # 256 * (2^15 - 1) < 2^23, so the sums of limbs fit 24 bits with their sign
MOST_LIMBS = 3  # sums stay below 2^53 and are exact wherever they go
MOST_VALUE_BITS = 22
_LABEL = b"lepton-fl/secure-aggregation/1/schema\0"


@dataclass(frozen=True)
class Segment:
    """A named stretch of the vector; `bound` and `limbs` are 0 where the kind has no use for them."""

    name: str
    kind: Kind
    length: int  # entries, >= 1; of "integers" each takes `limbs` words
    bound: float = 0.0  # "values": reals in [-bound, bound]; "ring": integers of at most that magnitude
    limbs: int = 0  # "integers": exact, from 0 to below 2^(15 limbs)

    def __post_init__(self) -> None:
        fits = {
            "values": self.limbs == 0 and math.isfinite(self.bound) and self.bound > 0,
            "integers": self.bound == 0 and 1 <= self.limbs <= MOST_LIMBS,
            "ring": self.limbs == 0 and 1 <= self.bound < 2**31 and self.bound == int(self.bound),
        }
        if not self.name or self.length < 1 or not fits.get(self.kind, False):
            raise ConfigError(
                f"segment {self.name!r} of {self.length} {self.kind} with bound {self.bound} and {self.limbs} limbs "
                "does not describe a part of a vector; nothing was sent; correct the schema"
            )

    @property
    def words(self) -> int:
        """How many words of the vector it takes."""
        return self.length * max(1, self.limbs)


@dataclass(frozen=True)
class Schema:
    """The layout of the vector; making one proves that no sum over the cohort can overflow."""

    segments: tuple[Segment, ...]
    cohort: int  # institutions that are summed at most
    wire_bits: int

    def __post_init__(self) -> None:
        names = [segment.name for segment in self.segments]
        if not names or len(set(names)) != len(names):
            raise ConfigError("a vector has segments of different names; nothing was sent; correct the schema")
        if self.wire_bits not in WIRE_BITS or self.cohort < 1:
            raise ConfigError(
                f"a sum over {self.cohort} institutions in {self.wire_bits} bits is none that can be sent; nothing was "
                f"sent; take 24 or 32 bits"
            )
        for segment in self.segments:
            if segment.kind == "values" and self._value_bits < 2:
                self._refuse(segment, "the integers left for one institution have fewer than 2 bits")
            if segment.kind == "integers" and self.cohort > LARGEST_COHORT_OF_LIMBS:
                self._refuse(segment, f"limbs are summed over at most {LARGEST_COHORT_OF_LIMBS}")
            if self.cohort * self._largest(segment) >= 2 ** (self.wire_bits - 1):
                self._refuse(segment, f"its sum may pass {self.wire_bits} bits")

    @property
    def length(self) -> int:
        """Words of the whole vector."""
        return sum(segment.words for segment in self.segments)

    @property
    def sha256(self) -> bytes:
        """32 bytes over every field of every segment, each in one fixed form."""
        parts = [struct.pack(">III", self.cohort, self.wire_bits, len(self.segments))]
        for segment in self.segments:
            for text in (segment.name.encode(), segment.kind.encode()):
                parts += [struct.pack(">I", len(text)), text]
            parts.append(struct.pack(">QdI", segment.length, segment.bound, segment.limbs))
        return hashlib.sha256(_LABEL + b"".join(parts)).digest()

    def quantiser(self, segment: Segment) -> Quantiser:
        """How the values of this segment become integers: as finely as the sum over the cohort has room for.

        Raises:
            ValueError: if the segment is not one of values.
        """
        if segment.kind != "values":
            raise ValueError(f"segment {segment.name!r} of {segment.kind} is not quantised")
        return Quantiser(segment.bound, self._value_bits)

    def places(self) -> Iterator[tuple[Segment, slice]]:
        """Each segment and where its words are."""
        start = 0
        for segment in self.segments:
            yield segment, slice(start, start + segment.words)
            start += segment.words

    def _largest(self, segment: Segment) -> int:
        """The largest magnitude of one institution's words."""
        if segment.kind == "values":
            return self.quantiser(segment).largest
        return int(segment.bound) if segment.kind == "ring" else 2**LIMB_BITS - 1

    def refuse_impossible(self, segment: Segment, totals: NDArray[np.int32]) -> None:
        """Raises ValueError if no cohort of this size can have these sums of words."""
        most = self.cohort * self._largest(segment)
        least = 0 if segment.kind == "integers" else -most
        if totals.min() < least or totals.max() > most:
            raise ValueError(f"the sum of segment {segment.name!r} is one that no {self.cohort} institutions can have")

    @property
    def _value_bits(self) -> int:
        return min(MOST_VALUE_BITS, self.wire_bits - (self.cohort - 1).bit_length())

    def _refuse(self, segment: Segment, why: str) -> None:
        raise ConfigError(
            f"segment {segment.name!r} cannot be summed over {self.cohort} institutions in {self.wire_bits} bits: "
            f"{why}; nothing was sent; take fewer institutions, 32 bits or a smaller bound"
        )


@dataclass(frozen=True)
class Words:
    """An institution's vector before masking, and what only it may know of the making."""

    words: NDArray[np.uint32]
    saturated: int  # values that their bound cut


def to_words(schema: Schema, arrays: Mapping[str, NDArray[Any]], source: Source) -> Words:
    """The vector that says these arrays, in two's complement.

    Args:
        schema: which the whole cohort has agreed on.
        arrays: by the name of their segment, one dimension each: float32 or float64 "values", any integers otherwise.
        source: of the rounding of values.

    Raises:
        ValueError: if an array is missing, too many, of another length or type, not finite, or an integer lies outside
            its range. Only values are ever cut to their bound.
    """
    if set(arrays) != {segment.name for segment in schema.segments}:
        raise ValueError("the arrays are not those of the schema")
    words, saturated = np.empty(schema.length, np.uint32), 0
    for segment, place in schema.places():
        array = arrays[segment.name]
        if array.shape != (segment.length,):
            raise ValueError(f"segment {segment.name!r} has {segment.length} entries, not the shape {array.shape}")
        if segment.kind == "values":
            out = words[place].view(np.int32)
            saturated += quantise(array, schema.quantiser(segment), source, out=out)[1]
        elif segment.kind == "ring":
            words[place].view(np.int32)[:] = _within(segment, array, -int(segment.bound), int(segment.bound))
        else:
            whole = _within(segment, array, 0, 2 ** (LIMB_BITS * segment.limbs) - 1)
            for number, limb in enumerate(words[place].reshape(segment.limbs, segment.length)):
                limb[:] = whole >> (LIMB_BITS * number) & (2**LIMB_BITS - 1)
    return Words(words, saturated)


def from_sum(schema: Schema, words: NDArray[np.uint32]) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
    """The sums of a cohort's arrays by name: float64 for values, in their own units, and int64 for the others.

    Args:
        schema: under which each institution made its words.
        words: the unmasked sum; bits above the wire's are ignored.

    Raises:
        ValueError: if the sum is of another length, or one that no cohort of the schema's size can have.
    """
    if words.shape != (schema.length,):
        raise ValueError(f"a sum has {schema.length} words, not the shape {words.shape}")
    sums: dict[str, NDArray[np.int64] | NDArray[np.float64]] = {}
    for segment, place in schema.places():
        totals = signed(words[place], schema.wire_bits)
        schema.refuse_impossible(segment, totals)
        if segment.kind == "values":
            sums[segment.name] = dequantise(totals, schema.quantiser(segment))
        elif segment.kind == "ring":
            sums[segment.name] = totals.astype(np.int64)
        else:
            weights = np.left_shift(np.int64(1), LIMB_BITS * np.arange(segment.limbs))
            sums[segment.name] = weights @ totals.reshape(segment.limbs, segment.length).astype(np.int64)
    return sums


def _within(segment: Segment, array: NDArray[Any], least: int, most: int) -> NDArray[np.int64]:
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"segment {segment.name!r} takes integers")
    if array.min() < least or array.max() > most:
        raise ValueError(f"an entry of segment {segment.name!r} is outside {least} to {most}")
    return array.astype(np.int64, copy=False)
