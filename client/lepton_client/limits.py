"""What an institution agrees to, and the refusal of whatever goes beyond."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_fl.errors import LeptonError
from lepton_fl.federation.terms import Terms
from lepton_fl.privacy.units import RecordPrivacy


@dataclass
class Limits:
    """What this institution agrees to, whatever an operator asks; anything beyond is refused."""

    epsilon: float  # per run, at most
    delta: float  # at most
    not_private: bool  # true: privacy=none and seeded runs too. For public data only
    exact_counts: bool  # true: exact counts of the hold-out may leave, which no epsilon covers
    holdout_share: float  # of the records that may be held out, at most


class Refused(LeptonError):
    """The server will not have this institution; trying again by itself would not help."""

    exit_code = 7


def refuse_beyond(limits: Limits, terms: Terms) -> None:
    """Raise `Refused`, naming the setting, if the operator's terms go beyond this institution's limits."""
    privacy = terms.privacy
    if not isinstance(privacy, RecordPrivacy) or terms.seed is not None:
        if not limits.not_private:
            what = "privacy=none" if terms.seed is None else f"seed={terms.seed}, with which noise can be subtracted"
            raise Refused(f"the run asks for {what}; nothing was read or sent; limits.not_private=true allows it")
    elif privacy.epsilon > limits.epsilon or privacy.delta > limits.delta:
        raise Refused(
            f"the run asks for epsilon {privacy.epsilon:g} at delta {privacy.delta:g}, and limits allow "
            f"{limits.epsilon:g} at {limits.delta:g}; nothing was read or sent"
        )
    if terms.holdout.share > limits.holdout_share:
        raise Refused(
            f"the run holds out {terms.holdout.share:g} of the records, and limits.holdout_share allows "
            f"{limits.holdout_share:g}; nothing was read or sent"
        )
