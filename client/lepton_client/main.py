"""The command `lepton-client`. Its help needs no heavy library; everything else is imported on use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lepton_fl.config import App, run_app
from lepton_fl.errors import ConfigError, exit_on_error

if TYPE_CHECKING:
    from lepton_client.check import CheckConfig

HELP = """\
lepton-client: an institution's side of a federation.

usage: lepton-client VERB [SETTING=VALUE ...] [--config-dir DIR]

  lepton-client check task=heart
  lepton-client check --config-dir my task=mine data.path=my.csv
                            the data against the task, before anyone else is involved: rows that can be
                            used, cells missing per column, values clipped, unknown categories, balance of
                            the label in each sensitive group. Nothing leaves this machine.

task=      {task}

data.path=FILE      a CSV (also .csv.gz) or Parquet file
log=text|json       lines for people, or one JSON object

exit codes: 0 ready, 2 configuration, 4 data, 130 interrupted
"""


def main() -> None:
    """Run `lepton-client` with the arguments of this process."""
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb == "check":
        sys.argv = [f"{sys.argv[0]} check", *rest]
    elif verb not in ("--help", "-h"):
        with exit_on_error():
            raise ConfigError(f"there is no verb {verb[:40]!r}; nothing was done; lepton-client --help lists them")
    run_app(App("check", _schema, _run, _register, HELP), ("task",))


def _schema() -> type[CheckConfig]:
    from lepton_client.check import CheckConfig

    return CheckConfig


def _run(config: CheckConfig) -> None:
    from lepton_client.check import run

    run(config)


def _register() -> None:
    from lepton_client.check import register_schemas

    register_schemas()
