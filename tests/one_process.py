"""Many commands of one program in few processes, each through its own entry: a start imports for seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_IN_TURN = """
import contextlib, importlib, io, json, sys

module, program = sys.argv[1:]
main = importlib.import_module(module).main
results = {}
for name, arguments in json.load(sys.stdin).items():
    sys.argv = [program, *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        except BaseException as bug:
            code = f"a traceback: {type(bug).__name__}"
    results[name] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(results))
"""
ENTRIES = {"lepton-sim": "lepton_fl.sim_command", "lepton-client": "lepton_client.main"}


@dataclass(frozen=True)
class Answer:
    """What one command said."""

    code: int | str | None  # 0, None: done; a text: it ended with a traceback
    out: str
    err: str


def answers(
    program: str, cases: Mapping[str, Sequence[str]], folder: Path, processes: int = 1, home: Path | None = None
) -> dict[str, Answer]:
    """What the program says to these arguments in this folder, one after another.

    Args:
        processes: that share the cases between them, side by side.
        home: the user's; None: as it is.
    """
    named = [(name, list(arguments)) for name, arguments in cases.items()]
    alone = {name: value for name, value in os.environ.items() if name != "LEPTON_HOME"}
    environment = alone if home is None else alone | {"HOME": str(home)}

    def said(first: int) -> dict[str, Answer]:
        done = subprocess.run(
            [sys.executable, "-c", _IN_TURN, ENTRIES[program], program],
            cwd=folder,
            env=environment,
            input=json.dumps(dict(named[first::processes])),
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return {name: Answer(*one) for name, one in json.loads(done.stdout.splitlines()[-1]).items()}

    with ThreadPoolExecutor(processes) as pool:
        return {name: answer for found in pool.map(said, range(processes)) for name, answer in found.items()}
