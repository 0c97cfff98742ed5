"""Why an attempt ends: an institution refuses it by a fixed name, or the operator has too few answers.

The name of a refusal may travel: it tells what the operator's own messages looked like and nothing of the data. ("other
length" and "overflow" are about the own vector; its entries are bounded before, so that only a fault of the program can
lead there.) The message beside the name is for the institution's own log.
"""

from __future__ import annotations

from lepton_fl.errors import LeptonError

_ASK = "ask the operator what it sent"
_KEYS = "compare the fingerprints of the keys by telephone"
_AGAIN = "wait for the next attempt"
_CONTRACT = "compare the contract with the operator's"

# Name: what happened, and what to do. The names are fixed; tests and documents refer to them.
REFUSALS = {
    # The institution's own state
    "burned": ("this attempt was refused before and its keys are gone", _AGAIN),
    "out of order": ("a message came that is not the next one of the protocol", _ASK),
    "malformed message": ("a message is not in its one form", _ASK),
    # What was agreed to
    "not in the contract": ("the contract does not name this institution with this key", _CONTRACT),
    "duplicate identity": ("the contract names one identity key twice", _CONTRACT),
    "small cohort": ("fewer institutions take part than this institution's policy wants", "wait for a larger cohort"),
    "other run": ("the round's parameters are of another run", _CONTRACT),
    "other contract": ("the round's parameters are of another contract", _CONTRACT),
    "other purpose": ("the round's parameters are for another purpose than the instruction", _ASK),
    "other round": ("the round's parameters are of another round", _ASK),
    "other model": ("the round's parameters have another model than came with the instruction", _ASK),
    "other schema": ("the round's parameters have another layout of the vector", _CONTRACT),
    "other length": ("the vector has another length than was agreed", _CONTRACT),
    "other ring": ("the round's parameters have another ring than was agreed", _CONTRACT),
    "other cohort": ("the round's parameters announce another cohort than the contract", _CONTRACT),
    "overflow": ("the vector has an entry so large that the cohort's sum could overflow the ring", "check the schema"),
    # The roster
    "unknown institution": ("the roster has an institution that the contract does not name", _CONTRACT),
    "doubled roster entry": ("the roster has an institution twice, or out of order", _ASK),
    "missing from the roster": ("the roster leaves this institution out", _AGAIN),
    "own entry altered": ("the roster has other keys for this institution than it sent", _ASK),
    "other parameters": ("another institution was shown other parameters for this round", _ASK),
    "swapped key": ("keys in the roster are not signed by the identity in the contract", _KEYS),
    "duplicate key": ("the roster has one key twice", _ASK),
    "weak key": ("the roster has a key that gives no secret", _ASK),
    "below threshold": ("fewer institutions are left than the threshold", _AGAIN),
    # After the roster
    "other roster": ("a message belongs to another roster: another attempt, or another institution's view", _ASK),
    "unknown sender": ("shares came from outside the roster", _ASK),
    "left out": ("the survivor list leaves out this institution, whose vector was sent", _AGAIN),
    "survivor without shares": ("the survivor list has an institution whose shares never came", _ASK),
    "second survivor list": ("a second survivor list came for one round", _ASK),
    "echo from outside": ("an echo is from outside the survivor list", _ASK),
    "doubled echo": ("an echo came twice, or out of order", _ASK),
    "forged echo": ("an echo is not signed by the identity in the contract", _KEYS),
    "replayed echo": ("an echo is of another round or attempt", _ASK),
    "split view": ("another institution was shown another survivor list", _ASK),
    "too few echoes": ("fewer institutions than the threshold confirmed the survivor list", _AGAIN),
    "second unmask": ("this round was unmasked before", "wait for the next round"),
}


class Aborted(LeptonError):
    """An institution ends its part in an attempt; it gives nobody a share any more and its keys are erased."""

    def __init__(self, name: str, about: str = "") -> None:
        """Say what happened by its name.

        Args:
            name: one of `REFUSALS`; may travel.
            about: which institution or entry, for this institution's own log; nothing of the data.
        """
        self.name = name
        happened, to_do = REFUSALS[name]
        super().__init__(
            f"{name}: {happened}{f' ({about})' if about else ''}; nothing more leaves, and this attempt's keys are "
            f"erased; {to_do}"
        )


class BelowThreshold(LeptonError):
    """The operator has fewer true answers than the threshold; the attempt ends without a sum."""

    def __init__(self, phase: str, answered: int, threshold: int) -> None:
        super().__init__(
            f"{answered} institutions are left after {phase}, and a sum takes {threshold}; nothing was unmasked; try "
            "again with new keys, or wait for more institutions"
        )
        self.phase, self.answered, self.threshold = phase, answered, threshold


class FalseShares(BelowThreshold):
    """So many shares of one secret are false that it cannot be told; the round has no sum and is never tried again."""

    def __init__(self, owner: str, answered: int, threshold: int) -> None:
        super().__init__("unmasking", answered, threshold)
        self.owner = owner
        self.args = (
            f"{answered} institutions answered for a secret of {owner}, and too many of their shares are false for a "
            f"threshold of {threshold}; no sum was made; skip this round and look at who took part",
        )
