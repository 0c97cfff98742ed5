"""The contract of a run: one manifest that the operator signs and each institution countersigns.

It says everything an institution agrees to. Its bytes are canonical: one document has exactly one form, so that a
signature covers what is read, and two contracts differ where their fields do.

Source: RFC 8785 (canonical JSON) for the idea; here the order of fields is the order of this file, since the order of a
table's columns is the order of a model's features.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from typing import Any

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.settings import Private
from lepton_fl.federation.terms import SHARED, Terms, from_json, to_json
from lepton_fl.privacy.units import Budgeted, NoPrivacy

LARGEST = 1 << 20  # bytes of a contract: a task's columns and their categories
_IDENTITY = re.compile(r"[0-9a-f]{64}")
_SOFTWARE = ("lepton-fl", "flwr", "torch", "opacus", "dp-accounting")

# In an instruction's configuration: which contract it is part of, and how many institutions are asked with it.
CONTRACT_KEY, COHORT_KEY = "contract", "cohort-size"

NOISED_UPDATE = "noised-update"  # a model trained with the institution's own noise
SHARED_NOISE_UPDATE = "shared-noise-update"  # a step with the institution's share of the noise, in a masked sum alone
SUMMED_UPDATE = "summed-update"  # an update without noise that nobody else can subtract, in a masked sum alone
SUMMED_COUNTS = "summed-counts"  # of the hold-out, in a masked sum alone; no epsilon covers them
NOISED_COUNTS = "noised-counts"  # of the hold-out, with all the noise of this institution's own
SHARED_NOISE_COUNTS = "shared-noise-counts"  # the same with the institution's share of it, in a masked sum alone
PLAIN_UPDATE = "plain-update"  # a model trained without, or with noise that a seed lets others subtract
RECORD_COUNT = "record-count"  # how many records were trained on, and their mean loss
EXACT_COUNTS = "exact-counts"  # of the hold-out, label by score; no epsilon covers them
KINDS = (
    NOISED_UPDATE,
    SHARED_NOISE_UPDATE,
    NOISED_COUNTS,
    SHARED_NOISE_COUNTS,
    SUMMED_UPDATE,
    SUMMED_COUNTS,
    PLAIN_UPDATE,
    RECORD_COUNT,
    EXACT_COUNTS,
)
COVERED = frozenset({NOISED_UPDATE, SHARED_NOISE_UPDATE, NOISED_COUNTS, SHARED_NOISE_COUNTS})  # by an epsilon


@dataclass
class Purpose:
    """Why the run is made, and how long what comes of it is kept; the operator's words."""

    purpose: str | None  # null: the task's title
    retention_days: int  # after the end of the run
    contact: str  # whom to ask; may be empty

    def __post_init__(self) -> None:
        if not 0 <= self.retention_days <= 36500:
            raise ConfigError(f"purpose.retention_days must lie between 0 and 36500, got {self.retention_days}")


@dataclass(frozen=True)
class Contract:
    """What everyone in a run agrees to."""

    run_id: int
    federation: str  # hex SHA-256 of the CA's public key
    purpose: Purpose
    institutions: tuple[str, ...]  # who was there when it was signed; the number sets a private step's divisor
    least_cohort: int  # no round asks fewer institutions
    must_leave: tuple[str, ...]  # kinds of message that the run cannot do without
    may_leave: tuple[str, ...]  # kinds it also asks for, which an institution may decline
    unit: str  # whose presence is hidden; "none"
    neighbouring_relation: str | None
    secure_aggregation: bool
    identities: dict[str, str]  # under secure aggregation, each institution's public key, Ed25519, hex
    log_key: str  # public key that signs the log's heads, Ed25519, hex; empty where the operator keeps no log
    software: dict[str, str]  # the operator's versions
    terms: dict[
        str, Any
    ]  # task, model, strategy, privacy, training, holdout, rounds, seed, as `terms.to_json` has them

    def settings(self) -> Terms:
        """The terms, typed and checked against this machine's own tables; raises `ConfigError`."""
        return from_json(json.dumps(self.terms))


@dataclass(frozen=True)
class Parties:
    """Who takes part."""

    institutions: tuple[str, ...]
    least_cohort: int  # of a round
    identities: dict[str, bytes]  # public keys for secure aggregation; empty without
    log_key: bytes = b""  # that signs the log's heads; empty: the operator keeps no log


def offer(terms: Terms, run_id: int, federation: str, who: Parties, purpose: Purpose) -> Contract:
    """The contract for these terms."""
    return Contract(
        run_id=run_id,
        federation=federation,
        purpose=replace(purpose, purpose=purpose.purpose or terms.task.title),
        institutions=who.institutions,
        least_cohort=who.least_cohort,
        must_leave=must_leave(terms),
        may_leave=may_leave(terms),
        unit=terms.privacy.unit,
        neighbouring_relation=terms.privacy.neighbouring_relation,
        secure_aggregation=terms.is_summed,
        identities={name: who.identities[name].hex() for name in who.institutions} if terms.is_summed else {},
        log_key=who.log_key.hex(),
        software={name: version(name) for name in _SOFTWARE},
        terms=json.loads(to_json(terms)),
    )


def must_leave(terms: Terms) -> tuple[str, ...]:
    """The kinds of message that training under these terms sends."""
    if is_covered(terms):
        return (SHARED_NOISE_UPDATE,) if terms.noise == SHARED else (NOISED_UPDATE,)
    if terms.is_summed:
        return (SUMMED_UPDATE,)
    return (PLAIN_UPDATE, RECORD_COUNT) if type(terms.privacy) is NoPrivacy else (PLAIN_UPDATE,)


def may_leave(terms: Terms) -> tuple[str, ...]:
    """The kinds of message that judging the model under these terms sends; training can do without them."""
    if not isinstance(terms.evaluation, Private):
        return (SUMMED_COUNTS if terms.is_summed else EXACT_COUNTS,)
    if not is_covered(terms):
        # With noise, and by a seed or otherwise others can subtract it.
        return (SUMMED_COUNTS if terms.is_summed else EXACT_COUNTS,)
    if terms.noise != SHARED:
        return (NOISED_COUNTS,)
    return (SHARED_NOISE_COUNTS, NOISED_COUNTS) if terms.evaluation.by_institution else (SHARED_NOISE_COUNTS,)


def is_covered(terms: Terms) -> bool:
    """Whether institutions add noise that nobody else can subtract: each one all of it, or its share."""
    return terms.seed is None and isinstance(terms.privacy, Budgeted) and terms.privacy.is_local


def to_bytes(contract: Contract) -> bytes:
    """The one form of this contract."""
    return _canonical(asdict(contract))


def digest(contract: Contract) -> str:
    """Hex SHA-256 of its one form: the contract's name."""
    return hashlib.sha256(to_bytes(contract)).hexdigest()


def from_bytes(content: bytes) -> Contract:
    """The contract that these bytes are the one form of.

    Raises:
        ConfigError: too long, another form, a field that is missing, unknown or of another type.
    """
    if len(content) > LARGEST:
        raise ConfigError(f"the contract has {len(content)} bytes, and {LARGEST} may be; nothing was trained")
    try:
        document = json.loads(content)
        if _canonical(document) != content:
            raise ValueError("not canonical")
        contract = _typed(document)
        # What the summary says must be what the terms say: an officer reads the summary.
        terms = contract.settings()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError("the contract of the run cannot be read; nothing was trained; tell the operator") from error
    _refuse_contradictions(contract, terms)
    return contract


def differences(signed: Contract, asked: Contract) -> list[str]:
    """Where two contracts differ, field by field: `privacy.epsilon: signed 1.0, now 2.0`."""
    was, now = dict(_leaves(_summary(signed))), dict(_leaves(_summary(asked)))
    return [
        f"{name}: signed {_shown(was.get(name))}, now {_shown(now.get(name))}"
        for name in [*was, *(name for name in now if name not in was)]
        if was.get(name) != now.get(name)
    ]


def _summary(contract: Contract) -> dict[str, Any]:
    document = asdict(contract)
    terms = document.pop("terms")
    return {**terms, **document}  # the names that people set: privacy.epsilon, rounds, task.title


def _leaves(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict) and document:
        for name, value in document.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, list(document) if isinstance(document, tuple) else document


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _canonical(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _typed(document: dict[str, Any]) -> Contract:
    if [*document] != [field.name for field in fields(Contract)]:
        raise ValueError("other fields than a contract has")
    purpose = Purpose(**document["purpose"])
    _demand(type(purpose.retention_days) is int and isinstance(purpose.purpose, str), "purpose")
    _demand(isinstance(purpose.contact, str), "purpose.contact")
    for name in ("institutions", "must_leave", "may_leave"):
        _demand(isinstance(document[name], list) and all(isinstance(one, str) for one in document[name]), name)
    identities = document["identities"]
    is_keys = isinstance(identities, dict) and all(isinstance(one, str) for one in identities.values())
    _demand(is_keys and all(_IDENTITY.fullmatch(one) for one in identities.values()), "identities")
    log_key = document["log_key"]
    _demand(log_key == "" or (isinstance(log_key, str) and bool(_IDENTITY.fullmatch(log_key))), "log_key")
    for name in ("run_id", "least_cohort"):
        _demand(type(document[name]) is int and document[name] >= 1, name)
    for name in ("federation", "unit"):
        _demand(isinstance(document[name], str), name)
    _demand(isinstance(document["neighbouring_relation"], str | None), "neighbouring_relation")
    _demand(type(document["secure_aggregation"]) is bool, "secure_aggregation")
    software = document["software"]
    _demand(isinstance(software, dict) and all(isinstance(one, str) for one in software.values()), "software")
    _demand(isinstance(document["terms"], dict), "terms")
    lists = {name: tuple(document[name]) for name in ("institutions", "must_leave", "may_leave")}
    return Contract(**{**document, **lists, "purpose": purpose})


def _demand(holds: bool, name: str) -> None:
    if not holds:
        raise ValueError(f"{name} has another type")


def _refuse_contradictions(contract: Contract, terms: Terms) -> None:
    said = {
        "unit": (contract.unit, terms.privacy.unit),
        "neighbouring_relation": (contract.neighbouring_relation, terms.privacy.neighbouring_relation),
        "must_leave": (contract.must_leave, must_leave(terms)),
        "may_leave": (contract.may_leave, may_leave(terms)),
        "secure_aggregation": (contract.secure_aggregation, terms.is_summed),
        "identities": (sorted(contract.identities), sorted(contract.institutions) if terms.is_summed else []),
    }
    for name, (summary, meant) in said.items():
        if summary != meant:
            raise ConfigError(
                f"the contract's {name} says {_shown(summary)} and its terms mean {_shown(meant)}; nothing was "
                "trained; tell the operator"
            )
    unknown = sorted({*contract.must_leave, *contract.may_leave} - {*KINDS})
    if unknown or not 1 <= contract.least_cohort <= max(1, len(contract.institutions)):
        what = f"kind {unknown[0]} is not known here" if unknown else "least_cohort is more than who takes part"
        raise ConfigError(f"the contract cannot be kept: {what}; nothing was trained; tell the operator")
