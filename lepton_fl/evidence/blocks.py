"""What a report is made of: sections of facts, tables and prose; a chart is a way to look at a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lepton_fl.evidence.shown import Plain, Shown


@dataclass(frozen=True)
class Fact:
    """A named statement; other documents refer to it by its id."""

    id: str
    name: str
    shown: Shown


@dataclass(frozen=True)
class Facts:
    """Statements below one another."""

    title: str
    facts: tuple[Fact, ...]

    def plain(self) -> Plain:
        """As it is written to `report.json`."""
        lines = [{"id": fact.id, "name": fact.name, **fact.shown.plain()} for fact in self.facts]
        return {"kind": "facts", "title": self.title, "facts": lines}


@dataclass(frozen=True)
class Row:
    """What a line is about, and its figures."""

    labels: tuple[str, ...]
    figures: tuple[Shown, ...]


@dataclass(frozen=True)
class Chart:
    """How a table is drawn."""

    form: str  # curve, forest, gaps or stack
    columns: tuple[str, ...]  # figures that are drawn


@dataclass(frozen=True)
class Table:
    """Rows of figures under common heads."""

    id: str
    title: str
    heads: tuple[str, ...]  # of the labels
    columns: tuple[str, ...]  # of the figures
    rows: tuple[Row, ...]
    note: str = ""
    chart: Chart | None = None

    def plain(self) -> Plain:
        """As it is written to `report.json`."""
        return {
            "kind": "table",
            "id": self.id,
            "title": self.title,
            "heads": [*self.heads],
            "columns": [*self.columns],
            "rows": [{"labels": [*row.labels], "figures": [one.plain() for one in row.figures]} for row in self.rows],
            "note": self.note,
            "chart": None if self.chart is None else {"form": self.chart.form, "columns": [*self.chart.columns]},
        }


@dataclass(frozen=True)
class Prose:
    """Sentences, each by itself."""

    title: str
    items: tuple[str, ...]

    def plain(self) -> Plain:
        """As it is written to `report.json`."""
        return {"kind": "prose", "title": self.title, "items": [*self.items]}


Block = Facts | Table | Prose


@dataclass(frozen=True)
class Section:
    """A chapter, and the question that it answers."""

    id: str
    title: str
    question: str
    blocks: tuple[Block, ...]

    def plain(self) -> Plain:
        """As it is written to `report.json`."""
        blocks = [block.plain() for block in self.blocks]
        return {"id": self.id, "title": self.title, "question": self.question, "blocks": blocks}


def statements(sections: tuple[Section, ...]) -> Iterator[tuple[str, bool]]:
    """Every id that can be referred to, and whether something stands there."""
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Facts):
                yield from ((fact.id, fact.shown.value is not None) for fact in block.facts)
            elif isinstance(block, Table):
                yield block.id, any(figure.value is not None for row in block.rows for figure in row.figures)
