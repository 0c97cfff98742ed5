"""The contract of a run as the server offers it, signed, and what the institutions' answers can have at most."""

from __future__ import annotations

from datetime import UTC, datetime

from lepton_fl.errors import ConfigError
from lepton_fl.federation.arrays import template_of
from lepton_fl.federation.contract import Parties, from_bytes, offer, to_bytes
from lepton_fl.link import signature
from lepton_fl.link.certificates import key_hash
from lepton_fl.run import Prepared
from lepton_fl.secure_aggregation.cohort import threshold
from lepton_server.agreements import Agreements, Offered
from lepton_server.home import Home
from lepton_server.hub import Hub, RunTerms
from lepton_server.journal import Inbox, Place
from lepton_server.log import Log
from lepton_server.runs import Runs
from lepton_server.settings import ServerConfig

_HEADER_BYTES = 4096  # of one array in a reply, besides its values
_WORD_BYTES = 4  # of a masked vector, at most


def is_offered(home: Home, run_id: int) -> bool:
    """Whether the run's contract was offered already."""
    agreements = Agreements(home.database)
    try:
        return agreements.offered(run_id) is not None
    finally:
        agreements.close()


def run_terms(config: ServerConfig, prepared: Prepared, where: tuple[Place, Home, Hub]) -> RunTerms:
    """What the institutions are told, and how much of an answer is taken.

    Raises:
        ConfigError: the contract cannot be offered.
    """
    place, home, hub = where
    template = template_of(prepared.program.model)
    # The most that an honest reply's arrays can have.
    reply_bytes = 4 * prepared.facts.parameters + _HEADER_BYTES * len(template)
    if prepared.sums is not None:
        reply_bytes = _WORD_BYTES * prepared.sums.longest + _HEADER_BYTES
    return RunTerms(
        run_id=place.run_id,
        offered=_offered(config, prepared, place, home, hub),
        reply_bytes=reply_bytes,
        open_inbox=lambda: Inbox(Runs(home.database), place),
    )


def _least_cohort(config: ServerConfig, cohort_size: int) -> int:
    if config.least_cohort is not None:
        return config.least_cohort
    return threshold(cohort_size) if config.is_summed else min(2, cohort_size)


def _identities(config: ServerConfig, hub: Hub, institutions: tuple[str, ...]) -> dict[str, bytes]:
    """What the contract pins; raises `ConfigError` where an institution told no key."""
    known = hub.identities(institutions)
    without = sorted({*institutions} - known.keys())
    if config.is_summed and without:
        raise ConfigError(
            f"{', '.join(without)} told no key for secure aggregation; nothing was trained; let them update lepton-fl, "
            "or give secure_aggregation=off where every policy allows it"
        )
    return known if config.is_summed else {}


def log_key(home: Home) -> bytes:
    """The key that signs the log's heads, 32 bytes."""
    log = Log(home)
    try:
        return log.public
    finally:
        log.close()


def _offered(config: ServerConfig, prepared: Prepared, place: Place, home: Home, hub: Hub) -> Offered:
    """The run's contract, signed: the one it began with, if it goes on after a crash."""
    agreements, run_id = Agreements(home.database), place.run_id
    try:
        known = agreements.offered(run_id)
        if known is not None:
            return known
        institutions = prepared.facts.institutions
        cohort_size = prepared.federation.cohort_size
        least = _least_cohort(config, cohort_size)
        if least > cohort_size:
            raise ConfigError(
                f"least_cohort {least} is more than the {cohort_size} asked in a round; nothing was trained"
            )
        federation = key_hash(home.authority().certificate.public_key()).hex()
        parties = Parties(institutions, least, _identities(config, hub, institutions), log_key(home))
        contract = offer(config, run_id, federation, parties, config.purpose)
        content = to_bytes(contract)
        from_bytes(content)  # what no institution could read is refused here
        made = Offered(content, home.signer(_now()).sign(signature.CONTRACT, content))
        agreements.offer(run_id, made)
        return made
    finally:
        agreements.close()


def _now() -> datetime:
    return datetime.now(UTC)
