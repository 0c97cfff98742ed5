"""What a running server tells Prometheus: nothing that its log has not said, and nothing about any one institution."""

from __future__ import annotations

import time
from collections.abc import Iterator

from lepton_fl.prometheus import Figure
from lepton_fl.results.terminal import Voice
from lepton_server.hub import Hub


class Watch:
    """Reads a hub and what the run has said so far; both go on without noticing."""

    def __init__(self, hub: Hub, voice: Voice) -> None:
        self._hub, self._voice = hub, voice
        self._began = time.monotonic()

    def figures(self) -> Iterator[Figure]:
        """Every figure now; those of a run only once it has begun."""
        hub = self._hub
        yield Figure("lepton_uptime_seconds", "since this server began to serve", time.monotonic() - self._began)
        yield Figure("lepton_connected_institutions", "with an open stream", len(hub.sessions))
        yield Figure("lepton_sent_bytes_total", "in frames to institutions, before TLS", hub.sent_bytes)
        yield Figure("lepton_received_bytes_total", "in frames from institutions, before TLS", hub.received_bytes)
        yield from self._of_the_run()

    def _of_the_run(self) -> Iterator[Figure]:
        facts, said = self._voice.facts, tuple(self._voice.reports)
        if facts is None:
            return
        yield Figure("lepton_run_institutions", "members of the run", len(facts.institutions))
        yield Figure("lepton_rounds_planned", "rounds of the run", facts.rounds)
        yield Figure("lepton_round", "the last round that ended", said[-1].round if said else 0)
        used = sum(len(report.replied) for report in said)
        asked = sum(len(report.cohort) for report in said)
        yield Figure("lepton_replies_used_total", "usable replies to training", used)
        yield Figure(
            "lepton_replies_refused_total", "replies to training that were refused or never came", asked - used
        )
        claim = facts.claim
        if claim.is_private and claim.epsilon_budget is not None:
            unit = {"unit": claim.unit}
            spent = (said[-1].epsilon if said else None) or 0.0
            yield Figure("lepton_epsilon_spent", "by the institution that was asked most often", spent, unit)
            yield Figure("lepton_epsilon_budget", "of the run", claim.epsilon_budget, unit)
