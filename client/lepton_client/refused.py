"""The refusal of what this institution does not agree to, or of this institution by the other side."""

from __future__ import annotations

from lepton_fl.errors import LeptonError


class Refused(LeptonError):
    """One of the two sides will not go on; trying again by itself would not help."""

    exit_code = 7


class Declined(LeptonError):
    """As `Refused`, in a sentence that the operator may read: it has no value of the policy, nor of this machine."""

    exit_code = 7
