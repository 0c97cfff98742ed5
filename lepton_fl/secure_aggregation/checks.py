"""What an institution holds against the operator's messages; each check is one way to put oneself in between.

Nothing here trusts a figure of the operator: identities, threshold and least cohort are the institution's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lepton_fl.secure_aggregation.agreement import gives_a_secret
from lepton_fl.secure_aggregation.cohort import threshold
from lepton_fl.secure_aggregation.messages import Advert, Echoes, Roster, Survivors
from lepton_fl.secure_aggregation.refusals import Aborted


def check_cohort(announced: Sequence[str], identities: Mapping[str, bytes], least_cohort: int) -> None:
    """The announced cohort is the contract's, each institution has a key of its own, and there are enough."""
    if list(announced) != sorted(identities):
        raise Aborted("other cohort", f"{len(announced)} are announced, the contract names {len(identities)}")
    if len(set(identities.values())) != len(identities):
        raise Aborted("duplicate identity")
    if len(identities) < least_cohort:
        raise Aborted("small cohort", f"{len(identities)} in the contract, at least {least_cohort} wanted")


def check_roster(roster: Roster, own: Advert, identities: Mapping[str, bytes], least_cohort: int) -> None:
    """Everybody on the roster is in the contract, signed these keys for these parameters, and there are enough.

    Args:
        roster: as it came.
        own: what this institution sent; its parameter hash is everybody's.
        identities: the announced cohort of the contract.
        least_cohort: so many must be on the roster, whatever the threshold is.

    Raises:
        Aborted: by the name of the first check that fails.
    """
    names = [advert.institution for advert in roster.adverts]
    _refuse_disorder(names, "doubled roster entry")
    if unknown := sorted(set(names) - set(identities)):
        raise Aborted("unknown institution", unknown[0])
    if own.institution not in names:
        raise Aborted("missing from the roster")
    for advert in roster.adverts:
        _check_entry(advert, own, identities[advert.institution])
    _refuse_shared_keys(roster)
    if len(names) < least_cohort:
        raise Aborted("small cohort", f"{len(names)} on the roster, at least {least_cohort} wanted")
    if len(names) < threshold(len(identities)):
        raise Aborted("below threshold", f"{len(names)} on the roster")


def _check_entry(advert: Advert, own: Advert, identity: bytes) -> None:
    if advert.institution == own.institution and advert != own:
        raise Aborted("own entry altered")
    if not advert.is_by(identity):
        raise Aborted("swapped key", advert.institution)
    if advert.params_sha256 != own.params_sha256:
        raise Aborted("other parameters", advert.institution)


def _refuse_shared_keys(roster: Roster) -> None:
    seen: set[bytes] = set()
    for advert in roster.adverts:
        keys = {advert.mask_public, advert.channel_public}
        if len(keys) < 2 or keys & seen:
            raise Aborted("duplicate key", advert.institution)
        if not all(map(gives_a_secret, keys)):
            raise Aborted("weak key", advert.institution)
        seen |= keys


def check_same_roster(came: bytes, own: bytes) -> None:
    """A message's roster hash is that of the roster which this institution saw."""
    if came != own:
        raise Aborted("other roster")


def check_vector(words: npt.NDArray[np.uint32], length: int, wire_bits: int, cohort: int) -> None:
    """The vector has the agreed length, and no cohort of such vectors can overflow the ring.

    An overflow would make the sum wrong, and nobody could see it.
    """
    if words.dtype != np.uint32 or words.shape != (length,):
        raise Aborted("other length", f"{words.size} entries of {words.dtype}, agreed were {length} of uint32")
    integers = words.view(np.int32)
    largest = max(int(integers.max(initial=0)), -int(integers.min(initial=0)))
    if cohort * largest >= 1 << (wire_bits - 1):
        raise Aborted("overflow")  # how large it is stays here


def check_survivors(came: Survivors, own: str, u1: Mapping[str, object], least: int) -> None:
    """The survivors are part of U1, this institution is among them, and at least `least` are left."""
    if outside := sorted(set(came.survivors) - set(u1)):
        raise Aborted("survivor without shares", outside[0])
    if own not in came.survivors:
        raise Aborted("left out")
    if len(came.survivors) < least:
        raise Aborted("below threshold", f"{len(came.survivors)} survivors")


def check_echoes(echoes: Echoes, seen: Survivors, identities: Mapping[str, bytes], least: int) -> None:
    """At least `least` survivors signed the very list that this institution saw, and no echo says otherwise."""
    _refuse_disorder([echo.institution for echo in echoes.echoes], "doubled echo")
    sha256 = seen.sha256
    for echo in echoes.echoes:
        if echo.institution not in seen.survivors:
            raise Aborted("echo from outside", echo.institution)
        if not echo.is_by(identities[echo.institution]):
            raise Aborted("forged echo", echo.institution)
        if echo.roster_sha256 != seen.roster_sha256:
            raise Aborted("replayed echo", echo.institution)
        if echo.survivors_sha256 != sha256:
            raise Aborted("split view", echo.institution)
    if len(echoes.echoes) < least:
        raise Aborted("too few echoes", f"{len(echoes.echoes)} of the {least} wanted")


def _refuse_disorder(names: Sequence[str], refusal: str) -> None:
    for first, second in pairwise(names):
        if first >= second:
            raise Aborted(refusal, second)
