"""`lepton-client policy`: write a policy, say what it says, and say why a run is accepted or refused."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from lepton_client import policy_file
from lepton_client.clauses import refuse_unmet
from lepton_client.considering import Position, consider
from lepton_client.explain import as_document, explanation, find_contract, own_share, sentences
from lepton_client.home import find
from lepton_client.ledger import Ledger
from lepton_client.ledger_command import ledger_folder
from lepton_client.policy import Policy, approved_tasks, load_plugins, place, read
from lepton_fl.command import Parser
from lepton_fl.federation.contract import Contract
from lepton_fl.plugins import snapshot
from lepton_fl.training.device import choose


def policy(arguments: list[str]) -> None:
    """One `lepton-client policy ...`."""
    chosen = _parser().parse_args(arguments)
    if chosen.verb == "hash":
        sys.stdout.write(f"{{module: {chosen.module}, sha256: {snapshot(chosen.module).sha256}}}\n")
        return
    path = place(find(chosen.home), chosen.file)
    if chosen.verb == "init":
        _init(path, {name: getattr(chosen, name) for name in policy_file.QUESTIONS})
    elif chosen.verb == "show":
        _show(path, chosen.json)
    else:
        found = read(path)
        load_plugins(found)
        folder = ledger_folder(find(chosen.home), chosen.ledger)
        contract = find_contract(find(chosen.home), chosen.run)
        _explain((found, path), (contract, folder), chosen.device, chosen.json)


def _parser() -> Parser:
    parser = Parser(prog="lepton-client policy", add_help=False, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", metavar="init|show|explain|hash", parser_class=Parser, required=True)
    verbs.add_parser("hash", add_help=False, allow_abbrev=False).add_argument("module")
    for name in ("init", "show", "explain"):
        verb = verbs.add_parser(name, add_help=False, allow_abbrev=False)
        verb.add_argument("--home")
        verb.add_argument("--file")
        if name == "init":
            for option in policy_file.QUESTIONS:
                verb.add_argument(f"--{option.replace('_', '-')}")
            continue
        verb.add_argument("--json", action="store_true")
        if name == "explain":
            verb.add_argument("run")
            verb.add_argument("--ledger")
            verb.add_argument("--device", default="cpu")
    return parser


def _init(path: Path, given: dict[str, str | None]) -> None:
    question = input if sys.stdin.isatty() else None
    policy_file.write(path, policy_file.text(policy_file.ask(given, question)))
    sys.stdout.writelines(f"{line}\n" for line in sentences(read(path)))
    sys.stderr.write(
        f"written to {path}; nothing beyond it can be trained here; read it, and change what is not right\n"
    )


def _show(path: Path, is_json: bool) -> None:
    found = read(path)
    if is_json:
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
        return
    sys.stdout.writelines(f"{line}\n" for line in (f"policy      {path}", *sentences(found)))


def _explain(policy: tuple[Policy, Path], run: tuple[Contract, Path], device: str, is_json: bool) -> None:
    (found, path), (contract, folder) = policy, run
    # Looked at only where a ledger is, so that none is made by looking.
    ledger = Ledger.open(folder, _now) if folder.is_dir() else None
    position = Position(found, approved_tasks(found, path), ledger, choose(device))
    considered = consider(contract, position, _now().astimezone(), in_full=True)
    if is_json:
        sys.stdout.write(json.dumps(as_document(considered.proposal, considered.clauses)) + "\n")
    else:
        lines = (*explanation(found, considered.proposal, considered.clauses), *own_share(considered.declared))
        sys.stdout.writelines(f"{line}\n" for line in lines)
    refuse_unmet(considered.clauses)


def _now() -> datetime:
    return datetime.now(UTC)
