"""The command `lepton-client`. Its help needs no heavy library; everything else is imported on use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lepton_fl.command import Parser, help_of, home_as_setting
from lepton_fl.config import App, choices, run_app
from lepton_fl.errors import ConfigError, exit_on_error
from lepton_fl.garbage import collect_seldom

if TYPE_CHECKING:
    from lepton_client.check import CheckConfig
    from lepton_client.run import AgentConfig
    from lepton_client.supernode_site import SuperNodeConfig

HELP = """\
lepton-client: an institution's side of a federation.

usage: lepton-client VERB ...

  lepton-client enroll INVITATION [--home DIR]
                            join a federation: makes a key here, gets a certificate for it
  lepton-client policy init [--data-set NAME --unit record --epsilon 3 --delta 1e-5 --task heart] [--home DIR]
                            write the institution's policy, without which nothing runs: asks what is not given (also
                            --accept by-hand|by-policy, --public-data yes|no, --least-cohort 5); never replaces one
  lepton-client policy show [--json] [--home DIR]
                            the policy in sentences
  lepton-client policy explain RUN [--device cpu] [--json] [--home DIR]
                            clause by clause why a proposed run is accepted or refused (7), and its price; RUN: its
                            number, the first digits of its contract's SHA-256, or a file
                            (--file FILE with each: a policy that is not HOME/policy.yaml)
  lepton-client policy hash MODULE
                            the SHA-256 of an installed plug-in's files, for policy.plugins
  lepton-client review [RUN [--accept | --refuse REASON]] [--json] [--device cpu] [--home DIR]
                            the contracts put before this institution; RUN: one in full, with its price, and a
                            person's decision where the policy says by-hand; --refuse also stops a run that goes on
  lepton-client run data.path=FILE [--home DIR]
                            connect, answer each run's contract by the policy, and train, until stopped; after a
                            crash or a stop the same command goes on where it was
  lepton-client supernode --home DIR [runtime=127.0.0.1:PORT] [data.path=FILE] [institution=NAME]
                            answer what Flower's SuperNode on this machine brings, by the same policy and ledger, with
                            installed code alone; the SuperNode is started with --isolation process (docs/flower.md)
  lepton-client check task=heart data.path=FILE [--config-dir DIR] [--home DIR]
                            at any time, the data against the task: rows that can be used, cells missing per column,
                            values clipped, unknown categories, balance of the label per sensitive group; then
                            certificate, server and clock, what would leave in a run under the policy, the GPU seen,
                            room on the disk. Nothing of the data leaves this machine.
  lepton-client status [--json] [--watch] [--home DIR]
                            connected or not, the run, epsilon spent of its budget; --watch: until Ctrl-C
  lepton-client ledger [--json] [--ledger DIR] [--home DIR]
                            epsilon spent on each data set, over all runs and operators, and by which
  lepton-client ledger --left [--run RUN] [--day YYYY-MM-DD] [--csv|--json] [--ledger DIR] [--home DIR]
                            every message that left: when, for which run and round, what, bytes, digest, why it might
  lepton-client ledger verify [--ledger DIR] [--home DIR]
                            whether every entry is as it was written; names the first that is not
  lepton-client verify FILE [--model FILE] [--report FILE] [--heads FILE] [--ca FILE] [--home DIR]
                            whether an operator's log is what was signed and seen here; names the first bad entry;
                            --model: and whether this file is the model that one of its runs ended with;
                            --report: and whether report.json, and the page, card and model beside it, are as signed
  lepton-client verify --report REPORT --key HEX
                            the same of a report alone, whose key was told in another way
  lepton-client report REPORT [--data FILE | --own FILE] [--into DIR] [--home DIR]
                            the consortium's report.json, the model beside it, with this institution's exact numbers:
                            stays here, is signed here; else into HOME/reports/RUN
  lepton-client ledger accept --reason TEXT [--forget-spending] [--ledger DIR] [--home DIR]
                            after damage: keep the damaged files aside and go on from what can be read; if anything
                            was lost, every cap is taken as spent, or with --forget-spending it is not counted
  lepton-client explain RECORD --model FILE --run RUN [--json] [--home DIR]
                            why a model says what it says of one record: how far each column moved its score. RECORD:
                            a JSON object of columns, or --row N --data FILE, a row of a table (the header is row 1).
                            RUN: as with policy explain; or --task NAME --architecture NAME, as installed here.
                            Nothing leaves this machine, and nothing of the record is written down.

task=      {task}

--home DIR          the institution's folder; else LEPTON_HOME, else ~/.lepton/client
data.path=FILE      a CSV (also .csv.gz) or Parquet file
policy=FILE         the institution's policy, if it is not HOME/policy.yaml (check and run)
ledger=DIR          its ledger, if it is not HOME/ledger; one for all federations that use the same records (run;
                    --ledger DIR with the other verbs)
device=cpu|cuda|cuda:N|auto
                    where to compute; auto: the first GPU, else the CPU (check and run)
log=text|json       lines for people, or one JSON object a line
metrics_port=N      figures for Prometheus on http://127.0.0.1:N/metrics (run)

exit codes: 0 done, 2 configuration (also: no policy), 3 privacy (budget, ledger, self-test), 4 data, 5 model,
7 certificate, or refused by the policy, the contract or the server, 8 invitation or enrolment, 9 disk or home in use,
12 a log that is not what was signed or seen, 130 interrupted
"""


def main() -> None:
    """Run `lepton-client` with the arguments of this process."""
    collect_seldom()
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in ("--help", "-h"):
        sys.stdout.write(HELP.format(task=" ".join(choices("task", rest))))
        return
    if {"--help", "-h"} & {*rest} and verb not in ("check", "run", "supernode"):
        sys.stdout.write(help_of(HELP, f"lepton-client {verb}").format(task=" ".join(choices("task", rest))))
        return
    plain = {
        "enroll": _enroll,
        "status": _status,
        "ledger": _ledger,
        "policy": _policy,
        "review": _review,
        "verify": _verify,
        "explain": _explain,
        "report": _report,
    }
    with exit_on_error():
        if verb in plain:
            plain[verb](rest)
            return
        if verb not in ("check", "run", "supernode"):
            raise ConfigError(f"there is no verb {verb[:40]!r}; nothing was done; lepton-client --help lists them")
        sys.argv = [f"{sys.argv[0]} {verb}", *home_as_setting(rest)]
    if verb == "check":
        run_app(App("check", _check_schema, _check, _check_register, HELP), ("task",))
    elif verb == "supernode":
        run_app(App("supernode", _node_schema, _node, _node_register, HELP), ("task",))
    else:
        run_app(App("client", _agent_schema, _agent, _agent_register, HELP), ("task",))


def _enroll(arguments: list[str]) -> None:
    parser = Parser(prog="lepton-client", add_help=False, allow_abbrev=False)
    parser.add_argument("invitation")
    parser.add_argument("--home")
    chosen = parser.parse_args(arguments)

    from datetime import UTC, datetime

    from lepton_client.enrolment import enroll
    from lepton_client.home import find
    from lepton_fl.link.invitation import from_text

    now = datetime.now(UTC)
    home = enroll(from_text(chosen.invitation, now), find(chosen.home), now)
    sys.stderr.write(f"enrolled as {home.institution}; the key in {home.path} never left this machine\n")


def _status(arguments: list[str]) -> None:
    parser = Parser(prog="lepton-client", add_help=False, allow_abbrev=False)
    parser.add_argument("--home")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--watch", action="store_true")
    chosen = parser.parse_args(arguments)

    from lepton_client.home import find, open_home
    from lepton_client.status import lines, look
    from lepton_fl.show import Look, show

    home = open_home(find(chosen.home))
    show(Look(lambda now: look(home, now), lines), chosen.json, chosen.watch)


def _ledger(arguments: list[str]) -> None:
    from lepton_client.ledger_command import main as ledger

    ledger(arguments)


def _policy(arguments: list[str]) -> None:
    from lepton_client.policy_command import policy

    policy(arguments)


def _review(arguments: list[str]) -> None:
    from lepton_client.review import review

    review(arguments)


def _verify(arguments: list[str]) -> None:
    parser = Parser(prog="lepton-client", add_help=False, allow_abbrev=False)
    parser.add_argument("bundle", nargs="?")
    for option in ("--home", "--ca", "--heads", "--model", "--report", "--key"):
        parser.add_argument(option)
    chosen = parser.parse_args(arguments)

    from pathlib import Path

    from lepton_client.home import find
    from lepton_fl.evidence.checking import HEADS, Asked, checked, read_bundle, read_ca, report_alone

    if chosen.bundle is None:
        if not (chosen.report and chosen.key):
            raise ConfigError("without a log, --report and --key are needed; nothing was checked")
        sys.stdout.write("\n".join(report_alone(Path(chosen.report), chosen.key)) + "\n")
        return
    home = find(chosen.home)
    asked = Asked(
        read_ca(Path(chosen.ca) if chosen.ca else home / "ca.pem"),
        Path(chosen.heads) if chosen.heads else home / HEADS,
        Path(chosen.model) if chosen.model else None,
        Path(chosen.report) if chosen.report else None,
    )
    sys.stdout.write("\n".join(checked(read_bundle(Path(chosen.bundle)), asked)) + "\n")


def _explain(arguments: list[str]) -> None:
    from lepton_client.reasons import main as explain

    explain(arguments)


def _report(arguments: list[str]) -> None:
    parser = Parser(prog="lepton-client", add_help=False, allow_abbrev=False)
    parser.add_argument("report")
    for option in ("--home", "--data", "--own", "--into"):
        parser.add_argument(option)
    chosen = parser.parse_args(arguments)

    from pathlib import Path

    from lepton_client.site_report import Asked, make

    into = Path(chosen.into) if chosen.into else None
    own = Path(chosen.own) if chosen.own else None
    make(Asked(Path(chosen.report), chosen.data, own, chosen.home, into))


def _check_schema() -> type[CheckConfig]:
    from lepton_client.check import CheckConfig

    return CheckConfig


def _check(config: CheckConfig) -> None:
    from lepton_client.check import run

    run(config)


def _check_register() -> None:
    from lepton_client.check import register_schemas

    register_schemas()


def _agent_schema() -> type[AgentConfig]:
    from lepton_client.run import AgentConfig

    return AgentConfig


def _agent(config: AgentConfig) -> None:
    from lepton_client.run import run

    run(config)


def _agent_register() -> None:
    from lepton_client.run import register_schemas

    register_schemas()


def _node_schema() -> type[SuperNodeConfig]:
    from lepton_client.supernode_site import SuperNodeConfig

    return SuperNodeConfig


def _node(config: SuperNodeConfig) -> None:
    from lepton_client.supernode_run import run

    run(config)


def _node_register() -> None:
    from lepton_client.supernode_site import register_schemas

    register_schemas()
