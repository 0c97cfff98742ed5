"""What `lepton-client check` says beside the data: what would leave, where it would compute, room on the disk.

Each section is a pure function of what was looked up, so that what is said can be read and tested here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lepton_client.outbound import ENERGY
from lepton_client.policy import Policy
from lepton_fl.federation.client_app import DECLARED_WEIGHT
from lepton_fl.federation.contract import (
    EXACT_COUNTS,
    NOISED_COUNTS,
    NOISED_UPDATE,
    PLAIN_UPDATE,
    RECORD_COUNT,
    SHARED_NOISE_COUNTS,
    SHARED_NOISE_UPDATE,
    SUMMED_COUNTS,
    SUMMED_UPDATE,
)
from lepton_fl.training.device import Seen

# An answer is kept on the disk until the server has it, at 4 bytes a parameter: room for 268 million of them.
LEAST_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class Section:
    """One part of a check: a value under its name for machines, lines for people."""

    name: str
    content: object  # as JSON takes it
    lines: tuple[str, ...]


def leaves(policy: Policy | None) -> Section:
    """Everything that can leave this machine in a run under this policy: `agent` and `client_app` send no more."""
    if policy is None:
        said = ["nothing: without a policy nothing runs; write one with lepton-client policy init"]
        return Section("leaves", said, tuple(f"leaves      {sentence}" for sentence in said))
    budget, may = policy.budget, policy.may_leave
    said = [
        "in every run: this machine's address, this institution's certificate, the version of Lepton FL, when it "
        "connects and answers, its signature under the contract or the clause of its policy that refuses, the number "
        "and digest of its ledger's last entry, and its signature under the last head of the operator's log",
        "each round of a run with this institution's own noise: "
        + (
            f"the model's parameters after training with noise, 4 bytes each, and a weight of {DECLARED_WEIGHT}; no "
            f"record, no number of records, no loss; over all runs on {policy.data_set} at most epsilon "
            f"{budget.epsilon:g} at delta {budget.delta:g} per {budget.unit} (policy.budget)"
            if NOISED_UPDATE in may
            else _refused(NOISED_UPDATE)
        ),
        "each round of a run without it: "
        + (
            "the model's parameters, without noise or with noise that others can subtract"
            + (
                "; with privacy=none also how many records were trained on, and their mean loss"
                if RECORD_COUNT in may
                else ""
            )
            + " (policy.public_data, policy.may_leave)"
            if policy.public_data and PLAIN_UPDATE in may
            else _refused(PLAIN_UPDATE)
        ),
        "each round of a run with shared noise: "
        + (
            "a step with this institution's share of the noise, under masks; over all runs the sums of the cohort tell "
            f"at most epsilon {budget.epsilon:g} at delta {budget.delta:g} per {budget.unit} (policy.budget)"
            if SHARED_NOISE_UPDATE in may
            else _refused(SHARED_NOISE_UPDATE)
        ),
        "under secure aggregation: all of it under masks, so that the operator sees sums over the cohort; and keys, "
        "shares and signatures, which hold nothing of the data"
        + (
            f"; also updates that no epsilon covers (policy.may_leave: {SUMMED_UPDATE})"
            if policy.public_data and SUMMED_UPDATE in may
            else ""
        )
        + (
            f"; also counts of the hold-out, which no epsilon covers (policy.may_leave: {SUMMED_COUNTS})"
            if SUMMED_COUNTS in may
            else ""
        ),
        "each evaluation of a run with noise: "
        + (
            "histograms of the hold-out, group by label by score, with this institution's noise; who is held out is "
            f"trained on by nobody, and over all runs at most epsilon {budget.epsilon:g} at delta {budget.delta:g} per "
            f"{budget.unit} is told of them (policy.may_leave: {NOISED_COUNTS}, {SHARED_NOISE_COUNTS})"
            if {NOISED_COUNTS, SHARED_NOISE_COUNTS} & {*may}
            else f"under masks noise alone, and without masks that it is declined (policy.may_leave: {NOISED_COUNTS})"
        ),
        "each evaluation of a run without it: "
        + (
            "exact counts of the hold-out, label by score or by guess, so also how many records it has, and the sum of "
            f"their losses; no epsilon covers them (policy.may_leave: {EXACT_COUNTS}); at most "
            f"{policy.run.holdout_share:g} of the records are held out (policy.run.holdout_share)"
            if EXACT_COUNTS in may
            else f"only that it is declined (policy.may_leave lacks {EXACT_COUNTS})"
        ),
        "what a round took: "
        + (
            "seconds, joules and bytes, to two significant digits; no epsilon covers them, and a duration tells "
            f"something of how many records there are (policy.may_leave: {ENERGY})"
            if ENERGY in may
            else f"nothing (policy.may_leave lacks {ENERGY})"
        ),
        "a round that fails here: the name of the error's type; what it says stays here",
    ]
    return Section("leaves", said, tuple(f"leaves      {sentence}" for sentence in said))


def _refused(kind: str) -> str:
    return f"nothing; such a run is refused before a record is read (policy.may_leave or policy.public_data: {kind})"


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
