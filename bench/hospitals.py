"""Heart disease at four hospitals: was joining worth it? Local-only, federated and personal models, side by side.

Usage: .venv/bin/python bench/hospitals.py [EPSILON]     (default 1; half a minute on two cores)

First what each hospital sees at home, of its own hold-out under three models: the federation's, trained under
privacy=record, and two of its own that never leave it. Then what the federation is told of the same: each hospital's
own histogram under noise. Writes bench/results/hospitals.json.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from hydra import compose, initialize_config_dir
from machine import store

from lepton_fl.config import config_dir, load
from lepton_fl.evaluation.assess import assessment_from_json
from lepton_fl.fairness.worth import assessments_of, worth_lines
from lepton_fl.results.folder import Folder
from lepton_fl.results.terminal import JsonVoice
from lepton_fl.run import Names
from lepton_fl.simulation import SimConfig, plan, register_schemas, simulate


def main() -> None:
    """Run once, print both tables, store."""
    epsilon = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    asked = ["fairness=ditto", f"privacy.epsilon={epsilon:g}", "evaluation.by_institution=true"]
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = load(SimConfig, compose("sim", overrides=asked))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with redirect_stdout(io.StringIO()):
            simulate(plan(config, Names("heart", "logistic", "fedavg")), Folder(folder), JsonVoice())
        sites = [json.loads(path.read_text()) for path in sorted((folder / "sites").glob("*.json"))]
        released = json.loads((folder / "evaluation.json").read_text())
    at_home = {one["institution"]: assessments_of(one) for one in sites}
    told = {
        one["institution"]: {"federated": assessment_from_json(one["models"]["federated"])}
        for one in released["institutions"]
    }
    print("\n".join(["at home, on its own hold-out", *worth_lines(at_home, "sex")]))  # noqa: T201
    print("\n".join([f"\ntold, at epsilon {released['epsilon']:g}", *worth_lines(told, "sex")]))  # noqa: T201
    stored = {"epsilon": epsilon, "sites": sites, "released": released["institutions"]}
    store("hospitals", stored, ("lepton-fl", "torch", "opacus", "flwr", "dp-accounting"))


if __name__ == "__main__":
    main()
