"""What a running agent tells Prometheus: how it stands with its server, and nothing that its data decides."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from lepton_fl.errors import BudgetSpent
from lepton_fl.federation.terms import Terms
from lepton_fl.link.frames import SILENCE_S
from lepton_fl.privacy.rounds_spent import RoundsSpent
from lepton_fl.privacy.units import RecordPrivacy
from lepton_fl.prometheus import Figure


class Standing:
    """How this institution stands with its server; its owner writes plain attributes, a scrape reads them."""

    def __init__(self) -> None:
        self.is_connected = False  # a stream is open on which something was heard
        self.heard_at: float | None = None  # on the monotonic clock
        self.sent_bytes = 0  # in frames, over every stream since the start
        self._run: tuple[Terms, RoundsSpent, str] | None = None  # joined last, and as whom

    def heard(self) -> None:
        """A frame came."""
        self.is_connected, self.heard_at = True, time.monotonic()

    def joined(self, terms: Terms, spent: RoundsSpent, institution: str) -> None:
        """This is the run now."""
        self._run = terms, spent, institution

    def figures(self) -> Iterator[Figure]:
        """Every figure now; those of a run only once one was joined."""
        since = None if self.heard_at is None else time.monotonic() - self.heard_at
        is_heard = self.is_connected and since is not None and since <= SILENCE_S
        yield Figure("lepton_connected", "1 while the server is heard, else 0", is_heard)
        yield Figure("lepton_sent_bytes_total", "in frames to the server, before TLS", self.sent_bytes)
        if since is not None:
            yield Figure("lepton_last_heard_seconds", "since the server was heard last", since)
        if self._run is None:
            return
        terms, spent, institution = self._run
        with suppress(BudgetSpent):  # a damaged record is told where it stops the work, not here
            yield Figure("lepton_round", "the last round that was begun here", spent.last(institution))
        yield Figure("lepton_rounds_planned", "rounds of the run joined last", terms.rounds)
        privacy = terms.privacy
        if isinstance(privacy, RecordPrivacy) and terms.seed is None:
            unit = {"unit": privacy.unit}
            yield Figure("lepton_epsilon_budget", "what the run joined last may cost here", privacy.epsilon, unit)
