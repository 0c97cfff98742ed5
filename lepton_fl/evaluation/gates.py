"""Gates before release: limits that a run's figures must keep, the whole of each interval, or the model stays held.

A figure that is hidden or was not measured keeps no limit: what nobody can judge is not released by itself. Groups that
are too small to be in a gap are named beside it. A person can release a held model; who, when and why stays with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.evaluation.assess import Assessment
from lepton_fl.evaluation.figures import SHOWN, Figure, figure_as_json, figure_from_json, not_measured
from lepton_fl.files import replace_file

RELEASED, HELD, OVERRIDDEN = VERDICTS = ("released", "held", "overridden")
NAME, MODEL, HELD_MODEL = "gates.json", "model.safetensors", "held/model.safetensors"
_LONGEST = 2000  # characters of a reason

# A gate's name to the figure that it limits; of a floor, the interval must not reach below it.
_OVERALL = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "calibration_error": "calibration error",
}
_BETWEEN_GROUPS = {
    "worst_group_recall": "worst group recall",
    "worst_group_accuracy": "worst group accuracy",
    "recall_gap": "equal opportunity difference",
    "selection_gap": "demographic parity difference",
    "equalised_odds_gap": "equalised odds difference",
}
_FLOORS = ("accuracy", "balanced_accuracy", "auc", "worst_group_recall", "worst_group_accuracy")


class ModelHeld(LeptonError):
    """The run made a model that keeps not every limit; it lies in the folder and is not released."""

    exit_code = 13


@dataclass
class Gates:
    """`gates`: limits; null: none. Values in `conf/sim.yaml` and `conf/server.yaml`."""

    accuracy: float | None  # at least
    balanced_accuracy: float | None  # at least
    auc: float | None  # at least
    worst_group_recall: float | None  # at least, in every attribute
    worst_group_accuracy: float | None  # at least
    recall_gap: float | None  # at most, in every attribute
    selection_gap: float | None  # at most
    equalised_odds_gap: float | None  # at most
    calibration_error: float | None  # at most
    epsilon: float | None  # at most, of whoever was asked most often
    energy_kwh: float | None  # at most, of everybody

    def __post_init__(self) -> None:
        for field in fields(self):
            limit = getattr(self, field.name)
            highest = math.inf if field.name in ("epsilon", "energy_kwh") else 1.0
            if limit is not None and not 0 <= limit <= highest:
                raise ConfigError(
                    f"gates.{field.name} must be null or lie between 0 and {highest:g}, got {limit}; nothing was run"
                )

    @property
    def declared(self) -> dict[str, float]:
        """The gates that there are, by name."""
        return {name: float(limit) for name, limit in asdict(self).items() if limit is not None}


@dataclass(frozen=True)
class Gate:
    """One limit and the figure that was held against it."""

    gate: str
    limit: float
    figure: Figure
    holds: bool
    why: str  # which attribute, and why it does not hold


@dataclass(frozen=True)
class Override:
    """A person released a model that was held."""

    by: str
    reason: str
    at: str  # UTC


@dataclass(frozen=True)
class Verdict:
    """Every gate of a run, and what comes of them."""

    verdict: str  # of VERDICTS
    gates: tuple[Gate, ...]
    override: Override | None = None

    @property
    def failed(self) -> tuple[str, ...]:
        """The gates that do not hold, each once."""
        return tuple(dict.fromkeys(one.gate for one in self.gates if not one.holds))


@dataclass(frozen=True)
class Spent:
    """What a run cost, for the gates that ask."""

    epsilon: float | None  # None: no epsilon holds
    energy: Mapping[str, Any] | None  # as `energy.summary.as_json` has it; None: nobody metered


def judge(gates: Gates, assessment: Assessment | None, spent: Spent) -> Verdict:
    """Every declared gate held against its figure; held unless all of them hold.

    Args:
        assessment: of the last release; None: nothing was released.
    """
    judged = []
    for gate, limit in gates.declared.items():
        for where, figure in _figures(gate, assessment, spent):
            holds, why = _holds(gate, limit, figure)
            judged.append(Gate(gate, limit, figure, holds, "; ".join(filter(None, (where, why, figure.why)))))
    return Verdict(RELEASED if all(one.holds for one in judged) else HELD, tuple(judged))


def _figures(gate: str, assessment: Assessment | None, spent: Spent) -> Iterator[tuple[str, Figure]]:
    """What a gate is about: one figure, or one of each sensitive attribute, named."""
    if gate == "epsilon":
        yield "", _number(gate, spent.epsilon, "no epsilon holds for this run")
    elif gate == "energy_kwh":
        yield "", _energy(spent.energy)
    elif assessment is None:
        yield "", not_measured({**_OVERALL, **_BETWEEN_GROUPS}[gate], "no evaluation was released")
    elif gate in _OVERALL:
        found = [one for one in assessment.overall if one.metric == _OVERALL[gate]]
        yield "", found[0] if found else not_measured(_OVERALL[gate], "the evaluation has none")
    else:
        gaps = [one for one in assessment.gaps if one.figure.metric == _BETWEEN_GROUPS[gate]]
        for one in gaps:
            yield f"of {one.attribute}", one.figure
        if not gaps:
            yield "", not_measured(_BETWEEN_GROUPS[gate], "the task declares no sensitive attribute")


def _number(metric: str, value: float | None, why: str) -> Figure:
    return not_measured(metric, why) if value is None else Figure(metric, value, value, value, SHOWN)


def _energy(energy: Mapping[str, Any] | None) -> Figure:
    """A sum in which an institution is missing is no sum."""
    if energy is None:
        return not_measured("energy", "nobody metered")
    if energy["not_told"]:
        return not_measured("energy", f"nothing was told by {', '.join(energy['not_told'])}")
    return _number("energy", float(energy["kwh"]), "")


def _holds(gate: str, limit: float, figure: Figure) -> tuple[bool, str]:
    if figure.low is None or figure.high is None:
        return False, f"it is {figure.status}, which no limit lets pass"
    if not (math.isfinite(figure.low) and math.isfinite(figure.high)):
        return False, "its interval has no end"
    if gate in _FLOORS:
        return figure.low >= limit, "" if figure.low >= limit else f"its interval reaches down to {figure.low:.3g}"
    largest = max(abs(figure.low), abs(figure.high))
    return largest <= limit, "" if largest <= limit else f"its interval reaches up to {largest:.3g}"


def release(folder: Path, verdict: Verdict) -> None:
    """The folder holds the verdict; and the model, where everybody looks for it, only if it is not held.

    Without a gate nothing is written: there was nothing to judge.
    """
    if not verdict.gates:
        return
    if verdict.verdict == HELD and (folder / MODEL).exists():
        # First the model: whatever happens in between, it is not where a released one is.
        (folder / HELD_MODEL).parent.mkdir(exist_ok=True)
        (folder / MODEL).replace(folder / HELD_MODEL)
    replace_file(folder / NAME, _document(verdict))
    if verdict.verdict == RELEASED:
        _move_out(folder)


def refuse_held(folder: Path, verdict: Verdict) -> None:
    """Return if the model was released; raises `ModelHeld`, naming the first gate that does not hold."""
    if verdict.verdict != HELD:
        return
    first = next(one for one in verdict.gates if not one.holds)
    raise ModelHeld(
        f"the model is held: gates.{first.gate} {first.limit:g} does not hold ({first.why or first.figure.status}); it "
        f"is kept in {folder / HELD_MODEL} and was not released; {NAME} has every gate; train another one, or let a "
        "person release it: lepton-server release RUN --by NAME --reason TEXT"
    )


def read(folder: Path) -> Verdict | None:
    """The verdict in this folder; None where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        gates = tuple(Gate(**{**one, "figure": figure_from_json(one["figure"])}) for one in document["gates"])
        override = document["override"]
        verdict = str(document["verdict"])
        if verdict not in VERDICTS:
            raise ValueError("no verdict")
        return Verdict(verdict, gates, None if override is None else Override(**override))
    except (OSError, ValueError, KeyError, TypeError, LeptonError) as error:
        raise ConfigError(f"cannot read {path}; nothing was released; restore it from a backup") from error


def overridden(verdict: Verdict, by: str, reason: str, now: datetime) -> Verdict:
    """The verdict once a person released the model.

    Raises:
        ConfigError: it is not held, or the name or the reason says nothing.
    """
    if verdict.verdict != HELD:
        raise ConfigError(f"the model of this run is {verdict.verdict}, not held; nothing was changed")
    said = {"--by": _plain(by), "--reason": _plain(reason)}
    for option, text in said.items():
        if not 0 < len(text) <= _LONGEST:
            raise ConfigError(f"{option} must be 1 to {_LONGEST} characters of text; nothing was released")
    at = now.astimezone(UTC).isoformat(timespec="seconds")
    return replace(verdict, verdict=OVERRIDDEN, override=Override(said["--by"], said["--reason"], at))


def put_out(folder: Path, verdict: Verdict) -> None:
    """The folder holds an overridden verdict, and its model where everybody looks for it; a second time finishes it."""
    if verdict.verdict != OVERRIDDEN:
        raise ValueError("only a person's word puts a held model out")
    replace_file(folder / NAME, _document(verdict))
    _move_out(folder)


def _move_out(folder: Path) -> None:
    held = folder / HELD_MODEL
    if held.exists():
        held.replace(folder / MODEL)
        held.parent.rmdir()


def _document(verdict: Verdict) -> bytes:
    document = {
        "schema": "lepton-fl/gates/1",
        "verdict": verdict.verdict,
        "gates": [{**asdict(one), "figure": figure_as_json(one.figure)} for one in verdict.gates],
        "override": None if verdict.override is None else asdict(verdict.override),
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _plain(text: str) -> str:
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())
