"""What a run remembers between rounds, so that it can go on after a crash as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from lepton_fl.evaluation.metrics import Metrics

if TYPE_CHECKING:  # for none of which who looks at reports waits
    from lepton_fl.flower import ArrayRecord
    from lepton_fl.privacy.randomness import Randomness

_SEEDS = 32  # of rounds, drawn together
StrategyState = Mapping[str, npt.NDArray[np.generic]]
"""What a strategy carries from round to round, see `strategies.state`."""


@dataclass(frozen=True)
class RoundReport:
    """What happened in one round."""

    round: int
    cohort: tuple[str, ...] = ()
    replied: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)  # institution: why its update was left out
    metrics: Metrics | None = None
    metrics_by_institution: Mapping[str, Metrics] = field(default_factory=dict)
    epsilon: float | None = None  # spent by the institution that was asked most often; None without privacy
    seconds: float = 0.0
    skipped: str | None = None  # why the model is the one before; None if the round made a new one
    not_evaluated: Mapping[str, str] = field(default_factory=dict)  # institution: why it counted nothing
    histograms: Mapping[str, Any] | None = None  # that were released, `histograms.as_plain`; None: no evaluation
    held_out: Mapping[str, float] | None = None  # epsilon and delta of who is held out, after it; None: none covers it

    def as_plain(self) -> dict[str, Any]:
        """Only dictionaries, lists, texts and numbers; `from_plain` is the inverse."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> RoundReport:
        """The report that `as_plain` made, also after a way through JSON."""
        metrics, each = plain["metrics"], plain["metrics_by_institution"]
        return cls(
            **{
                **plain,
                "cohort": tuple(plain["cohort"]),
                "replied": tuple(plain["replied"]),
                "metrics": None if metrics is None else Metrics(**metrics),
                "metrics_by_institution": {name: Metrics(**one) for name, one in each.items()},
            }
        )


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    arrays: ArrayRecord  # the last committed model
    strategy: StrategyState = field(default_factory=dict)
    reports: tuple[RoundReport, ...] = ()  # of the rounds that are over
    trained: RoundReport | None = None  # the round whose model is committed and whose evaluation is not


class Journal(Protocol):
    """Keeps a run's progress. Each call returns when what it was given is safe."""

    def resume(self, initial: ArrayRecord) -> Progress:
        """Where the run stands; a new one stands before its first round, with `initial` as its model."""

    def cohort_seed(self, round: int) -> int:
        """Decides whom a round asks: the same for the same round, before and after a crash."""

    def trained(self, report: RoundReport, arrays: ArrayRecord, strategy: StrategyState) -> None:
        """A round's model, made or kept; from now on the round's updates are never aggregated again."""

    def evaluated(self, report: RoundReport) -> None:
        """The round is over."""


class NoJournal:
    """For a simulation: a run that is stopped starts anew."""

    def __init__(self, randomness: Randomness) -> None:
        self._randomness = randomness
        self._seeds: dict[int, int] = {}

    def resume(self, initial: ArrayRecord) -> Progress:
        """See `Journal.resume`."""
        return Progress(initial)

    def cohort_seed(self, round: int) -> int:
        """See `Journal.cohort_seed`."""
        if round not in self._seeds:
            # Some at once: in a row they take a tenth of what one takes after a round, when caches hold other things.
            self._seeds = {one: cohort_seed(self._randomness, one) for one in range(round, round + _SEEDS)}
        return self._seeds[round]

    def trained(self, report: RoundReport, arrays: ArrayRecord, strategy: StrategyState) -> None:
        """See `Journal.trained`."""

    def evaluated(self, report: RoundReport) -> None:
        """See `Journal.evaluated`."""


def cohort_seed(randomness: Randomness, round: int) -> int:
    """Repeatable with a seed, unpredictable without one."""
    return randomness.within(round).stream("cohort").integer()
