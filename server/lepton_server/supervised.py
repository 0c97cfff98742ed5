"""The verbs of people who look after a model once it is trained: feedback on a run, and the release of a held one."""

from __future__ import annotations

import argparse
import hashlib
import sys
from datetime import UTC, datetime
from pathlib import Path

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation import gates
from lepton_fl.evaluation.gates import Verdict
from lepton_fl.files import replace_file
from lepton_server import feedback as matters
from lepton_server.home import Home, find, open_home
from lepton_server.log import Log, log_of
from lepton_server.runs import Runs, StoredRun

_LEAST_DIGITS = 4


def feedback(chosen: argparse.Namespace) -> None:
    """`lepton-server feedback open|close|list`."""
    home = open_home(find(chosen.home))
    every = matters.read(home.path)
    if chosen.action == "list":
        shown = [matters.as_json(every)] if chosen.json else matters.lines(every)
        sys.stdout.writelines(f"{line}\n" for line in shown)
        return
    wanted = {"open": ("what", "kind", "about"), "close": ("what", "resolution")}[chosen.action]
    missing = [_NAMES[name] for name in wanted if not getattr(chosen, name)]
    if missing:
        raise ConfigError(f"feedback {chosen.action} needs {', '.join(missing)}; nothing was noted; give it")
    now = datetime.now(UTC)
    if chosen.action == "open":
        run = str(find_run(home, chosen.what).run_id)
        one = matters.opened(every, {"run": run, "kind": chosen.kind, "about": chosen.about, "by": chosen.by}, now)
    else:
        one = matters.closed(every, chosen.what, chosen.resolution, now)
    every = _kept(home, matters.keep(home.path, every, one))
    folder = Path(find_run(home, one.run).asked.output)
    matters.copy_to(folder, every, one.run)
    _show_log(home, folder)
    sys.stderr.write(f"feedback {one.id} is {'open' if one.is_open else 'closed'}; it stands in the next report\n")


_NAMES = {"what": "RUN, or the ID to close", "kind": "--kind", "about": "--about", "resolution": "--resolution"}


def _kept(home: Home, every: tuple[matters.Feedback, ...]) -> tuple[matters.Feedback, ...]:
    """The log has all of it, also what a crash left out."""
    log = Log(home)
    try:
        for one in every:
            entered = matters.enter(log, one)
            if entered != one:
                every = matters.keep(home.path, every, entered)
    finally:
        log.close()
    return every


def release(chosen: argparse.Namespace) -> None:
    """`lepton-server release`: a named person puts a held model out, in the log before it is."""
    home = open_home(find(chosen.home))
    run = find_run(home, chosen.run)
    folder = Path(run.asked.output)
    verdict = gates.read(folder)
    if verdict is None:
        raise ConfigError(f"{folder} has no {gates.NAME}, so nothing is held there; nothing was changed")
    if verdict.override is None:
        verdict = gates.overridden(verdict, chosen.by, chosen.reason, datetime.now(UTC))
    elif not (folder / gates.HELD_MODEL).exists():
        raise ConfigError(f"the model of run {run.run_id} was released already; nothing was changed")
    _put_out(home, run, folder, verdict)
    sys.stderr.write(
        f"{folder / gates.MODEL} is released; the failed gates ({', '.join(verdict.failed)}) stay with it\n"
    )


def _put_out(home: Home, run: StoredRun, folder: Path, verdict: Verdict) -> None:
    if verdict.override is None:
        raise ValueError("only a person's word puts a held model out")
    log, name = Log(home), str(run.run_id)
    try:
        said = {"by": log.commit(verdict.override.by), "reason": log.commit(verdict.override.reason)}
        log.append("override", {"run": name, **said}, f"override/{name}")
        gates.put_out(folder, verdict)
        enter_gates(log, name, folder, verdict)
    finally:
        log.close()
    _show_log(home, folder)


def _show_log(home: Home, folder: Path) -> None:
    """The run's folder has the log as it now is, where it has one."""
    if (folder / "log.json").exists():
        replace_file(folder / "log.json", log_of(home))


def enter_gates(log: Log, run: str, folder: Path, verdict: Verdict) -> None:
    """The log has the verdict, and which file says why, once."""
    sha256 = hashlib.sha256((folder / gates.NAME).read_bytes()).hexdigest()
    fields = {"run": run, "verdict": verdict.verdict, "failed": [*verdict.failed], "sha256": sha256}
    log.append("gate", fields, f"gate/{run}/{verdict.verdict}")


def find_run(home: Home, wanted: str) -> StoredRun:
    """The run of this number, or whose number alone begins so; raises `ConfigError` where that is none or several."""
    runs = Runs(home.database)
    try:
        every = runs.all()
    finally:
        runs.close()
    found = [one for one in every if str(one.run_id) == wanted]
    if not found and len(wanted) >= _LEAST_DIGITS:
        found = [one for one in every if str(one.run_id).startswith(wanted)]
    if len(found) != 1:
        latest = ", ".join(str(one.run_id) for one in every[:5]) or "none"
        raise ConfigError(f"no one run is called {wanted[:40]!r}; nothing was changed; the latest are {latest}")
    return found[0]
