"""The command `lepton-server`. Its help needs no heavy library; everything else is imported on use."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from lepton_fl.command import Parser, help_of, home_as_setting
from lepton_fl.config import App, run_app
from lepton_fl.errors import ConfigError, exit_on_error
from lepton_fl.garbage import collect_seldom

if TYPE_CHECKING:
    from lepton_server.settings import ServerConfig

HELP = """\
lepton-server: an operator's side of a federation.

usage: lepton-server VERB [--home DIR] ...

  lepton-server init --host fl.example.org       make the CA and the home, once
  lepton-server invite "North Hospital"          print an invitation for one institution: one line, one use, 24 hours
  lepton-server institutions [--json]            who was invited, is a member, was revoked; when certificates end
  lepton-server status [--json] [--watch]        who is connected, the round, epsilon spent; --watch: until Ctrl-C
  lepton-server revoke "North Hospital"          keep an institution out; an open stream is cut within seconds
  lepton-server report --facts                   write model_facts.yaml, for people to fill in, into a run's folder
  lepton-server report [--run ID | --folder DIR] [--edition public|consortium] [--final]
                                                 write the signed transparency report of a run, the last one if
                                                 nobody says which; --final: no field of people's may be empty
  lepton-server log export FILE                  everything that happened, in one file that anyone can check
  lepton-server log forget COMMITMENT            delete a person's name or words, of which the log holds a commitment
  lepton-server verify [FILE] [--heads FILE] [--model FILE] [--report FILE]
                                                 whether a log (else: this home's) is what was signed, and names the
                                                 first bad entry; --ca FILE: of another federation
  lepton-server run task=heart rounds=10         wait for the institutions, offer them a signed contract,
                                                 train with those who accept it, write the results, stop;
                                                 after a crash or a stop the same command continues the run
  lepton-server feedback open RUN --kind unfair --about "misses women over 70" [--by "head of cardiology"]
                                                 note what somebody found wrong with a run's model (error, unfair,
                                                 harm, question, other); it stays open in each report until answered
  lepton-server feedback close f1 --resolution "trained again with women of that age"
                                                 answer it
  lepton-server feedback list [--json]           every matter, open ones first
  lepton-server release RUN --by "head of cardiology" --reason "for the trial alone, every case is read by two"
                                                 release a model that failed a gate: a person's word, in the log
  lepton-server run --help                       the settings of a run

--home DIR            the operator's folder; else LEPTON_HOME, else ~/.lepton/server

exit codes: 0 done, 2 configuration, 3 privacy budget, 6 no model trained, 7 certificate, 8 invitation,
9 the operator's records, 10 too few institutions are there or accept, 11 stopped by SIGTERM, 12 a log that is not what
was signed, 13 the model is held by a gate, 130 interrupted
"""

RUN_HELP = """\
lepton-server run: wait for the institutions, offer them a signed contract, train with those who accept it, write the
results, stop.

usage: lepton-server run [--home DIR] [SETTING=VALUE ...] [--config-dir DIR] [--cfg job]

  lepton-server run task=heart rounds=10
  lepton-server run task=heart privacy.epsilon=0.5 strategy=fedavgm output=results

task=      {task}
model=     {model}
strategy=  {strategy}
privacy=   {privacy}
fairness=  {fairness}

institutions=N      wait for so many; null: every member and every open invitation
quorum_s=SECONDS    wait so long for them
round_s=SECONDS     and so long for the answers of a round
grace_s=SECONDS     one that loses its connection may come back within this time
abandon=true        give up an unfinished run that was asked for with other settings, and begin this one
least_cohort=N      no round asks fewer institutions; null: as many as secure aggregation has to answer, and without
                    it two, or one where one takes part
secure_aggregation=on|off
                    on: you see sums over all institutions, three or more; off: each update, where every policy allows
                    it: for robust strategies, cohort_size, and fewer institutions
noise=own|shared    shared: each institution adds its share, and the sum has the noise of one trusted curator; one local
                    step a round, where every policy allows it
evaluation=private|exact
                    private, with privacy=record and patient: counts of the hold-out leave with noise, charged to who is
                    held out (evaluation.epsilon, evaluation.every); exact: no epsilon covers them; docs/evaluation.md
seed=N              reproducible, and therefore labelled not private; null: private; policies allow it for public data
purpose.purpose=TEXT purpose.contact=TEXT purpose.retention_days=N
                    why the model is trained, whom to ask, how long results are kept: words of the contract
output=DIR          result.json, evaluation.json, rounds.jsonl, model.safetensors, contract.json, log.json and more
log=text|json       lines for people, or one JSON object a line
plugins=[MODULE]    models, tasks and strategies of one's own, installed here; docs/policy.md
energy.pue=N        what the building draws over what its computers draw; also energy.grid_g_per_kwh with its source and
                    year, energy.stop_below, and this machine's energy.power_w; docs/energy.md
gates.NAME=LIMIT    what the model must keep to be released, say gates.recall_gap=0.1; docs/gates.md
metrics_port=N      figures for Prometheus on http://127.0.0.1:N/metrics
"""

_PLAIN_VERBS = ("init", "invite", "revoke", "institutions", "status", "log", "verify", "report", "feedback", "release")


def main() -> None:
    """Run `lepton-server` with the arguments of this process."""
    collect_seldom()
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in ("--help", "-h"):
        sys.stdout.write(HELP)
    elif {"--help", "-h"} & {*rest} and verb != "run":
        sys.stdout.write(help_of(HELP, f"lepton-server {verb}"))
    elif verb == "run":
        with exit_on_error():
            sys.argv = [f"{sys.argv[0]} run", *home_as_setting(rest)]
        run_app(App("server", _schema, _run, _register, RUN_HELP), ("task", "model", "strategy", "privacy", "fairness"))
    else:
        with exit_on_error():
            _plain_verb([verb, *rest])


def _plain_verb(arguments: list[str]) -> None:
    if arguments[0] not in _PLAIN_VERBS:
        raise ConfigError(f"there is no verb {arguments[0][:40]!r}; nothing was done; lepton-server --help lists them")
    parser = Parser(prog="lepton-server", add_help=False, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", parser_class=Parser, required=True)
    for name in _PLAIN_VERBS:
        _arguments_of(name, verbs.add_parser(name, add_help=False, allow_abbrev=False))
    chosen = parser.parse_args(arguments)
    from lepton_server import verbs as verbs_module

    getattr(verbs_module, chosen.verb)(chosen)


def _arguments_of(name: str, verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--home")
    if name == "init":
        verb.add_argument("--host", action="append", required=True)
        verb.add_argument("--name", default="lepton federation")
        verb.add_argument("--port", type=int, default=9410)
        verb.add_argument("--enrolment-port", type=int, default=9411)
    elif name == "report":
        _report_arguments(verb)
    elif name == "feedback":
        verb.add_argument("action", choices=["open", "close", "list"])
        verb.add_argument("what", nargs="?")
    elif name == "log":
        verb.add_argument("action", choices=["export", "forget"])
        verb.add_argument("what")
    elif name == "verify":
        verb.add_argument("bundle", nargs="?")
    elif name == "release":
        verb.add_argument("run")
    elif name not in ("institutions", "status"):
        verb.add_argument("institution")
    for option in _OPTIONS.get(name, ()):
        verb.add_argument(option)
    for option in _REQUIRED.get(name, ()):
        verb.add_argument(option, required=True)
    for option in _FLAGS.get(name, ()):
        verb.add_argument(option, action="store_true")


_OPTIONS = {
    "verify": ("--ca", "--heads", "--model", "--report"),
    "feedback": ("--kind", "--about", "--by", "--resolution"),
}
_REQUIRED = {"release": ("--by", "--reason")}
_FLAGS = {"institutions": ("--json",), "status": ("--json", "--watch"), "feedback": ("--json",)}


def _report_arguments(verb: argparse.ArgumentParser) -> None:
    which, what = verb.add_mutually_exclusive_group(), verb.add_mutually_exclusive_group()
    which.add_argument("--run")
    which.add_argument("--folder")
    verb.add_argument("--edition", choices=("public", "consortium"), default="consortium")
    what.add_argument("--final", action="store_true")
    what.add_argument("--facts", action="store_true")


def _schema() -> type[ServerConfig]:
    from lepton_server.settings import ServerConfig

    return ServerConfig


def _run(config: ServerConfig) -> None:
    from lepton_server.run import run

    run(config)


def _register() -> None:
    from lepton_server.settings import register_schemas

    register_schemas()
