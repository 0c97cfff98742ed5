"""A small federation's log, made by hand: an operator, two institutions, one run of three rounds."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from proposals import contract, terms

from lepton_fl.evidence import note
from lepton_fl.evidence.log_bundle import Bundle, ContractOf, Cosigned, Identity
from lepton_fl.evidence.log_entries import Entry
from lepton_fl.evidence.merkle import Tree, leaf_hash
from lepton_fl.evidence.note import Checkpoint
from lepton_fl.evidence.verify import LOG_KEY
from lepton_fl.federation.contract import to_bytes
from lepton_fl.link import certificates, signature
from lepton_fl.link.certificates import key_hash
from lepton_fl.link.signature import Signer

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NAMES = ("elm", "VA Long Beach")
MODEL = b"the bytes of a model file"


def ed25519(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Made:
    """A federation's keys."""

    authority: certificates.Authority
    operator: Signer
    members: Mapping[str, Signer]

    @property
    def origin(self) -> str:
        return note.origin_of(key_hash(self.authority.certificate.public_key()).hex())

    def log_key_entry(self, number: int, at: datetime = NOW) -> Entry:
        public = ed25519(number).public_key().public_bytes_raw()
        signed = self.operator.sign(LOG_KEY, public)
        fields = {"key": public.hex(), "certificate": signed.certificate.decode(), "signature": b64(signed.value)}
        return Entry("log-key", at, fields)

    def identity(self, name: str) -> Identity:
        public = ed25519(100 + NAMES.index(name)).public_key().public_bytes_raw()
        return Identity(name, public, self.members[name].sign(signature.IDENTITY, public))

    def head(self, entries: Sequence[bytes], size: int | None = None, key: int = 1) -> bytes:
        """The head of the first `size` entries, signed with this key of the log."""
        size = len(entries) if size is None else size
        root = Tree(map(leaf_hash, entries)).root(size)
        return note.sign(ed25519(key), Checkpoint(self.origin, size, root)).to_bytes()

    def cosigned(self, name: str, head: bytes) -> Cosigned:
        key, at = ed25519(100 + NAMES.index(name)), int(NOW.timestamp())
        return Cosigned(name, note.cosign(key, note.name_of(name), note.read(head), at).to_bytes())


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def federation() -> Made:
    authority = certificates.new_authority("cardiology", NOW)
    key = certificates.new_key()
    operator = Signer(key, certificates.sign_operator(authority, key.public_key(), NOW))
    members = {}
    for name in NAMES:
        own = certificates.new_key()
        request = certificates.request_certificate(own)
        members[name] = Signer(own, certificates.sign_institution(authority, request, name, NOW))
    return Made(authority, operator, members)


def offered(made: Made) -> ContractOf:
    pinned = ed25519(1).public_key().public_bytes_raw().hex()
    content = to_bytes(replace(contract(terms()), log_key=pinned))
    return ContractOf(content, made.operator.sign(signature.CONTRACT, content))


def entries_of(made: Made, of: ContractOf) -> list[bytes]:
    """Eleven entries: the key, who came, the run with its rounds, a release, the end."""
    later = iter(NOW + timedelta(minutes=minutes) for minutes in range(100))
    made_of: list[Entry] = [made.log_key_entry(1, next(later))]

    def add(kind: str, **fields: Any) -> None:
        made_of.append(Entry(kind, next(later), fields))

    for name in NAMES:
        add("enrolled", institution=name, key=sha256(name), again=False)
    add("run", run="7", contract=hashlib.sha256(of.content).hexdigest())
    for name in NAMES:
        signed = made.members[name].sign(signature.CONTRACT, of.content)
        words = {"certificate": signed.certificate.decode(), "signature": b64(signed.value)}
        add("decision", run="7", institution=name, accepted=True, clause=None, **words)
    for round in range(3):
        cohort = [*NAMES] if round else []
        add(
            "round",
            run="7",
            round=round,
            model=sha256(f"model {round}"),
            cohort=cohort,
            replied=cohort[:1],
            refused=dict.fromkeys(cohort[1:], "failed"),
            skipped=False,
            epsilon=0.25 * round,
        )
    add("release", run="7", round=2, what="evaluation", of="held-out", epsilon=1.0, delta=1e-5, sha256=None)
    add("run-ended", run="7", state="finished", model=hashlib.sha256(MODEL).hexdigest())
    return [one.to_bytes() for one in made_of]


def bundle(made: Made) -> Bundle:
    """The log with a head that both institutions countersigned, one of them an older one."""
    of = offered(made)
    entries = entries_of(made, of)
    head = made.head(entries)
    return Bundle(
        tuple(entries),
        tuple(map(leaf_hash, entries)),
        head,
        (made.cosigned(NAMES[0], head), made.cosigned(NAMES[1], made.head(entries, 7))),
        tuple(made.identity(name) for name in NAMES),
        (of,),
    )
