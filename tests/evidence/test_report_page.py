"""The page is made of the report alone, shows all of it, and whatever a name smuggles in can do nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import report_folder
from report_folder import HOSTILE, Made, figures

from lepton_fl.evidence.report_card import card
from lepton_fl.evidence.report_page import LARGEST, page
from lepton_fl.evidence.sources import CannotReport
from lepton_fl.evidence.words import visible


class Reader(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "circle", "polygon", "polyline", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def read(content: bytes) -> Reader:
    reader = Reader()
    reader.feed(content.decode())
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return report_folder.make(report_folder.write(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return report_folder.make(report_folder.write(tmp_path_factory.mktemp("run"), HOSTILE))


def test_every_figure_of_the_report_is_on_the_page_with_its_interval_and_its_source(made: Made) -> None:
    shown = " ".join(" ".join(read(made.page).text).split())
    for one in figures(json.loads(made.report)):
        if one["value"] is not None:
            # Pointers are links of their own.
            for part in one["value"].split(", ") if one["source"] == "this report" else [one["value"]]:
                assert " ".join(part.split()) in shown
            assert one["source"] in shown or one["source"] == "this report"
        if one["ci"] is not None:
            assert " – ".join(one["ci"]) in shown
        if one["why"] and one["source"] != "":
            assert one["why"] in shown


def test_the_same_report_makes_the_same_page(made: Made) -> None:
    assert page(made.report) == made.page


@pytest.mark.parametrize("which", ["made", "hostile"])
def test_nothing_on_the_page_can_run_or_load(which: str, request: pytest.FixtureRequest) -> None:
    content = request.getfixturevalue(which).page
    reader = read(content)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "form", "base", "audio", "video", "b"}
    for tag, attributes in reader.elements:
        assert not {name for name in attributes if name.startswith("on")} | ({"src", "style", "xmlns"} & {*attributes})
        if "href" in attributes:
            assert tag == "a"
            assert str(attributes["href"]).startswith("#")
    assert not re.search(rb"https?://|//[a-z]|url\(|@import|javascript:(?!alert\(1\)\))", content)
    assert b"<script" not in content.lower()


def test_the_one_style_block_is_allowed_by_its_hash_and_nothing_else_is(made: Made) -> None:
    style = made.page.split(b"<style>")[1].split(b"</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    policies = [a["content"] for _, a in read(made.page).elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]  # fmt: skip
    assert made.page.index(b"Content-Security-Policy") < made.page.index(b"<style>")


def test_hostile_names_are_shown_as_the_text_they_are(hostile: Made) -> None:
    shown = "".join(read(hostile.page).text)
    assert "<script>alert(1)</script>" in shown
    assert '"><img src=x onerror=alert(1)>' in shown
    assert "{{ 7*7 }}" in shown
    assert "مستشفى الشفاء" in shown
    assert not {"\u202e", "\u202c", "\x00", "\x1b"} & {*shown}
    assert "x" * 401 not in shown


def test_the_page_stays_small_even_with_hostile_names(made: Made, hostile: Made) -> None:
    assert max(len(made.page), len(hostile.page)) < LARGEST == 300_000


def test_every_link_on_the_page_leads_somewhere(made: Made) -> None:
    elements = read(made.page).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len({*ids})
    targets = {str(attributes["href"])[1:] for _, attributes in elements if "href" in attributes}
    assert targets <= {*ids}


def test_headings_descend_and_tables_have_captions_and_headed_columns(made: Made) -> None:
    levels = [int(tag[1]) for tag, _ in read(made.page).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert made.page.count(b"<caption") == made.page.count(b"<table")
    assert all("scope" in attributes for tag, attributes in read(made.page).elements if tag == "th")
    assert all(attributes.get("aria-label") for tag, attributes in read(made.page).elements if tag == "svg")


def test_what_is_not_resolved_or_suppressed_has_no_colour_of_good_or_bad(made: Made) -> None:
    style = made.page.split(b"<style>")[1].split(b"</style>")[0].decode()
    rules = [rule for rule in style.split("}") if ".unsure" in rule or ".suppressed" in rule]
    assert rules
    assert not [rule for rule in rules if re.search(r"(red|green|#c|#0a)", rule.split("{")[1])]
    assert b'<circle class="point unsure"' in made.page


def luminance(colour: str) -> float:
    """Source: WCAG 2.1, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = ((p / 12.92) if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_enough_contrast_in_the_light_in_the_dark_and_on_paper(made: Made) -> None:
    style = made.page.split(b"<style>")[1].decode()
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    palettes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in blocks]
    assert len(palettes) == 3
    for colours in palettes:
        for pair in ("ink paper", "ink card", "soft paper", "soft card", "accent paper", "grey paper", "grey grey-band",
                     "draft draft-band"):  # fmt: skip
            text, ground = pair.split()
            light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground, colours)


def test_the_card_begins_with_front_matter_and_escapes_what_people_wrote(hostile: Made, tmp_path: Path) -> None:
    import yaml

    folder = report_folder.write(tmp_path / "run")
    facts = (folder / "model_facts.yaml").read_text()
    (folder / "model_facts.yaml").write_text(
        facts.replace("'of contact'", json.dumps("<b> [x](y) | # `a`\n---\nlicense: mit"))
    )
    text = card(report_folder.make(folder).report).decode()
    _, head, body = text.split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["library_name"] == "lepton-fl"
    assert front["license_name"] == "of licence"
    assert front["model-index"][0]["results"][0]["metrics"][1] == {"type": "accuracy", "value": 0.8}
    assert "\\<b\\> \\[x\\]\\(y\\) \\| \\# \\`a\\`" in body
    assert "<" not in body.replace("\\<", "")


def test_text_is_made_visible() -> None:
    assert visible("a\u202eb\x00c") == "a\ufffdb\ufffdc"
    assert visible("abcdef", 4) == "abc…"


def test_a_page_that_nobody_could_open_or_print_is_refused_and_the_public_one_is_as_small_as_ever(
    tmp_path: Path,
) -> None:
    folder = report_folder.write(tmp_path / "run", tuple(f"hospital number {n}" for n in range(400)))
    with pytest.raises(CannotReport, match="300000 is the most; nothing was written; the public edition"):
        report_folder.make(folder)
    assert len(report_folder.make(folder, "public").page) < 100_000
