"""What a running agent tells Prometheus: how it stands with its server, and nothing that its data decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from lepton_client.ledger_files import LedgerDamaged
from lepton_client.standing import Standing
from lepton_fl.link.frames import SILENCE_S
from lepton_fl.prometheus import Figure


def figures(standing: Standing) -> Iterator[Figure]:
    """Every figure now; those of a run only once one was joined."""
    known = standing.known
    since = None if known.heard_at is None else max(0.0, (datetime.now(UTC) - known.heard_at).total_seconds())
    is_heard = known.connected_at is not None and since is not None and since <= SILENCE_S
    yield Figure("lepton_connected", "1 while the server is heard, else 0", is_heard)
    yield Figure("lepton_sent_bytes_total", "in frames to the server, before TLS", standing.sent_bytes)
    if since is not None:
        yield Figure("lepton_last_heard_seconds", "since the server was heard last", since)
    run = known.run
    if run is None:
        return
    with suppress(LedgerDamaged):  # it is told where it stops the work, not here
        begun = standing.round
        yield Figure("lepton_round", "the last round that was begun here", 0 if begun is None else begun.round)
    yield Figure("lepton_rounds_planned", "rounds of the run joined last", run.rounds)
    if run.promise is not None:
        unit = {"unit": run.promise.unit}
        yield Figure("lepton_epsilon_budget", "what the run joined last may cost here", run.promise.epsilon, unit)
