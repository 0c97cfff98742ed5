"""Gates: the whole interval must keep a limit, what cannot be judged does not pass, and a person's word is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.assess import Assessment
from lepton_fl.evaluation.figures import NOT_RESOLVED, SHOWN, Figure, not_measured, suppressed
from lepton_fl.evaluation.gaps import Gap
from lepton_fl.evaluation.gates import (
    HELD,
    HELD_MODEL,
    MODEL,
    NAME,
    OVERRIDDEN,
    RELEASED,
    Gates,
    ModelHeld,
    Spent,
    judge,
    overridden,
    put_out,
    read,
    refuse_held,
    release,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOTHING = Spent(None, None)
ALL = [*Gates.__dataclass_fields__]


def gates(**limits: float | None) -> Gates:
    return Gates(**{**dict.fromkeys(ALL, None), **limits})


def figure(metric: str, low: float, value: float, high: float, status: str = SHOWN) -> Figure:
    return Figure(metric, value, low, high, status)


def assessed(*overall: Figure, **gaps: Figure) -> Assessment:
    """An assessment with these overall figures, and a gap for each of these attributes."""
    return Assessment(overall, (), tuple(Gap(name, gap, None) for name, gap in gaps.items()))


def kwh(value: float, *not_told: str) -> Spent:
    return Spent(None, {"kwh": value, "not_told": [*not_told]})


CALIBRATION = figure("calibration error", 0.01, 0.03, 0.05)
RECALL = figure("worst group recall", 0.55, 0.62, 0.7)
GAP = figure("equal opportunity difference", -0.02, 0.04, 0.10, NOT_RESOLVED)


@pytest.mark.parametrize(
    ("declared", "assessment", "spent", "holds"),
    [
        (gates(calibration_error=0.05), assessed(CALIBRATION), NOTHING, True),
        (gates(calibration_error=0.04), assessed(CALIBRATION), NOTHING, False),  # the value alone would pass
        (gates(worst_group_recall=0.55), assessed(sex=RECALL), NOTHING, True),
        (gates(worst_group_recall=0.6), assessed(sex=RECALL), NOTHING, False),
        (gates(recall_gap=0.1), assessed(sex=GAP), NOTHING, True),  # not resolved, and surely small enough
        (gates(recall_gap=0.09), assessed(sex=GAP), NOTHING, False),
        (gates(recall_gap=1.0), assessed(sex=suppressed("equal opportunity difference", "too few")), NOTHING, False),
        (gates(recall_gap=1.0), assessed(), NOTHING, False),  # no sensitive attribute
        (gates(auc=0.0), assessed(not_measured("AUC", "no scores")), NOTHING, False),
        (gates(accuracy=0.0), None, NOTHING, False),
        (gates(calibration_error=1.0), assessed(figure("calibration error", 0, 0.1, float("inf"))), NOTHING, False),
        (gates(epsilon=1.0), None, Spent(1.0, None), True),
        (gates(epsilon=1.0), None, Spent(1.01, None), False),
        (gates(epsilon=1.0), None, NOTHING, False),
        (gates(energy_kwh=2.0), None, kwh(2.0), True),
        (gates(energy_kwh=2.0), None, kwh(2.1), False),
        (gates(energy_kwh=2.0), None, kwh(0.1, "south"), False),
        (gates(energy_kwh=2.0), None, NOTHING, False),
    ],
)
def test_a_gate_holds_only_if_the_whole_interval_keeps_the_limit(
    declared: Gates, assessment: Assessment | None, spent: Spent, holds: bool
) -> None:
    verdict = judge(declared, assessment, spent)
    assert [one.holds for one in verdict.gates] == [holds]
    assert verdict.verdict == (RELEASED if holds else HELD)
    assert holds or verdict.gates[0].why


def test_every_attribute_must_keep_the_limit() -> None:
    wide = figure("equal opportunity difference", 0.1, 0.2, 0.3)
    verdict = judge(gates(recall_gap=0.15), assessed(sex=GAP, age=wide), NOTHING)
    assert [(one.holds, one.why.split(";")[0]) for one in verdict.gates] == [(True, "of sex"), (False, "of age")]
    assert verdict.failed == ("recall_gap",)


def test_without_gates_everything_is_released_and_nothing_is_written(tmp_path: Path) -> None:
    verdict = judge(gates(), None, NOTHING)
    release(tmp_path, verdict)
    assert verdict.verdict == RELEASED
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan")])
def test_a_limit_that_no_figure_can_keep_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match=r"gates\.recall_gap"):
        gates(recall_gap=limit)


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A folder whose model failed a gate."""
    (tmp_path / MODEL).write_bytes(b"a model")
    release(tmp_path, judge(gates(epsilon=0.5), None, Spent(1.0, None)))
    return tmp_path


def known(folder: Path) -> Any:
    verdict = read(folder)
    assert verdict is not None
    return verdict


def test_a_model_that_fails_is_kept_and_not_released(held: Path) -> None:
    assert not (held / MODEL).exists()
    assert (held / HELD_MODEL).read_bytes() == b"a model"
    assert (known(held).verdict, known(held).failed) == (HELD, ("epsilon",))
    with pytest.raises(ModelHeld, match="does not hold") as refused:
        refuse_held(held, known(held))
    assert refused.value.exit_code == 13
    assert "\n" not in str(refused.value)


def test_a_model_that_passes_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes(b"a model")
    verdict = judge(gates(epsilon=1.0), None, Spent(1.0, None))
    release(tmp_path, verdict)
    refuse_held(tmp_path, verdict)
    assert (tmp_path / MODEL).exists()
    assert read(tmp_path) == verdict


def test_a_persons_word_releases_it_and_stays_with_it(held: Path) -> None:
    put_out(held, overridden(known(held), "M. Officer", "needed\nfor the trial", NOW))
    assert (held / MODEL).read_bytes() == b"a model"
    assert not (held / HELD_MODEL).exists()
    verdict = known(held)
    assert verdict.verdict == OVERRIDDEN
    assert (verdict.override.by, verdict.override.reason) == ("M. Officer", "needed for the trial")
    assert verdict.override.at == "2026-03-01T12:00:00+00:00"
    with pytest.raises(ConfigError, match="overridden, not held"):
        overridden(verdict, "M. Officer", "again", NOW)


@pytest.mark.parametrize(("by", "reason"), [("", "why"), ("M. Officer", " \n")])
def test_nobody_and_no_reason_release_nothing(held: Path, by: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="nothing was released"):
        overridden(known(held), by, reason, NOW)


def test_a_verdict_that_cannot_be_read_releases_nothing(held: Path) -> None:
    (held / NAME).write_text('{"verdict": "fine"}')
    with pytest.raises(ConfigError, match="nothing was released"):
        read(held)
