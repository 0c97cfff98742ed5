"""The learning curve as a picture: how good the model is, and what that has cost, round by round."""

from __future__ import annotations

import io
from typing import Any

from lepton_fl.results.outcome import Outcome

_BLUE, _ORANGE, _GREY, _INK = "#2b6cb0", "#c05621", "#a0aec0", "#2d3748"


def draw(outcome: Outcome) -> bytes:
    """A PNG of 1200 x 480 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    quality, cost = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_quality(quality, outcome)
    _draw_cost(cost, outcome)
    claim = outcome.facts.claim
    promise = f"NOT PRIVATE ({claim.why_not})" if claim.why_not else f"private per {claim.unit}"
    figure.suptitle(
        f"{outcome.facts.title}: {outcome.facts.model}, {outcome.facts.strategy}, {promise}",
        fontsize=11, color=_INK, x=0.01, ha="left",
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_quality(axes: Any, outcome: Outcome) -> None:
    """AUC and accuracy of the pooled hold-out, each curve named at its end."""
    measured = [report for report in outcome.reports if report.metrics is not None]
    rounds = [report.round for report in measured]
    ends = []
    for name, colour in (("auc", _BLUE), ("accuracy", _ORANGE)):
        values = [getattr(report.metrics, name) for report in measured]
        if values and values[-1] is not None:
            axes.plot(rounds, values, color=colour, linewidth=2, marker="o", markersize=3 if len(rounds) > 1 else 6)
            ends.append((values[-1], name, colour))
    _label_ends(axes, rounds[-1] if rounds else 0, sorted(ends))
    axes.set_xlabel("round")
    axes.set_title("pooled hold-out", fontsize=10, color=_INK, loc="left")
    _tidy(axes, outcome)


def _label_ends(axes: Any, last: int, ends: list[tuple[float, str, str]]) -> None:
    low, high = axes.get_ylim()
    gap = (high - low) * 0.06
    floor = float("-inf")
    for value, name, colour in ends:
        place = max(value, floor + gap)
        floor = place
        shown = "AUC" if name == "auc" else name
        axes.annotate(
            f" {shown} {value:.3f}",
            (last, place),
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def _draw_cost(axes: Any, outcome: Outcome) -> None:
    """Epsilon spent against the budget, or loss where there is no budget."""
    rounds = [report.round for report in outcome.reports]
    budget = outcome.facts.claim.epsilon_budget
    if budget is not None:
        axes.plot(rounds, [report.epsilon for report in outcome.reports], color=_BLUE, linewidth=2)
        axes.axhline(budget, color=_ORANGE, linewidth=1, linestyle="--")
        axes.annotate(f"budget {budget:g}", (rounds[0], budget), color=_ORANGE, fontsize=9, va="bottom", ha="left")
        axes.set_ylim(0, budget * 1.12)
        suffix = "" if outcome.facts.claim.is_private else ", void: not private"
        title = f"epsilon spent (delta {outcome.facts.claim.delta:g}){suffix}"
    else:
        axes.plot(rounds, [r.metrics.loss if r.metrics else None for r in outcome.reports], color=_BLUE, linewidth=2)
        title = "loss of the pooled hold-out"
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    axes.set_xlabel("round")
    _tidy(axes, outcome)


def _tidy(axes: Any, outcome: Outcome) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(min(1, outcome.reports[0].round) - 0.2, outcome.reports[-1].round + 0.2)
    axes.grid(axis="y", color=_GREY, alpha=0.3, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)
    axes.tick_params(colors=_INK, labelsize=9)
