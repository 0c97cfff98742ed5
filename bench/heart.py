"""Heart disease at four hospitals, private against not private: hold-out AUC over several unseeded runs.

Usage: .venv/bin/python bench/heart.py [RUNS]     (default 10)

Every run is the command `lepton-sim` in a process of its own; nothing is seeded, so the figures differ a
little each time. Writes bench/results/heart.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import store

COMMAND = Path(sys.executable).with_name("lepton-sim")
# The model is measured, not the noise of its evaluation.
COUNTS = ("evaluation=exact", "evaluation.every=1")


def auc(*settings: str) -> tuple[float, float | None]:
    """Hold-out AUC and epsilon of one run."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([COMMAND, f"output={folder}", *COUNTS, *settings], check=True, capture_output=True)  # noqa: S603
        result = json.loads((Path(folder) / "result.json").read_text())
    return result["metrics"]["auc"], result["epsilon"]


def main() -> None:
    """Run, print one line a variant, store."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    reference, _ = auc("privacy=none")
    print(f"privacy=none                              auc {reference:.4f}")  # noqa: T201
    stored = {"privacy=none": {"auc": reference}}
    for epsilon in (1.0, 0.5):
        for noise in ("own", "shared"):
            results = [auc(f"privacy.epsilon={epsilon}", f"noise={noise}") for _ in range(runs)]
            values, spent = [value for value, _ in results], max(e for _, e in results if e is not None)
            mean, spread = statistics.mean(values), statistics.stdev(values)
            print(  # noqa: T201
                f"privacy=record epsilon {spent:.2f} noise={noise:<6}  auc {mean:.4f} (mean of {runs} runs, "
                f"standard deviation {spread:.4f}), {reference - mean:+.4f} below privacy=none"
            )
            stored[f"epsilon={epsilon} noise={noise}"] = {"auc": mean, "stdev": spread, "runs": runs, "epsilon": spent}
    store("heart", stored, ("lepton-fl", "torch", "opacus", "flwr", "dp-accounting"))


if __name__ == "__main__":
    main()
