"""What `lepton-client ledger` shows: what was spent, and what left. Read from the file; nothing is changed."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from lepton_client import ledger_files as files
from lepton_client import put_back
from lepton_client.ledger_files import LedgerDamaged
from lepton_fl.errors import ConfigError
from lepton_fl.privacy import budget
from lepton_fl.privacy.accounting import MOST_SKELLAM_EPSILON, epsilon_of_history
from lepton_fl.privacy.books import Books, Run, books_of
from lepton_fl.privacy.budget import AccountState
from lepton_fl.privacy.chain import Damaged, Entry
from lepton_fl.show import printable

_COLUMNS = ("n", "at", "run", "round", "kind", "message_id", "bytes", "sha256", "epsilon", "rule")
_SHORT = 12  # of a digest's 64 digits, in the table


@dataclass(frozen=True)
class RunState:
    """What one run has spent."""

    run: str
    operator: str
    rounds: int  # reserved
    rounds_declared: int
    epsilon: float | None  # of this run alone, by PLD (of shared noise: by Renyi); None: no epsilon covers it
    epsilon_own: float | None  # by this institution's share of the noise alone; None: no noise was shared
    seconds: float  # of training


@dataclass(frozen=True)
class AccountView:
    """An account and its runs."""

    account: AccountState
    runs: tuple[RunState, ...]


@dataclass(frozen=True)
class Content:
    """A ledger as it was read."""

    entries: tuple[Entry, ...]
    books: Books


@dataclass(frozen=True)
class Choice:
    """Which of what left; empty: all."""

    run: str
    day: str  # YYYY-MM-DD, in UTC


@dataclass(frozen=True)
class LeftRow:
    """A message that left, or a connection that ended, whose bytes are what it sent beyond or short of its messages."""

    n: int
    at: str
    run: str
    round: int | None
    kind: str
    message_id: str
    bytes: int
    sha256: str
    epsilon: float | None
    rule: str


@dataclass(frozen=True)
class LeftView:
    """What left, and its sum."""

    left: tuple[LeftRow, ...]
    bytes: int  # as the transport counted them
    bytes_unsettled: int  # of these, said to leave by connections that are open or were killed: at most


def read(folder: Path) -> Content:
    """Every entry of a ledger that is whole.

    Raises:
        LedgerDamaged: it is not.
        ConfigError: there is none.
    """
    if not folder.is_dir() or files.is_absent(folder):
        raise ConfigError(f"{folder} holds no ledger yet; nothing was shown; it begins with the first run")
    with files.held(folder):
        try:
            found, _ = files.look(folder, files.read_key(folder))
            books = books_of(found.entries)
            put_back.refuse_noted(
                folder, {one.head.position: one.head.sha256 for one in found.entries}.get, books.replaced
            )
        except Damaged as damage:
            raise LedgerDamaged(folder, damage) from None
    return Content(found.entries, books)


def accounts(books: Books) -> tuple[AccountView, ...]:
    """Every account with its runs."""
    return tuple(
        AccountView(budget.state(books, account), tuple(_run(run) for run in books.of(account)))
        for account in books.accounts()
    )


def _run(run: Run) -> RunState:
    declared = run.declared
    alone = own = None
    if declared.mechanism is not None:
        alone = epsilon_of_history(declared.segment(run.rounds), declared.delta)
        if declared.mechanism.own_multiplier not in (None, declared.mechanism.noise_multiplier):
            own = epsilon_of_history(declared.segment(run.rounds, is_own=True), declared.delta)
    return RunState(declared.run, declared.operator, run.rounds, declared.rounds, alone, own, run.seconds)


def accounts_json(views: Iterable[AccountView]) -> str:
    """One line; an epsilon that does not exist is null."""
    plain = []
    for view in views:
        account = {name: _or_null(value) for name, value in asdict(view.account).items()}
        runs = [{name: _or_null(value) for name, value in asdict(run).items()} for run in view.runs]
        plain.append({"account": account, "runs": runs})
    return json.dumps({"accounts": plain})


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def account_lines(folder: Path, content: Content) -> list[str]:
    """The accounts for people."""
    lines = [f"ledger      {folder}, {len(content.entries)} entries, whole"]
    for entry in content.entries:
        if entry.fields["entry"] == "accepted" and "was" not in entry.fields:
            lines += _accepted_lines(entry)
    for view in accounts(content.books):
        lines += ["", *_account(view.account), "", *_table(_run_cells(view.runs))]
    return lines


def _accepted_lines(entry: Entry) -> list[str]:
    told = {
        "carried": "everything spent is known",
        "cap": "what was lost is unknown, and every cap is taken as spent",
        "forgotten": "what could not be read is not counted",
    }
    fields = entry.fields
    what = printable(fields["damage"]) or "unknown spending"
    return [
        f"decided     {fields['at'][:10]} by {printable(fields['by'])}: {what}; {told[fields['spending']]}",
        f"            reason: {printable(fields['reason'])}",
    ]


def _account(account: AccountState) -> list[str]:
    cap, delta, stop = f"{account.cap:.2f}", f"{account.delta:g}", ""
    if not account.is_covered:
        epsilon = "none covers it: a round was released without a promise"
    elif not account.is_known:
        epsilon = f"unknown, so the cap of {cap} at delta {delta} is taken as spent"
    else:
        epsilon = f"{account.epsilon_pld:.2f} of {cap} at delta {delta}"
        stop = f"{account.epsilon_rdp:.2f} of {cap}, by the filter that decides from the second run on"
    relation = f" ({printable(account.neighbouring_relation)})" if account.neighbouring_relation else ""
    return [
        f"data set    {printable(account.data_set)}{_whose(account)}, per {printable(account.unit)}{relation}",
        f"epsilon     {epsilon}",
        *_own_lines(account),
        *([f"hard stop   {stop}"] if stop else []),
        f"spent by    {_count(account.rounds, 'round')} of {_count(account.runs, 'run')}, "
        f"{_count(account.steps, 'step')}",
        f"uncovered   {_count(account.uncovered, 'message')} left that no epsilon covers",
    ]


def _whose(account: AccountState) -> str:
    return f" ({printable(account.part)}, never trained on)" if account.part else ""


def _own_lines(account: AccountState) -> list[str]:
    """Noise that was shared protects less against whoever sees one institution's share."""
    if account.epsilon_own is None or not account.is_covered:
        return []
    return [
        "            that is against outsiders and the other institutions, whose noise was added to this one's;",
        f"            {own_epsilon(account.epsilon_own)} against an operator with more colluders than assumed",
    ]


def own_epsilon(epsilon: float) -> str:
    """Of a share of the noise alone, for people."""
    return f"{epsilon:.2f}" if epsilon < math.inf else f"no epsilon up to {MOST_SKELLAM_EPSILON:g}"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _run_cells(runs: Sequence[RunState]) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = [("run", "operator", "rounds", "epsilon alone", "trained")]
    for run in runs:
        alone = "none covers it" if run.epsilon is None else f"{run.epsilon:.2f}"
        if run.epsilon_own is not None:
            alone += f" ({own_epsilon(run.epsilon_own)} by its own share)"
        rounds, trained = f"{run.rounds} of {run.rounds_declared}", f"{run.seconds:.0f} s"
        cells.append((printable(run.run), printable(run.operator)[:_SHORT], rounds, alone, trained))
    return cells


def left(entries: Iterable[Entry], choice: Choice) -> LeftView:
    """What left, in the order in which it did; the bytes of a run add up to what its connections put on the wire."""
    rows, unsettled = [], 0
    for entry in entries:
        fields = entry.fields
        if fields["entry"] not in ("left", "connection") or (choice.run and fields["run"] != choice.run):
            continue
        if not fields["at"].startswith(choice.day):
            continue
        is_message = fields["entry"] == "left"
        unsettled += fields["bytes"] if is_message else -fields["announced"]
        rows.append(_row(entry) if is_message else _connection_row(entry))
    # Of one day, a connection may settle what the day before announced.
    return LeftView(tuple(rows), sum(row.bytes for row in rows), max(0, unsettled))


def _row(entry: Entry) -> LeftRow:
    plain = {name: entry.fields[name] for name in _COLUMNS if name != "n"}
    return LeftRow(n=entry.head.position, **plain)


def _connection_row(entry: Entry) -> LeftRow:
    at, run, connection, size = (entry.fields[name] for name in ("at", "run", "connection", "bytes"))
    return LeftRow(entry.head.position, at, run, None, "connection", connection, size, "", None, "")


def left_json(view: LeftView) -> str:
    """One line of JSON."""
    return json.dumps(asdict(view))


def left_csv(view: LeftView) -> str:
    """A header, then one line a row, whole digests; text that a spreadsheet would compute is quoted as text."""
    out = StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(_COLUMNS)
    for row in view.left:
        texts = {"run": row.run, "kind": row.kind, "message_id": row.message_id, "rule": row.rule}
        cells = asdict(row) | {name: _text(text) for name, text in texts.items()}
        table.writerow(["" if cells[name] is None else cells[name] for name in _COLUMNS])
    return out.getvalue().removesuffix("\n")


def _text(cell: str) -> str:
    shown = printable(cell)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def left_lines(view: LeftView) -> list[str]:
    """The messages for a privacy officer."""
    if not view.left:
        return ["nothing left"]
    cells: list[tuple[str, ...]] = [
        ("time (UTC)", "run", "round", "what", "bytes", "sha256", "epsilon <=", "allowed by")
    ]
    for row in view.left:
        is_message = row.kind != "connection"
        epsilon = "" if not is_message else "none" if row.epsilon is None else f"{row.epsilon:.2f}"
        cells.append(
            (
                row.at[:19].replace("T", " "),
                printable(row.run),
                "" if row.round is None else str(row.round),
                printable(row.kind) if is_message else "connection's rest",
                f"{row.bytes}",
                row.sha256[:_SHORT],
                epsilon,
                printable(row.rule),
            )
        )
    return [*_table(cells, right={2, 4, 6}), "", *_sum_lines(view)]


def _sum_lines(view: LeftView) -> list[str]:
    messages = sum(row.kind != "connection" for row in view.left)
    lines = [f"sum         {view.bytes} bytes in {_count(messages, 'message')}, as the transport counted them"]
    if view.bytes_unsettled:
        lines.append(
            f"            of these {view.bytes_unsettled} at most: their connection is open, or was killed before it "
            "could count"
        )
    lines.append("            a connection's rest: greeting and heartbeats, less what was announced and cut off")
    return lines


def _table(cells: Sequence[tuple[str, ...]], right: Iterable[int] = ()) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    right = set(right)
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
