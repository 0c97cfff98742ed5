"""Who is held out, and which made-up bank a subject belongs to.

The hold-out is a keyed hash of the subject's id: the same subject is held out in every run, on every
machine, at every institution, whatever else is in the file, so training and hold-out never share one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import ConfigError, DataError


def hash_fraction(key: str, subject: str) -> float:
    """HMAC-SHA256 of the subject under the key, as a fraction in [0, 1)."""
    digest = hmac.digest(key.encode(), subject.encode(), hashlib.sha256)
    return int.from_bytes(digest[:8], "big") * 2.0**-64


@dataclass
class HoldOut:
    """Which subjects are never trained on: those that figures come from, and those that choices during training do."""

    key: str  # one for all institutions and runs; another key is another split
    share: float  # of subjects held out for figures alone, in (0, 1)
    tune: float  # a further share, held out for choices during training, in [0, 1 - share)

    def __post_init__(self) -> None:
        if not self.key:
            raise ConfigError("holdout.key must not be empty")
        if not 0 < self.share < 1:
            raise ConfigError(f"holdout.share must lie between 0 and 1, got {self.share}")
        if not 0 <= self.tune < 1 - self.share:
            raise ConfigError(
                f"holdout.tune must be at least 0 and leave subjects to train on beside holdout.share {self.share:g}, "
                f"got {self.tune}"
            )

    @property
    def held_out(self) -> float:
        """Share of subjects that are not trained on, to twelve decimals."""
        return round(self.share + self.tune, 12)

    @property
    def sha256(self) -> str:
        """Which split this is, hex: of another one the same subjects may have been on another side."""
        return hashlib.sha256(json.dumps([self.key, self.share, self.tune]).encode()).hexdigest()

    def holds(self, subject: str) -> bool:
        """True if this subject's hash fraction lies below `share`."""
        return hash_fraction(self.key, subject) < self.share

    def mask(self, subjects: Sequence[str]) -> npt.NDArray[np.bool_]:
        """`holds` of each subject."""
        return np.fromiter((self.holds(subject) for subject in subjects), dtype=np.bool_, count=len(subjects))

    def tunes(self, subject: str) -> bool:
        """True if this subject's hash fraction lies in [`share`, `share` + `tune`)."""
        return self.share <= hash_fraction(self.key, subject) < self.share + self.tune

    def tune_mask(self, subjects: Sequence[str]) -> npt.NDArray[np.bool_]:
        """`tunes` of each subject."""
        return np.fromiter((self.tunes(subject) for subject in subjects), dtype=np.bool_, count=len(subjects))


@dataclass
class Partition:
    """How records without institutions are spread over made-up ones, by a Dirichlet draw per label.

    Source: Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated
    Visual Classification".
    """

    prefix: str  # institutions are named prefix-1, prefix-2, ...
    institutions: int  # how many, unless `institutions=` says otherwise
    alpha: float  # 100 is near equal, 0.5 skewed
    seed: int  # of the split alone; a fact about the experiment, not about privacy

    def __post_init__(self) -> None:
        if self.institutions < 1:
            raise ConfigError(f"task.partition.institutions must be at least 1, got {self.institutions}")
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"task.partition.alpha must be a positive number, got {self.alpha}")

    def assign(
        self, labels: npt.NDArray[np.int64], subjects: Sequence[str], institutions: int
    ) -> npt.NDArray[np.int64]:
        """An institution number for each record, from its label, its subject and nothing else in the data.

        The shares of each label are drawn from the seed; a keyed hash of the subject decides where among them it
        falls. So adding or removing a record moves no other one, and record-level privacy means what it says.
        """
        key = f"lepton-fl/partition/{self.seed}"
        place = np.array([hash_fraction(key, subject) for subject in subjects], dtype=np.float64)
        out = np.zeros(len(labels), dtype=np.int64)
        for label in np.unique(labels).tolist():
            shares = np.random.default_rng((self.seed, label)).dirichlet(np.full(institutions, self.alpha))
            here = labels == label
            out[here] = np.searchsorted(np.cumsum(shares)[:-1], place[here], side="right")
        empty = sorted(set(range(institutions)) - set(np.unique(out).tolist()))
        if empty:
            raise DataError(
                f"the split leaves {len(empty)} of {institutions} institutions without a record; nothing was "
                "trained; choose fewer institutions or a larger task.partition.alpha"
            )
        return out

    def names(self, institutions: int) -> list[str]:
        """Of the made-up institutions, padded so that they sort in order."""
        width = len(str(institutions))
        return [f"{self.prefix}-{number:0{width}d}" for number in range(1, institutions + 1)]
