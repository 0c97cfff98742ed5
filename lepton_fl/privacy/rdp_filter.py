"""The hard stop over runs that nobody declared together: a Renyi filter of one fixed order.

PLD composes what was fixed before anything was released. Whoever chooses the next run after seeing the last one
composes adaptively, and there the sum of Renyi divergences *of one order* is what bounds the whole: as long as it never
passes R, all that was released is (order, R)-RDP, however the next noise, rate or run was chosen, and also where rounds
of several runs alternate. So the order is fixed before the first round, and a round starts only if its divergence still
fits. The best of several orders would need a further argument, since which one is best depends on what was released.

Source: Feldman and Zrnic 2021, "Individual Privacy Accounting via a Renyi Filter"; Lecuyer 2021, "Practical Privacy
Filters and Odometers with Renyi Differential Privacy and Applications to Differentially Private Deep Learning"; Haney
et al. 2023, "Concurrent Composition for Interactive Differential Privacy with Adaptive Privacy-Loss Parameters".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lepton_fl.privacy.accounting import GAUSSIAN, SKELLAM, STEP_FAILURE, Segment, renyi, renyi_orders


@dataclass(frozen=True)
class Filter:
    """A Renyi filter of one account."""

    order: float  # > 1
    delta: float

    def room(self, epsilon_cap: float) -> float:
        """The most divergence of this order that is (epsilon_cap, delta)-private; below 0: none is."""
        return epsilon_cap - self._offset()

    def epsilon(self, divergence: float) -> float:
        """Epsilon, at this delta, of everything released, which diverges by no more than this; of nothing, 0."""
        return max(0.0, divergence + self._offset()) if divergence > 0 else 0.0

    def divergence(self, history: tuple[Segment, ...]) -> float:
        """The sum over all steps of all segments, and what steps with Skellam noise take from delta, as divergence.

        T steps take x = T 2^-46 / delta of delta, which raises the offset by -ln(1 - x) / (order - 1): at most
        2 x / (order - 1) up to x = 3 / 4. More than a quarter in one history is infinite, so that two histories and
        a round added up stay below that.
        """
        failures = STEP_FAILURE * sum(part.steps for part in history if part.law == SKELLAM) / self.delta
        if failures > 0.25:
            return math.inf
        return 2 * failures / (self.order - 1) + math.fsum(
            part.steps * renyi(part.noise_multiplier, part.sampling_rate, self.order, part.law)
            for part in history
            if part.steps
        )

    def _offset(self) -> float:
        """Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy", proposition 12."""
        return math.log1p(-1 / self.order) - (math.log(self.delta) + math.log(self.order)) / (self.order - 1)


def fixed(
    noise_multiplier: float, sampling_rate: float, epsilon_cap: float, delta: float, law: str = GAUSSIAN
) -> Filter:
    """The filter under which the most steps like this one fit below the cap.

    It depends on what the first run declares, never on data or on anything released.
    """

    def steps(order: float) -> float:
        return Filter(order, delta).room(epsilon_cap) / renyi(noise_multiplier, sampling_rate, order, law)

    return Filter(max(renyi_orders(), key=steps), delta)
