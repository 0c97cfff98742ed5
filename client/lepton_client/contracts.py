"""The contracts that were put before this institution, and what it decided on each; one folder for each run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from lepton_fl.errors import ConfigError
from lepton_fl.federation.contract import Contract, digest, from_bytes
from lepton_fl.files import write_secret
from lepton_fl.link import signature
from lepton_fl.link.signature import Signed, Signer


@dataclass(frozen=True)
class Offered:
    """A contract as the operator signed it."""

    content: bytes
    signed: Signed

    @property
    def contract(self) -> Contract:
        """Its fields; raises `ConfigError` if it cannot be read."""
        return from_bytes(self.content)


@dataclass(frozen=True)
class Decided:
    """What this institution said."""

    is_accepted: bool
    by: str  # "policy", or the account of the person
    at: datetime
    reason: str  # of a refusal
    signed: Signed | None  # of an acceptance


class Contracts:
    """A folder of contracts, `HOME/contracts/RUN`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, run_id: int, offered: Offered) -> None:
        """The contract is on disk; the first one of a run stays."""
        place = self._place(run_id)
        if (place / "operator.json").exists():
            return
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_secret(place / "contract.json", offered.content)
        write_secret(place / "operator.json", _to_json(offered.signed, {}))

    def find(self, run_id: int) -> Offered | None:
        """The contract of this run.

        Raises:
            ConfigError: the files are damaged.
        """
        place = self._place(run_id)
        if not (place / "operator.json").exists():
            return None
        signed, _ = _read(place / "operator.json")
        return Offered((place / "contract.json").read_bytes(), signed or Signed(b"", b""))

    def runs(self) -> list[int]:
        """Every run that was offered, the latest last."""
        if not self._folder.is_dir():
            return []
        places = [place for place in self._folder.iterdir() if (place / "operator.json").exists()]
        return [int(place.name) for place in sorted(places, key=lambda one: (one / "operator.json").stat().st_mtime)]

    def named(self, name: str) -> int:
        """The run that is meant by its number, or by the beginning of its number or its contract's digest.

        Raises:
            ConfigError: none or several are meant.
        """
        found = [run for run in self.runs() if str(run).startswith(name) or self._digest(run).startswith(name)]
        if len(found) != 1 or not name:
            raise ConfigError(
                f"{len(found)} contracts are called {name!r}; nothing was decided; lepton-client review lists them"
            )
        return found[0]

    def note(self, run_id: int, name: str, facts: Mapping[str, Any]) -> None:
        """Keep what was worked out for a contract, say its price, beside it."""
        write_secret(self._place(run_id) / f"{name}.json", (json.dumps(facts, indent=2) + "\n").encode())

    def decision(self, run_id: int) -> Decided | None:
        """What this institution said to a run's contract; None if nothing yet."""
        path = self._place(run_id) / "decision.json"
        if not path.exists():
            return None
        signed, facts = _read(path)
        try:
            at = datetime.fromisoformat(facts["at"])
            return Decided(facts["accepted"] is True, str(facts["by"]), at, str(facts["reason"]), signed)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} is damaged; nothing was trained; lepton-client review decides anew") from error

    def accept(self, run_id: int, signer: Signer, by: str, at: datetime) -> Decided:
        """Countersign a run's contract, on disk before anybody is told."""
        offered = self.find(run_id)
        if offered is None:
            raise ConfigError(f"there is no contract of run {run_id}; nothing was decided")
        signed = signer.sign(signature.CONTRACT, offered.content)
        return self._decide(run_id, Decided(True, by, at, "", signed))

    def refuse(self, run_id: int, by: str, at: datetime, reason: str) -> Decided:
        """Refuse a run's contract."""
        return self._decide(run_id, Decided(False, by, at, reason, None))

    def _decide(self, run_id: int, decided: Decided) -> Decided:
        facts = {
            "accepted": decided.is_accepted,
            "by": decided.by,
            "at": decided.at.isoformat(),
            "reason": decided.reason,
        }
        write_secret(self._place(run_id) / "decision.json", _to_json(decided.signed, facts))
        return decided

    def _digest(self, run_id: int) -> str:
        offered = self.find(run_id)
        return "" if offered is None else digest(offered.contract)

    def _place(self, run_id: int) -> Path:
        return self._folder / str(run_id)


def changed_identities(contracts: Contracts, offered: Contract) -> dict[str, int]:
    """Institutions whose key is another than in the last contract that was accepted here and names them.

    The operator brings the keys, and could bring its own; a key that stays the same from run to run was compared once.

    Returns:
        Institution to the run in which its key was another.
    """
    known: dict[str, tuple[str, int]] = {}
    for run in contracts.runs():
        decided = contracts.decision(run)
        found = contracts.find(run)
        if found is None or decided is None or not decided.is_accepted or run == offered.run_id:
            continue
        if found.contract.federation == offered.federation:
            known.update({name: (key, run) for name, key in found.contract.identities.items()})
    return {name: known[name][1] for name, key in offered.identities.items() if name in known and known[name][0] != key}


def check_operator(offered: Offered, ca: x509.Certificate, now: datetime) -> None:
    """The operator signed this contract; raises `BadCertificate` if not."""
    signature.check(offered.signed, signature.CONTRACT, offered.content, (signature.OPERATOR, ca), now)


def _to_json(signed: Signed | None, facts: Mapping[str, Any]) -> bytes:
    parts = {} if signed is None else {"certificate": signed.certificate.decode(), "signature": signed.value.hex()}
    return (json.dumps({**facts, **parts}, indent=2) + "\n").encode()


def _read(path: Path) -> tuple[Signed | None, dict[str, Any]]:
    try:
        facts = json.loads(path.read_text())
        value = facts.pop("signature", None)
        certificate = facts.pop("certificate", "")
        return (None if value is None else Signed(certificate.encode(), bytes.fromhex(value))), facts
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} is damaged; nothing was trained; restore it, or decide anew") from error
