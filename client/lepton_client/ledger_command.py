"""`lepton-client ledger`: what was spent, what left, whether the file is whole, and what a person decides if not."""

from __future__ import annotations

import getpass
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

from lepton_client import ledger_view
from lepton_client.home import find
from lepton_client.ledger_repair import Accepted, Decision, accept
from lepton_client.ledger_view import Choice
from lepton_fl.command import Parser
from lepton_fl.errors import ConfigError


def ledger_folder(home: Path, ledger: str | None) -> Path:
    """Where the ledger is: the option, else in the home."""
    return Path(ledger).expanduser() if ledger else home / "ledger"


def main(arguments: list[str]) -> None:
    """Carry out `lepton-client ledger` with these arguments."""
    verb, rest = (arguments[0], arguments[1:]) if arguments and not arguments[0].startswith("-") else ("", arguments)
    verbs: dict[str, Callable[[list[str]], str]] = {"": _show, "verify": _verify, "accept": _accept}
    if verb not in verbs:
        raise ConfigError(f"lepton-client ledger has no verb {verb[:40]!r}; nothing was done; it has verify and accept")
    try:
        sys.stdout.write(verbs[verb](rest) + "\n")
    except PermissionError as error:
        raise ConfigError(
            f"this account may not use {error.filename}; nothing was done; use the account that the agent runs as"
        ) from error


def _parser() -> Parser:
    parser = Parser(prog="lepton-client ledger", add_help=False, allow_abbrev=False)
    parser.add_argument("--home")
    parser.add_argument("--ledger")
    return parser


def _folder(chosen: Namespace) -> Path:
    return ledger_folder(find(chosen.home), chosen.ledger)


def _show(arguments: list[str]) -> str:
    parser = _parser()
    parser.add_argument("--left", action="store_true")
    parser.add_argument("--run", default="")
    parser.add_argument("--day", default="")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true")
    form.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    if not chosen.left and (chosen.run or chosen.day or chosen.csv):
        raise ConfigError("--run, --day and --csv go with --left; nothing was shown; add --left")
    _refuse_no_day(chosen.day)
    folder = _folder(chosen)
    content = ledger_view.read(folder)
    if not chosen.left:
        if chosen.json:
            return ledger_view.accounts_json(ledger_view.accounts(content.books))
        return "\n".join(ledger_view.account_lines(folder, content))
    view = ledger_view.left(content.entries, Choice(chosen.run, chosen.day))
    if chosen.json:
        return ledger_view.left_json(view)
    return ledger_view.left_csv(view) if chosen.csv else "\n".join(ledger_view.left_lines(view))


def _refuse_no_day(day: str) -> None:
    try:
        is_day = not day or date.fromisoformat(day).isoformat() == day
    except ValueError:
        is_day = False
    if not is_day:
        raise ConfigError(f"--day wants YYYY-MM-DD, got {day[:40]!r}; nothing was shown")


def _verify(arguments: list[str]) -> str:
    folder = _folder(_parser().parse_args(arguments))
    entries = len(ledger_view.read(folder).entries)
    return f"whole: {entries} entries in {folder}, each as it was written"


def _accept(arguments: list[str]) -> str:
    parser = _parser()
    parser.add_argument("--reason", default="")
    parser.add_argument("--forget-spending", action="store_true")
    chosen = parser.parse_args(arguments)
    decision = Decision(chosen.reason, _account(), chosen.forget_spending)
    return "\n".join(_told(accept(_folder(chosen), decision, lambda: datetime.now(UTC))))


def _account() -> str:
    """Who says so, as far as this machine knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _told(accepted: Accepted) -> list[str]:
    spending = {
        "carried": "everything that was spent is known and carried on",
        "cap": "what was lost is unknown: every cap is taken as spent, and no private round begins; see docs/ledger.md",
        "forgotten": "what could not be read is not counted any more",
    }
    damage = [f"damage      {accepted.damage}"] if accepted.damage else []
    kept = [f"kept        {accepted.kept}; keep it for whoever asks"] if accepted.kept else []
    return [*damage, *kept, f"carried on  {accepted.carried} entries", f"spending    {spending[accepted.spending]}"]
