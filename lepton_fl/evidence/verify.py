"""Whether a log is what its signatures say, offline, from the CA's certificate and the heads that were kept.

Neither side is believed: the operator's signatures are held against the CA, those of institutions against keys that
their own certificates signed, and every head that anyone countersigned or kept against the entries. The first bad entry
is named; where only two heads disagree, the first that can be.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from lepton_fl.evidence import log_entries, note
from lepton_fl.evidence.log_bundle import Bundle, Cosigned
from lepton_fl.evidence.log_entries import BadEntry, Entry
from lepton_fl.evidence.merkle import Tree, leaf_hash
from lepton_fl.evidence.note import BadNote, Note
from lepton_fl.link import signature
from lepton_fl.link.certificates import BadCertificate, institution_uri, key_hash, to_pem
from lepton_fl.link.signature import Signed

LOG_KEY = "lepton-fl/log-key/1"  # domain of the operator's signature over the log's key


@dataclass(frozen=True)
class Problem:
    """Something that does not hold."""

    entry: int | None  # from 0, the first that can be bad; None: it is about no entry
    what: str

    def __str__(self) -> str:
        return self.what if self.entry is None else f"entry {self.entry}: {self.what}"


@dataclass(frozen=True)
class Findings:
    """What was found: who signed what, and what does not hold."""

    entries: tuple[Entry, ...]  # that could be read, up to the first that could not
    signed: tuple[str, ...]  # sentences
    problems: tuple[Problem, ...]

    @property
    def first(self) -> Problem | None:
        """The problem at the first entry; one about no entry comes last."""
        return min(self.problems, key=lambda one: (one.entry is None, one.entry or 0), default=None)


@dataclass(frozen=True)
class _Log:
    """A bundle with its tree, and the keys that it names."""

    bundle: Bundle
    tree: Tree
    entries: tuple[Entry, ...]
    origin: str
    ca: x509.Certificate

    def key_at(self, size: int) -> bytes | None:
        """The key that signs a head of so many entries: the last one that entered before."""
        keys = [one.fields["key"] for one in self.entries[:size] if one.kind == "log-key"]
        return bytes.fromhex(keys[-1]) if keys else None


@dataclass(frozen=True)
class _Head:
    """A head, and how it is called."""

    who: str
    content: bytes
    cosigned: Cosigned | None = None


def verify(bundle: Bundle, ca: x509.Certificate, kept: Sequence[bytes] = ()) -> Findings:
    """Hold a log against itself, the CA and these heads.

    Args:
        ca: of the federation, from a source that the log's sender did not choose.
        kept: notes that an institution stored when it saw them.
    """
    entries, bad_form = _entries(bundle)
    log = _Log(bundle, Tree(bundle.leaves), entries, note.origin_of(key_hash(ca.public_key()).hex()), ca)
    problems = [*_hashes(bundle), *bad_form, *_keys(log), *_agreements(log), *_order(entries)]
    head_problems, signed = _heads(log, kept)
    return Findings(entries, tuple(signed), (*problems, *head_problems))


def check_model(findings: Findings, content: bytes) -> str | None:
    """The run whose end names this model file; None if none does."""
    digest = hashlib.sha256(content).hexdigest()
    ended = [one for one in findings.entries if one.kind == "run-ended" and one.fields["model"] == digest]
    return str(ended[-1].fields["run"]) if ended else None


def verdict_of(findings: Findings, run: str) -> str | None:
    """What the gates of a run said last: one of `log_entries.VERDICTS`; None where it had none."""
    said = [one.fields["verdict"] for one in findings.entries if one.kind == "gate" and one.fields["run"] == run]
    return str(said[-1]) if said else None


def _entries(bundle: Bundle) -> tuple[tuple[Entry, ...], list[Problem]]:
    read: list[Entry] = []
    for index, content in enumerate(bundle.entries):
        try:
            read.append(log_entries.read(content))
        except BadEntry as error:
            return tuple(read), [Problem(index, str(error))]
    return tuple(read), []


def _hashes(bundle: Bundle) -> Iterator[Problem]:
    hashes = [leaf_hash(one) for one in bundle.entries]
    for index in range(max(len(hashes), len(bundle.leaves))):
        if hashes[index : index + 1] != list(bundle.leaves[index : index + 1]):
            yield Problem(index, "it is not the entry that was hashed when it was written")
            return


def _keys(log: _Log) -> Iterator[Problem]:
    """Every key of the log is signed by the operator, whom the CA names."""
    for index, entry in enumerate(log.entries):
        if entry.kind == "log-key":
            fields = entry.fields
            signed = Signed(fields["certificate"].encode(), base64.b64decode(fields["signature"]))
            why = _unsigned(signed, LOG_KEY, bytes.fromhex(fields["key"]), (signature.OPERATOR, log.ca), entry.at)
            if why:
                yield Problem(index, f"the log's key is not the operator's: {why}")
    for identity in log.bundle.identities:
        why = _unsigned(
            identity.signed, signature.IDENTITY, identity.key, (institution_uri(identity.institution), log.ca), None
        )
        if why:
            yield Problem(None, f"the key with which {identity.institution} countersigns is not its own: {why}")


def _agreements(log: _Log) -> Iterator[Problem]:
    """Contracts are the operator's, and whoever accepted one signed it."""
    contracts = {one.sha256: one for one in log.bundle.contracts}
    for digest, one in contracts.items():
        why = _unsigned(one.signed, signature.CONTRACT, one.content, (signature.OPERATOR, log.ca), None)
        if why:
            yield Problem(None, f"the contract {digest[:16]} is not the operator's: {why}")
    of_run: dict[str, bytes] = {}
    for index, entry in enumerate(log.entries):
        fields = entry.fields
        if entry.kind == "run":
            contract = contracts.pop(fields["contract"], None)
            if contract is None:
                yield Problem(index, "the contract of this run is not beside the log")
                continue
            of_run[fields["run"]] = contract.content
            pinned = _pinned_key(contract.content)
            if pinned and bytes.fromhex(pinned) != log.key_at(index + 1):
                yield Problem(index, "the contract of this run pins another key for the log")
        elif entry.kind == "decision" and fields["accepted"]:
            by = (institution_uri(fields["institution"]), log.ca)
            signed = Signed((fields["certificate"] or "").encode(), base64.b64decode(fields["signature"] or ""))
            why = _unsigned(signed, signature.CONTRACT, of_run.get(fields["run"], b""), by, entry.at)
            if why:
                yield Problem(index, f"{fields['institution']} did not sign the contract: {why}")
    for digest in contracts:
        yield Problem(None, f"the contract {digest[:16]} belongs to no run of the log")


def _order(entries: Sequence[Entry]) -> Iterator[Problem]:
    """A run has each of its rounds once, in order, and none after its end."""
    rounds: dict[str, int] = {}
    for index, entry in enumerate(entries):
        run = str(entry.fields.get("run"))
        if entry.kind == "round":
            round = entry.fields["round"]
            if round != rounds.get(run, round - 1) + 1:  # a log can begin in the middle of a run
                yield Problem(index, f"round {round} does not follow the one before")
            rounds[run] = round
        elif entry.kind == "run-ended":
            rounds[run] = 1 << 53  # no round follows


def _heads(log: _Log, kept: Sequence[bytes]) -> tuple[list[Problem], list[str]]:
    """The log's own head, the countersigned ones, and those that were kept, held against the tree."""
    own = _Head("the log's own head", log.bundle.checkpoint)
    heads = [own, *(_Head(_whose(one), one.note, one) for one in log.bundle.cosigned)]
    heads += [_Head("a head that was kept", one) for one in kept]
    problems: list[Problem] = []
    signed: list[str] = []
    agreeing, differing = [0], list[tuple[int, str]]()
    for head in heads:
        found = _signed_head(log, head)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        (size, root), at = found
        if log.tree.root(size) != root:
            differing.append((size, head.who))
        elif head is own and size != len(log.tree):
            problems.append(Problem(size, f"the log goes on after its own head of {size} entries"))
        else:
            agreeing.append(size)
            signed.append(_sentence(head.who, size, at))
    if differing:
        size, who = min(differing)
        first = max(one for one in agreeing if one < size or one == 0)
        problems.append(
            Problem(first, f"{who} of {size} entries is of another log, from here or from a later entry on")
        )
    return problems, signed


def _signed_head(log: _Log, head: _Head) -> tuple[tuple[int, bytes], int | None] | Problem:
    """Size and root of a head that the log's key signed, and when it was countersigned; or what is wrong with it."""
    found = _note(log, head.content)
    if isinstance(found, str):
        return Problem(None, f"{head.who} {found}")
    at = None
    if head.cosigned is not None:
        at = _cosigned_at(log, head.cosigned, found)
        if at is None:
            return Problem(None, f"{head.who} is not countersigned by {head.cosigned.institution}")
    if found.checkpoint.size > len(log.tree):
        return Problem(len(log.tree), f"the log ends here, and {head.who} has {found.checkpoint.size} entries")
    return (found.checkpoint.size, found.checkpoint.root), at


def _whose(cosigned: Cosigned) -> str:
    return f"the head that {cosigned.institution} countersigned"


def _sentence(who: str, size: int, at: int | None) -> str:
    when = "" if at is None else f", on {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
    return f"{who} has {size} entries and agrees{when}"


def _note(log: _Log, content: bytes) -> Note | str:
    """A head that the log's key signed, or what is wrong with it."""
    try:
        found = note.read(content)
    except BadNote as error:
        return f"cannot be read: {error}"
    if found.checkpoint.origin != log.origin:
        return "is of another federation's log"
    key = log.key_at(found.checkpoint.size)
    if key is None or not found.is_signed(key):
        return "is not signed with the log's key"
    return found


def _cosigned_at(log: _Log, cosigned: Cosigned, found: Note) -> int | None:
    name = note.name_of(cosigned.institution)
    times = (
        found.cosigned_at(name, one.key) for one in log.bundle.identities if one.institution == cosigned.institution
    )
    return next((at for at in times if at is not None and at < 1 << 33), None)


def _pinned_key(contract: bytes) -> str:
    try:
        pinned = json.loads(contract).get("log_key", "")
        return pinned if isinstance(pinned, str) and len(bytes.fromhex(pinned)) in (0, 32) else "00"
    except (ValueError, AttributeError, RecursionError):
        return "00"  # no key, which matches none


def _unsigned(
    signed: Signed, domain: str, statement: bytes, by: tuple[str, x509.Certificate], at: datetime | None
) -> str | None:
    """Why this is no signature of whom it should be; None if it is.

    Args:
        at: when it was made, by the log; None: when its certificate began, since nothing says more.
    """
    try:
        certificate = x509.load_pem_x509_certificate(signed.certificate)
        if to_pem(certificate) != signed.certificate:
            return "its certificate has another form"
        signature.check(signed, domain, statement, by, at or certificate.not_valid_before_utc)
    except (ValueError, BadCertificate) as error:
        return str(error).split(";", maxsplit=1)[0]
    return None
