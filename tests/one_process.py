"""Many commands of one program in one process, each through its own entry: a start imports for seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


def answers(program: str, cases: Mapping[str, Sequence[str]], folder: Path) -> dict[str, Answer]:
    """What the program says to these arguments in this folder, which is also the user's home, one after another."""
    alone = {name: value for name, value in os.environ.items() if name != "LEPTON_HOME"} | {"HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", _IN_TURN, ENTRIES[program], program],
        cwd=folder,
        env=alone,
        input=json.dumps({name: list(arguments) for name, arguments in cases.items()}),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return {name: Answer(*said) for name, said in json.loads(done.stdout.splitlines()[-1]).items()}
