"""`policy.yaml` as it is first written: the shipped text with an institution's answers in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from string import Template

from lepton_client.policy import MAY_LEAVE, approved_tasks, from_fields
from lepton_fl.config import config_dir
from lepton_fl.errors import ConfigError
from lepton_fl.federation.contract import NOISED_COUNTS, NOISED_UPDATE
from lepton_fl.files import SECRET, sync_folder
from lepton_fl.plain_yaml import parse_yaml

QUESTIONS = {
    "data_set": "a name for the records (their budget is kept under it)",
    "unit": "whose presence is hidden, record or patient",
    "epsilon": "epsilon over all runs, at most (1 is careful)",
    "delta": "delta, at most (well below 1 / records, say 1e-5)",
    "task": "the task that may be trained, say heart, or any",
    "accept": "accept a run by-hand or by-policy [by-hand]",
    "public_data": "is the data public, yes or no [no]",
    "least_cohort": "institutions in a round, at least [5]",
}
SAFE = {"accept": "by-hand", "public_data": "no", "least_cohort": "5"}  # where nothing was answered


@dataclass(frozen=True)
class Answers:
    """What only the institution can decide; all of it as it was typed."""

    data_set: str
    unit: str
    epsilon: str
    delta: str
    task: str
    accept: str
    public_data: str  # yes or no
    least_cohort: str


def ask(given: dict[str, str | None], question: Callable[[str], str] | None) -> Answers:
    """The answers: what was given, and for the rest what a person types.

    Args:
        given: by the name of the field; None: not given.
        question: shows a question and returns the line typed; None: there is nobody to ask.

    Raises:
        ConfigError: something has no answer, naming the options.
    """
    said: dict[str, str] = {}
    for field in fields(Answers):
        value = given.get(field.name)
        if value is None and question is not None:
            value = question(f"{QUESTIONS[field.name]}: ").strip()
        said[field.name] = value or SAFE.get(field.name, "")
    missing = [f"--{name.replace('_', '-')}" for name, value in said.items() if not value]
    if missing:
        raise ConfigError(f"the policy needs {', '.join(missing)}; nothing was written; give an answer to each")
    return Answers(**said)


def text(answers: Answers) -> str:
    """The commented file with these answers."""
    if answers.public_data not in ("yes", "no"):
        raise ConfigError(f"--public-data must be yes or no, got {answers.public_data[:40]}; nothing was written")
    is_public = answers.public_data == "yes"
    template = Template((config_dir() / "policy.yaml").read_text(encoding="utf-8"))
    return template.substitute(
        data_set=json.dumps(answers.data_set, ensure_ascii=False),
        unit=json.dumps(answers.unit),
        epsilon=_number("epsilon", answers.epsilon),
        delta=_number("delta", answers.delta),
        public_data="true" if is_public else "false",
        accept=json.dumps(answers.accept),
        may_leave=f"[{', '.join(MAY_LEAVE if is_public else (NOISED_UPDATE, NOISED_COUNTS))}]",
        tasks=json.dumps([answers.task]),
        least_cohort=_whole("least-cohort", answers.least_cohort),
    )


def write(path: Path, content: str) -> None:
    """A new policy, readable by its owner alone, once it is known to be one.

    Raises:
        ConfigError: there is a file already, or this content is no policy; nothing was written.
    """
    if path.exists():
        raise ConfigError(
            f"{path} is there already; it was not changed; edit it, or move it away and run policy init again"
        )
    approved_tasks(from_fields(parse_yaml(content.encode(), str(path))), path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Two who write at once: the second one fails, and nobody's policy is replaced.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET), "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _whole(name: str, typed: str) -> str:
    if not typed.isascii() or not typed.isdigit():
        raise ConfigError(f"--{name} must be a whole number, got {typed[:40]}; nothing was written; correct it")
    return str(int(typed))


def _number(name: str, typed: str) -> str:
    """A number with a point, since YAML reads 1e-5 without one as a text."""
    try:
        shown = repr(float(typed))
    except ValueError as error:
        raise ConfigError(f"--{name} must be a number, got {typed[:40]}; nothing was written; correct it") from error
    mantissa, sign, power = shown.partition("e")
    return shown if "." in mantissa or not sign else f"{mantissa}.0e{power}"
