"""The settings that two invocations of one run must share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from lepton_fl.errors import ConfigError
from lepton_fl.federation.terms import RunConfig, to_json
from lepton_server.runs import StoredRun


def of_run(config: RunConfig) -> str:
    """As JSON: the terms, who takes part, and where the results go."""
    shared = {
        "institutions": config.institutions,
        "cohort_size": config.cohort_size,
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
