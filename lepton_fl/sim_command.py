"""The command `lepton-sim`. Its help needs no heavy library; everything else is imported on use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lepton_fl.config import App, run_app
from lepton_fl.garbage import collect_seldom

if TYPE_CHECKING:
    from lepton_fl.simulation import SimConfig

HELP = """\
lepton-sim: the whole federation in one process; the same apps, strategies and privacy as over the network.

usage: lepton-sim [SETTING=VALUE ...] [--config-dir DIR] [--multirun] [--cfg job]
       lepton-sim audit [SETTING=VALUE ...]         train with canaries, and hold what the model betrays of them
                                                    against the claimed epsilon; writes no files

  lepton-sim                                          four hospitals, heart disease, epsilon 1
  lepton-sim privacy=none                             the same without privacy, to compare
  lepton-sim privacy.epsilon=0.5 rounds=20            a smaller budget, fewer rounds
  lepton-sim evaluation=exact evaluation.every=1      look at public data without noise, after each round
  lepton-sim task=adult privacy.epsilon=3 fairness=group
                                                      train towards groups that are served worse
  lepton-sim noise=shared                             less noise: the institutions share it under secure aggregation
  lepton-sim strategy=fedadam strategy.tau=0.01       another strategy
  lepton-sim strategy=fedmedian secure_aggregation=off
                                                      one that compares single updates
  lepton-sim task=mnist data.dir=DIR model=cnn privacy=none institutions=10
  lepton-sim experiment=mnist data.dir=DIR            a task, a model and all the settings they were measured with
  lepton-sim --config-dir my task=mine data.path=my.csv
                                                      your own table: my/task/mine.yaml, see docs/data.md
  lepton-sim --multirun privacy.epsilon=0.5,1,3       one run for each value
  lepton-sim --cfg job                                print every setting with its value, run nothing
  lepton-sim audit privacy=patient audit.records_per_canary=4
                                                      a lower bound on epsilon, beside the claim

task=      {task}
model=     {model}
strategy=  {strategy}
privacy=   {privacy}
fairness=  {fairness}
experiment={experiment}

rounds=N            rounds of training
institutions=N      how many to make up, for a task whose data names none
secure_aggregation=on|off
                    on: updates are added up under masks, of three institutions or more; off: for robust strategies
                    and cohort_size
noise=own|shared    shared: each institution adds its share, and the sum has the noise of one trusted curator; one local
                    step a round
evaluation=private|exact
                    private, with privacy=record and patient: counts of the hold-out leave with noise, charged to who is
                    held out (evaluation.epsilon, evaluation.every); exact: no epsilon covers them; docs/evaluation.md
cohort_size=N       institutions asked in each round; null: all
seed=N              reproducible, and therefore labelled not private; null: private
data.path=FILE      a CSV (also .csv.gz) or Parquet file
data.dir=DIR        a folder with MNIST's IDX files
output=DIR          result.json, evaluation.json, rounds.jsonl, model.safetensors, learning_curve.png, energy.jsonl
device=cpu|cuda|cuda:N|auto
                    where to compute; auto: the first GPU, else the CPU
engine=local|ray    ray: institutions compute beside each other on Flower's Ray engine, each with ray.num_cpus=N and
                    ray.num_gpus=N of this machine; docs/flower.md
executor=auto|sequential|vmap|lowered
                    how many institutions train in one process, never what they learn; chunk=N together, workers=N
                    threads; docs/simulation.md
log=text|json       lines for people, or one JSON object a line
plugins=[MODULE]    models, tasks and strategies of one's own, installed here; docs/policy.md
energy.power_w=W    what this machine draws while it computes, where no counter tells; also energy.pue,
                    energy.grid_g_per_kwh with its source and year, energy.stop_below; docs/energy.md
gates.NAME=LIMIT    what the model must keep to be released, say gates.recall_gap=0.1; docs/gates.md
explanation.epsilon=E
                    also release which columns the model looks at, for so much epsilon of who is held out; null: not
audit.canaries=N    people who are in the training by a fair coin each; audit.records_per_canary=K of each of them

exit codes: 0 done, 2 configuration, 3 privacy (budget, self-test, audit), 4 data, 5 model, 6 no model trained,
            13 the model is held by a gate, 130 interrupted
"""


def main() -> None:
    """Run `lepton-sim` with the arguments of this process."""
    collect_seldom()
    run = _run
    if sys.argv[1:2] == ["audit"]:
        sys.argv = [f"{sys.argv[0]} audit", *sys.argv[2:]]
        run = _audit
    groups = ("task", "model", "strategy", "privacy", "fairness", "experiment")
    run_app(App("sim", _schema, run, _register, HELP), groups)


def _schema() -> type[SimConfig]:
    from lepton_fl.simulation import SimConfig

    return SimConfig


def _run(config: SimConfig) -> None:
    from lepton_fl.simulation import run

    run(config)


def _audit(config: SimConfig) -> None:
    from lepton_fl.audit import run

    run(config)


def _register() -> None:
    from lepton_fl.simulation import register_schemas

    register_schemas()
