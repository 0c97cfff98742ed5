"""Every setting of `lepton-server run`, and those that two invocations of one run must share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from lepton_fl.errors import ConfigError
from lepton_fl.federation.contract import Purpose
from lepton_fl.federation.terms import RunConfig, register_run, to_json
from lepton_fl.plugins import admit_installed, named_in
from lepton_fl.prometheus import check_port
from lepton_server.runs import StoredRun


@dataclass
class ServerConfig(RunConfig):
    """Every setting of `lepton-server run`; `conf/server.yaml` holds the values."""

    home: str | None  # null: LEPTON_HOME, else ~/.lepton/server
    abandon: bool  # true: give up an unfinished run that was asked for with other settings
    quorum_s: float  # wait so long for the institutions
    round_s: float  # and so long for the answers of a round
    grace_s: float  # an institution that loses its connection may come back within this time
    metrics_port: int | None  # for Prometheus, on 127.0.0.1; null: none
    least_cohort: int | None  # no round asks fewer institutions; null: the threshold, or without masks 2, or 1
    purpose: Purpose  # stands in the contract

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_cohort is not None and self.least_cohort < 1:
            raise ConfigError(f"least_cohort must be at least 1, got {self.least_cohort}")
        for name in ("quorum_s", "round_s", "grace_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be a positive number of seconds, got {getattr(self, name)}")
        check_port(self.metrics_port)


def register_schemas() -> None:
    """Store every dataclass that a YAML of `lepton-server run` starts from, those of its plug-ins too."""
    admit_installed(named_in(sys.argv[1:]))
    register_run("server", ServerConfig)


def of_run(config: ServerConfig) -> str:
    """As JSON: the terms, who takes part, and where the results go."""
    shared = {
        "institutions": config.institutions,
        "cohort_size": config.cohort_size,
        "least_cohort": config.least_cohort,
        "purpose": asdict(config.purpose),
        "output": None if config.output is None else str(Path(config.output).absolute()),
    }
    return json.dumps({**json.loads(to_json(config)), **shared})


def refuse_other_settings(unfinished: StoredRun, settings: str, rounds: int) -> NoReturn:
    """Say which run is in the way, and what differs."""
    before, now = dict(_flat(json.loads(unfinished.asked.settings))), dict(_flat(json.loads(settings)))
    odd = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    differs = ", ".join(f"{key} {before.get(key)}, now {now.get(key)}" for key in odd[:3])
    raise ConfigError(
        f"the run of {unfinished.began_at:%Y-%m-%d %H:%M} UTC is unfinished (round {max(0, rounds - 1)} of "
        f"{unfinished.asked.planned}) and was asked for with other settings ({differs or 'in another order'}); nothing "
        "was started; give its settings to continue it, or abandon=true to give it up"
    )


def _flat(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, document
