"""`verify` of both commands: a log in a file, a CA's certificate, kept heads, a model; one answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from lepton_fl.errors import ConfigError
from lepton_fl.evidence import log_bundle
from lepton_fl.evidence.log_bundle import BadLog, Bundle
from lepton_fl.evidence.log_entries import HELD, OVERRIDDEN, as_text
from lepton_fl.evidence.verify import Findings, check_model, verdict_of, verify

if TYPE_CHECKING:
    from lepton_fl.evidence import report_check

HEADS = "heads.jsonl"  # in an institution's home
_LARGEST_HEADS = 1 << 30  # bytes


@dataclass(frozen=True)
class Asked:
    """What a log is held against."""

    ca: x509.Certificate  # of the federation
    heads: Path | None  # that were kept
    model: Path | None  # said to be a run's
    report: Path | None  # report.json, with what lies beside it


def read_bundle(path: Path) -> Bundle:
    """The log in this file.

    Raises:
        ConfigError: there is no such file.
        BadLog: it is no log.
    """
    try:
        if path.stat().st_size > log_bundle.LARGEST:
            raise BadLog(f"{path} is too long for a log; it was not read; export it again")
        return log_bundle.read(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; nothing was checked") from error


def read_ca(path: Path) -> x509.Certificate:
    """The CA's certificate in this file; raises `ConfigError`."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; nothing was checked; give --ca FILE") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a certificate; nothing was checked; give --ca FILE") from error


def read_heads(path: Path) -> list[bytes]:
    """The notes in a file of heads, in order; none where there is no file.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        if path.stat().st_size > _LARGEST_HEADS:
            raise _damaged(path)
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    # What follows the last line break was being written when the process ended, and was never countersigned.
    whole = content[: content.rfind(b"\n") + 1]
    try:
        return [str(json.loads(line)["note"]).encode() for line in whole.splitlines()]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path) from error


def checked(bundle: Bundle, asked: Asked) -> list[str]:
    """Lines that say who signed what.

    Raises:
        BadLog: the first bad entry, or that the model is none of the log's.
    """
    heads = [] if asked.heads is None else read_heads(asked.heads)
    found = verify(bundle, asked.ca, heads)
    first = found.first
    if first is not None:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise BadLog(
            f"the log is not what was signed: {first}{more}; nothing of it should be relied on; compare it with the "
            "copy of another institution"
        )
    lines = [_whole(found), f"key         {_key(found)}", *(f"signed      {one}" for one in found.signed)]
    if not heads:
        lines.append(
            "heads       none were kept here: a log that was cut off or replaced as a whole looks like this one"
        )
    if asked.model is not None:
        lines.append(_model(found, asked.model))
    return lines if asked.report is None else [*lines, _report(found, asked.report, bundle)]


def _whole(found: Findings) -> str:
    entries = found.entries
    since, until = (as_text(entries[0].at), as_text(entries[-1].at)) if entries else ("", "")
    return f"good        {len(entries)} entries, from {since[:19]} to {until[:19]} UTC"


def _key(found: Findings) -> str:
    return [str(one.fields["key"]) for one in found.entries if one.kind == "log-key"][-1]


def _model(found: Findings, path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; nothing was checked") from error
    run = check_model(found, content)
    if run is None:
        raise BadLog(
            f"{path} is not a model of this log: no run ended with a file of its SHA-256; do not use it; ask the "
            "operator"
        )
    verdict = verdict_of(found, run)
    if verdict == HELD:
        raise BadLog(
            f"{path} is the model that run {run} ended with, and its gates hold it back; do not use it; the operator "
            "can release it in a person's name"
        )
    against = ", released in a person's name against its gates" if verdict == OVERRIDDEN else ""
    return f"model       {path} is the one that run {run} ended with{against}"


def _report(found: Findings, path: Path, bundle: Bundle) -> str:
    from lepton_fl.evidence import report_check

    files = _files(path, bundle.to_bytes())
    return _unchanged(report_check.check_with(files, found.entries), files, f"{path} is as it was signed and entered")


def report_alone(path: Path, key: str) -> list[str]:
    """A line about a report for whoever has no log, since that names institutions, but its key from elsewhere.

    Args:
        key: Ed25519, 32 bytes in hexadecimal.

    Raises:
        ConfigError: it is no key, or a file is missing.
        BadLog: the first place that is not as this key signed it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from lepton_fl.evidence import report_check

    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    except ValueError as error:
        raise ConfigError("--key is not a key of 64 hexadecimal digits; nothing was checked") from error
    files = _files(path, None)
    return [_unchanged(report_check.check(files, public), files, f"{path} is as the holder of this key signed it")]


def _files(path: Path, log: bytes | None) -> report_check.Files:
    from lepton_fl.evidence import report_check

    try:
        return report_check.read(path, log)
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}; nothing was checked") from error


def _unchanged(findings: Sequence[report_check.Finding], files: report_check.Files, said: str) -> str:
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise BadLog(
            f"the report is not what was signed: {findings[0]}{more}; do not rely on it; get it from the operator again"
        )
    beside = f"; so is what lies beside it: {', '.join(files.beside)}" if files.beside else ""
    return f"report      {said}{beside}"


def _damaged(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is damaged: it no longer says which log was seen; nothing was trained or sent; restore it from a "
        "backup, or move it away to trust what the operator shows next"
    )
