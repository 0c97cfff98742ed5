"""What `lepton-client check` says beside the data: what would leave, where it would compute, room on the disk.

Each section is a pure function of what was looked up, so that what is said can be read and tested here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lepton_client.limits import Limits
from lepton_fl.federation.client_app import DECLARED_WEIGHT
from lepton_fl.training.device import Seen

# An answer is kept on the disk until the server has it, at 4 bytes a parameter: room for 268 million of them.
LEAST_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class Section:
    """One part of a check: a value under its name for machines, lines for people."""

    name: str
    content: object  # as JSON takes it
    lines: tuple[str, ...]


def leaves(limits: Limits) -> Section:
    """Everything that can leave this machine in a run under these limits: `agent` and `client_app` send no more."""
    said = [
        "in every run: this machine's address, this institution's certificate, the version of Lepton FL, and when it "
        "connects and answers",
        f"each round of a private run: the model's parameters after training with noise, 4 bytes each, and a weight of "
        f"{DECLARED_WEIGHT}; no record, no number of records, no loss; at most epsilon {limits.epsilon:g} at delta "
        f"{limits.delta:g} a run (limits.epsilon, limits.delta)",
        "each round of a run that is not private: "
        + (
            "the model's parameters, without noise or with noise that a seed lets others subtract; with privacy=none "
            "also the number of training records and their mean loss (limits.not_private=true)"
            if limits.not_private
            else "nothing; such a run is refused before a record is read (limits.not_private=false)"
        ),
        "each evaluation: "
        + (
            "exact counts of the hold-out, label by score or by guess, so also how many records it has, and the sum of "
            f"their losses; no epsilon covers them (limits.exact_counts=true); at most {limits.holdout_share:g} of the "
            "records are held out (limits.holdout_share)"
            if limits.exact_counts
            else "only that exact counts may not leave (limits.exact_counts=false)"
        ),
        "a round that fails here: the name of the error's type; what it says stays here",
        "a run that is refused, by these limits or for its data: the end of the connection, and no reason",
    ]
    return Section("leaves", said, tuple(f"leaves      {sentence}" for sentence in said))


def device(seen: Sequence[Seen], asked: str, chosen: torch.device) -> Section:
    """What torch can compute on, and which of them a run would use."""
    content = {"asked": asked, "chosen": str(chosen), "seen": [asdict(one) for one in seen]}
    lines = [f"device      {one}{f', which device={asked} chooses' if one.name == str(chosen) else ''}" for one in seen]
    if len(seen) == 1:
        lines.append("device      torch sees no GPU")
    return Section("device", content, tuple(lines))


def disk(folder: Path, free_bytes: int, institution: str | None) -> Section:
    """Room for the answers that wait for the server.

    Args:
        folder: the institution's home; the current folder where there is none yet.
        institution: as it is enrolled; None: not yet.
    """
    is_enough = free_bytes >= LEAST_FREE_BYTES
    content = {
        "folder": str(folder),
        "free_bytes": free_bytes,
        "least_bytes": LEAST_FREE_BYTES,
        "is_enough": is_enough,
        "institution": institution,
    }
    whose = f"the home of {institution}" if institution is not None else "the current folder"
    lines = [f"disk        {_gib(free_bytes)} free in {whose}, {folder}"]
    if institution is None:
        lines.append("disk        not enrolled yet: this institution has no home; join with lepton-client enroll")
    if not is_enough:
        least = f"less than {_gib(LEAST_FREE_BYTES)} is free in {folder}"
        lines.append(f"warning     {least}, where an answer is kept until the server has it")
    return Section("disk", content, tuple(lines))


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
