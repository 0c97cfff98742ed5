"""`lepton-client review`: the contracts put before this institution, each with its price, and a person's decision."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from lepton_client.clauses import refuse_unmet
from lepton_client.considering import Considered, Position, consider
from lepton_client.contracts import Contracts, Decided, changed_identities, check_operator
from lepton_client.explain import as_document, explanation, own_share
from lepton_client.home import Home, find, open_home
from lepton_client.ledger import Ledger
from lepton_client.ledger_command import ledger_folder
from lepton_client.policy import approved_tasks, load_plugins, place, read
from lepton_fl.command import Parser
from lepton_fl.errors import ConfigError
from lepton_fl.federation.contract import Contract
from lepton_fl.link import signature
from lepton_fl.secure_aggregation.keys import fingerprint
from lepton_fl.show import at, printable
from lepton_fl.training.device import choose


@dataclass(frozen=True)
class Chosen:
    """What was typed."""

    run: str | None
    is_accepted: bool
    refused: str | None  # the reason
    is_json: bool


def review(arguments: list[str]) -> None:
    """One `lepton-client review ...`."""
    parser = Parser(prog="lepton-client review", add_help=False, allow_abbrev=False)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--accept", action="store_true")
    parser.add_argument("--refuse", metavar="REASON")
    parser.add_argument("--json", action="store_true")
    for option in ("--home", "--policy", "--ledger"):
        parser.add_argument(option)
    parser.add_argument("--device", default="cpu")
    typed = parser.parse_args(arguments)
    chosen = Chosen(typed.run, typed.accept, typed.refuse, typed.json)
    if (chosen.is_accepted or chosen.refused is not None) and chosen.run is None:
        raise ConfigError("which run is meant? nothing was decided; lepton-client review lists them")
    if chosen.is_accepted and chosen.refused is not None:
        raise ConfigError("--accept and --refuse contradict each other; nothing was decided; give one of them")
    home = open_home(find(typed.home))
    contracts = Contracts(home.path / "contracts")
    if chosen.run is None:
        _list(contracts, chosen.is_json)
        return
    file = place(home.path, typed.policy)
    policy = read(file)
    load_plugins(policy)
    folder = ledger_folder(home.path, typed.ledger)
    # Looked at only where a ledger is, so that none is made by looking.
    ledger = Ledger.open(folder, _now) if folder.is_dir() else None
    position = Position(policy, approved_tasks(policy, file), ledger, choose(typed.device))
    _one(contracts, home, position, chosen)


def _list(contracts: Contracts, is_json: bool) -> None:
    rows = [(run, _contract(contracts, run), contracts.decision(run)) for run in contracts.runs()]
    if is_json:
        said = [{"run_id": run, "title": _title(contract), "state": _state(decided)} for run, contract, decided in rows]
        sys.stdout.write(json.dumps(said) + "\n")
        return
    for run, contract, decided in rows:
        sys.stdout.write(f"{run:<20} {_title(contract):<32.32} {_state(decided)}\n")
    if not rows:
        sys.stdout.write("no contract was put before this institution yet\n")


def _one(contracts: Contracts, home: Home, position: Position, chosen: Chosen) -> None:
    run_id = contracts.named(chosen.run or "")
    offered = contracts.find(run_id)
    if offered is None:
        raise ConfigError(f"there is no contract of run {run_id}; nothing was decided; lepton-client review lists them")
    check_operator(offered, x509.load_pem_x509_certificate(home.ca.read_bytes()), _now())
    considered = consider(offered.contract, position, _now().astimezone(), in_full=True)
    if chosen.refused is not None:
        decided: Decided | None = contracts.refuse(run_id, getpass.getuser(), _now(), chosen.refused)
    elif chosen.is_accepted:
        # A person can say no to what the policy allows, and not yes to what it refuses.
        refuse_unmet(clause for clause in considered.clauses if clause == considered.refused)
        signer = signature.signer(home.key, home.certificate)
        decided = contracts.accept(run_id, signer, getpass.getuser(), _now())
    else:
        decided = contracts.decision(run_id)
    if chosen.is_json:
        told = as_document(considered.proposal, considered.clauses) | {"state": _state(decided)}
        sys.stdout.write(json.dumps(told) + "\n")
        return
    changed = changed_identities(contracts, offered.contract)
    sys.stdout.writelines(f"{line}\n" for line in _lines(considered, position, decided, changed))


def _lines(
    considered: Considered, position: Position, decided: Decided | None, changed: Mapping[str, int]
) -> Iterator[str]:
    contract = considered.contract
    yield from explanation(position.policy, considered.proposal, considered.clauses)
    yield from own_share(considered.declared)
    yield f"model       {contract.terms['model']['kind']}, strategy {contract.terms['strategy']['kind']}"
    if contract.terms["fairness"]["kind"] != "none":
        yield f"fairness    {', '.join(f'{name} {value}' for name, value in contract.terms['fairness'].items())}"
    yield f"leaves      {', '.join(contract.must_leave)}; also asked for: {', '.join(contract.may_leave) or 'nothing'}"
    yield f"software    {', '.join(f'{name} {version}' for name, version in contract.software.items())}"
    yield from identities(contract, changed)
    if contract.purpose.contact:
        yield f"contact     {printable(contract.purpose.contact)}"
    yield f"state       {_state(decided)}"
    if decided is None and considered.refused is None:
        yield f"decide      lepton-client review {contract.run_id} --accept, or --refuse REASON"


def identities(contract: Contract, changed: Mapping[str, int]) -> Iterator[str]:
    """Each institution's key in secure aggregation, to be read to each other over the telephone."""
    for name, key in contract.identities.items():
        was = f"  ANOTHER KEY THAN IN RUN {changed[name]}" if name in changed else ""
        yield f"key         {printable(name)}: {fingerprint(bytes.fromhex(key))}{was}"


def _state(decided: Decided | None) -> str:
    if decided is None:
        return "waits for a decision"
    if decided.is_accepted:
        return f"accepted by {decided.by} at {at(decided.at)}"
    return f"refused by {decided.by} at {at(decided.at)}: {printable(decided.reason)}"


def _contract(contracts: Contracts, run: int) -> Contract:
    offered = contracts.find(run)
    if offered is None:
        raise ConfigError(f"the contract of run {run} went away; nothing was decided; look again")
    return offered.contract


def _title(contract: Contract) -> str:
    return printable(str(contract.terms["task"]["title"]))


def _now() -> datetime:
    return datetime.now(UTC)
