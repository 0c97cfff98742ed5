"""`lepton-server report`: the transparency report of a run, signed with the log's key, its hash in the log."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from lepton_fl.evidence import model_facts, report_signature, sources
from lepton_fl.evidence.report import PUBLIC, report, to_bytes
from lepton_fl.evidence.report_card import card
from lepton_fl.evidence.report_check import CARD, LOG, PAGE, REPORT, SIGNATURE
from lepton_fl.evidence.report_page import page
from lepton_fl.evidence.sources import CannotReport, Sources
from lepton_fl.files import replace_file
from lepton_server.home import Home, find, open_home
from lepton_server.log import Log
from lepton_server.runs import Runs


def make(chosen: argparse.Namespace) -> None:
    """Write the report, its page, its card and its signature, and enter its hash in the log."""
    home = open_home(find(chosen.home))
    run, folder = _which(home, chosen.run, chosen.folder)
    if chosen.facts:
        _write_template(folder)
        return
    into = folder / PUBLIC if chosen.edition == PUBLIC else folder
    log = Log(home)
    try:
        _keep_log(log, run, folder)
        stated, drawn = _write(sources.read(folder, run), into, chosen, log)
        entered = _enter(log, run, stated)
        _keep_log(log, run, folder)  # with the report's own entry
    finally:
        log.close()
    where = "not in the log: it is of no run of this server" if entered is None else f"entry {entered} of the log"
    sys.stdout.write(f"{into / PAGE}: {stated['edition']} edition, {stated['status']}, {drawn} bytes, {where}\n")


def _write(found: Sources, into: Path, chosen: argparse.Namespace, log: Log) -> tuple[dict[str, object], int]:
    document = report(found, chosen.edition, datetime.now(UTC), is_final=chosen.final)
    content = to_bytes(document)
    drawn, carded = page(content), card(content)
    stated = report_signature.statement(content, drawn, carded)
    into.mkdir(exist_ok=True)
    # The signature last: where it stands, what it signs does.
    (into / SIGNATURE).unlink(missing_ok=True)
    for name, written in ((REPORT, content), (PAGE, drawn), (CARD, carded)):
        replace_file(into / name, written)
    replace_file(into / SIGNATURE, report_signature.sign(stated, log))
    return stated, len(drawn)


def _enter(log: Log, run: str | None, stated: dict[str, object]) -> int | None:
    if run is None:
        return None
    sha256 = stated["report_sha256"]
    fields = {"run": run, "edition": stated["edition"], "status": stated["status"], "sha256": sha256}
    return log.append("report", fields, f"report/{run}/{sha256}")


def _keep_log(log: Log, run: str | None, folder: Path) -> None:
    """The folder of one of this server's runs has the log beside it; of another's, it would prove nothing."""
    if run is not None:
        replace_file(folder / LOG, log.bundle().to_bytes())


def _which(home: Home, run: str | None, folder: str | None) -> tuple[str | None, Path]:
    """The run that is meant, if this server made it, and its folder: the last one that ended, if nobody says."""
    runs = Runs(home.database)
    try:
        known = runs.all()
    finally:
        runs.close()
    if folder is not None:
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise CannotReport(f"there is no folder {path}; nothing was written; give the folder of a run's results")
        made = [one for one in known if Path(one.asked.output).resolve() == path.resolve()]
        return (str(made[0].run_id) if made else None), path
    for one in known:
        if str(one.run_id) == run or (run is None and one.state == "finished"):
            return str(one.run_id), Path(one.asked.output)
    which = "no run has ended here" if run is None else f"there is no run {run[:40]}"
    raise CannotReport(f"{which}; nothing was written; lepton-server status shows runs; or give --folder DIR")


def _write_template(folder: Path) -> None:
    path = folder / model_facts.NAME
    if path.exists():
        raise CannotReport(f"{path} is there already; nothing was written; fill it in, or move it away")
    replace_file(path, model_facts.template().encode())
    sys.stdout.write(f"{path}: fill in what only people know, then lepton-server report --final\n")
