"""The masks that are left in a sum, from the shares that a threshold of survivors gave.

Of a survivor its self mask is left. Of a peer that dropped out after it shared, the masks that each survivor has with
it. Every secret is held against what its owner published in the advert, so no false share passes unseen; up to half of
the answers beyond the threshold may be false and are decoded around.

Source: Bonawitz et al. 2017, figure 4, round 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from lepton_fl.secure_aggregation import shamir
from lepton_fl.secure_aggregation.agreement import pair_stream, self_stream
from lepton_fl.secure_aggregation.keys import commitment, mask_key, public_of
from lepton_fl.secure_aggregation.masks import Stream
from lepton_fl.secure_aggregation.messages import Advert, Roster, Unmask
from lepton_fl.secure_aggregation.refusals import FalseShares


@dataclass(frozen=True, repr=False)
class Answers:
    """What the survivors sent, checked but for the shares' values."""

    unmasks: Mapping[str, Unmask]  # by who sent it
    threshold: int


def masks_left(
    roster: Roster, kept: tuple[str, ...], dropped: tuple[str, ...], answers: Answers
) -> tuple[list[Stream], frozenset[str]]:
    """The streams which, added to the survivors' sum, take every mask away; and who sent false shares.

    Args:
        roster: whose adverts the secrets are held against.
        kept: the survivors, whose self masks go.
        dropped: who shared and did not survive, whose masks with survivors go.
        answers: at least the threshold of them.

    Raises:
        FalseShares: if a secret cannot be told from its shares.
    """
    adverts = {advert.institution: advert for advert in roster.adverts}
    sha256, points = roster.sha256, roster.points
    of_b = {name: dict(unmask.self_shares) for name, unmask in answers.unmasks.items()}
    of_r = {name: dict(unmask.key_shares) for name, unmask in answers.unmasks.items()}
    streams: list[Stream] = []
    false: set[str] = set()

    def secret(owner: str, sent: dict[str, dict[str, bytes]], is_right: Callable[[int], bool]) -> int:
        values, unfit = _elements({name: shares[owner] for name, shares in sent.items()})
        decoded = shamir.decode({points[name]: value for name, value in values.items()}, answers.threshold)
        if decoded is None or not is_right(decoded.secret):
            raise FalseShares(owner, len(sent), answers.threshold)
        false.update(unfit, (name for name in values if points[name] in decoded.false))
        return decoded.secret

    for owner in kept:
        b = secret(owner, of_b, partial(_is_self, adverts[owner]))
        streams.append(self_stream(b, sha256, -1))
    for owner in dropped:
        r = secret(owner, of_r, partial(_is_key, adverts[owner]))
        private = mask_key(r)
        # What the dropped one would have added towards a survivor is the negative of what the survivor added.
        streams += [pair_stream(private, adverts[peer].mask_public, sha256, (owner, peer)) for peer in kept]
    return streams, frozenset(false)


def _is_self(advert: Advert, element: int) -> bool:
    return commitment(element) == advert.commitment


def _is_key(advert: Advert, element: int) -> bool:
    return public_of(mask_key(element)) == advert.mask_public


def _elements(shares: Mapping[str, bytes]) -> tuple[dict[str, int], set[str]]:
    """The shares as field elements, and whose are none."""
    values, unfit = {}, set()
    for name, share in shares.items():
        try:
            values[name] = shamir.from_bytes(share)
        except ValueError:
            unfit.add(name)
    return values, unfit
