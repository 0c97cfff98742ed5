"""The transparency report: what it says, what it keeps to itself, and what it never says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_folder
from report_folder import MADE_AT, NAMES, figures

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.assess import assess, assessment_as_json
from lepton_fl.evaluation.histogram import Histogram, Layout
from lepton_fl.evidence import mapping, model_facts
from lepton_fl.evidence.report import from_bytes, report, site, to_bytes
from lepton_fl.evidence.shown import downwards, nearest, significant, upwards
from lepton_fl.evidence.sources import CannotReport
from lepton_fl.tasks.groups import Attribute, Groups

FIGURE = {"value", "ci", "source", "epsilon_spent", "log_index", "status", "why", "unit"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return report_folder.write(tmp_path / "run")


def made(folder: Path, edition: str = "consortium", *, is_final: bool = False) -> dict[str, Any]:
    return report(report_folder.read(folder), edition, MADE_AT, is_final=is_final)


def fact(document: dict[str, Any], name: str) -> dict[str, Any]:
    found = [one for one in figures(document) if one.get("id") == name]
    assert len(found) == 1, name
    return found[0]


def test_it_has_every_section_of_the_form(folder: Path) -> None:
    sections = [one["id"] for one in made(folder)["sections"]]
    assert sections == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "A"]


def test_every_figure_has_its_value_interval_source_epsilon_and_entry_of_the_log(folder: Path) -> None:
    found = list(figures(made(folder)))
    assert len(found) > 150
    for one in found:
        assert {*one} >= FIGURE
        assert one["value"] is None or isinstance(one["value"], str)


def test_what_is_not_there_says_so_and_why(tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(report_folder.result()))
    for one in figures(made(folder)):
        if one["value"] is None:
            assert one["status"] == "not measured"
            assert one["why"]
    assert fact(made(folder), "energy.kwh")["why"] == "no energy was recorded in this run"


def test_the_accuracy_is_that_of_the_evaluation_with_its_interval_and_what_it_cost(folder: Path) -> None:
    accuracy = fact(made(folder), "verdict.accuracy")
    assert (accuracy["value"], accuracy["ci"]) == ("0.800", ["0.712", "0.888"])
    assert (accuracy["source"], accuracy["epsilon_spent"]) == ("evaluation.json", "0.9876")


def test_a_suppressed_figure_has_no_value_anywhere(folder: Path) -> None:
    hidden = [one for one in figures(made(folder)) if one["status"] == "suppressed"]
    assert hidden
    assert all(one["value"] is None and one["ci"] is None for one in hidden)


def test_a_gap_that_is_not_resolved_is_never_called_fair(folder: Path) -> None:
    document = made(folder)
    assert fact(document, "verdict.gap")["status"] == "not resolved"
    sections = {one["id"]: json.dumps(one) for one in document["sections"]}
    assert " fair " not in sections["0"] + sections["6"].replace("without fair training", "")


def test_epsilon_is_rounded_up_and_an_interval_outwards() -> None:
    assert upwards(0.99991, 3) == "1.000"
    assert (downwards(0.71239, 3), upwards(0.88761, 3)) == ("0.712", "0.888")
    assert (upwards(0.3, 3), downwards(0.3, 3), nearest(-0.0001, 3)) == ("0.300", "0.300", "0.000")
    assert [significant(x, 2) for x in (0.0000284, 12345.0, 9.96, 0)] == ["0.000028", "12000", "10", "0"]


def test_the_energy_of_a_run_takes_the_weakest_tier(folder: Path) -> None:
    # 2 rounds x 4 institutions x 2 phases x 6 J = 96 J = 0.0000267 kWh.
    total = fact(made(folder), "energy.kwh")
    assert (total["value"], total["unit"], total["why"]) == ("0.000027", "kWh", "modelled")


def test_the_energy_of_a_point_of_accuracy_is_that_of_the_rounds_between_two_releases(folder: Path) -> None:
    # Accuracy 0.75 after round 1 and 0.80 after round 2, which took 4 x 2 x 6 = 48 J: 9.6 J a point, 0.0000027 kWh.
    per_point = fact(made(folder), "energy.per_point")
    assert (per_point["value"], per_point["unit"]) == ("0.0000027", "kWh")
    assert "from round 1 to round 2, modelled" in per_point["why"]


def test_the_same_facts_make_the_same_bytes(folder: Path) -> None:
    content = to_bytes(made(folder))
    assert to_bytes(made(folder)) == content
    assert from_bytes(content) == made(folder)
    assert b"." not in b"".join(part for part in content.split(b'"')[::2])  # no decimal outside of a text


@pytest.mark.parametrize("change", [lambda b: b + b"\n", lambda b: b.replace(b":", b": ", 1), lambda b: b"[" + b])
def test_another_form_of_a_report_is_none(folder: Path, change: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        from_bytes(change(to_bytes(made(folder))))


def test_empty_fields_keep_it_a_draft_and_refuse_a_final_one(tmp_path: Path) -> None:
    folder = report_folder.write(tmp_path / "run", people=False)
    (folder / model_facts.NAME).write_text(model_facts.template())
    assert made(folder)["status"] == "draft"
    assert made(folder)["empty_fields"] == [*model_facts.FIELDS]
    with pytest.raises(CannotReport, match=r"intended_use.* are empty; nothing was written; "):
        made(folder, is_final=True)


def test_it_is_final_once_people_filled_in_their_fields_and_said_so(folder: Path) -> None:
    assert made(folder)["status"] == "draft"
    assert made(folder, is_final=True)["status"] == "final"
    assert fact(made(folder), "human.intended_use")["value"] == "of intended_use"


@pytest.mark.parametrize(
    ("text", "said"),
    [("purpose: x\n", "has a field of its own"), (model_facts.template() + "provider: y\n", "twice"),
     (model_facts.template().replace("provider: ''", "provider: [1]"), "not text"), ("", "no field|no fields")],
)  # fmt: skip
def test_a_file_of_facts_with_other_fields_is_refused(folder: Path, text: str, said: str) -> None:
    (folder / model_facts.NAME).write_text(text)
    with pytest.raises(ConfigError, match=f"({said}).*; nothing was"):
        report_folder.read(folder)


def test_the_public_edition_names_no_institution_and_has_no_row_about_one(folder: Path) -> None:
    public = to_bytes(made(folder, "public")).decode()
    assert not [name for name in NAMES if name in public]
    for table in ("institutions", "members", "participation", "sites", "institution-groups", "reasons"):
        assert f'"id":"{table}"' not in public
        assert f'"id":"{table}"' in to_bytes(made(folder)).decode()


def test_the_public_edition_is_refused_where_people_wrote_a_name_into_it(folder: Path) -> None:
    facts = (folder / model_facts.NAME).read_text().replace("of contact", "ask at elm hospital")
    (folder / model_facts.NAME).write_text(facts)
    made(folder, "consortium")
    with pytest.raises(CannotReport, match="would name an institution, in contact; nothing was written"):
        made(folder, "public")


def test_the_sites_edition_adds_its_exact_numbers_to_the_consortiums(folder: Path) -> None:
    consortium = made(folder)
    models = {"federated": report_folder.assessment(), "local": report_folder.assessment()}
    own = site(consortium, NAMES[0], models)
    assert own["edition"] == "site"
    assert own["sections"][:-1] == consortium["sections"]
    tables = {block.get("id"): block for block in own["sections"][-1]["blocks"]}
    accuracy = next(row for row in tables["own"]["rows"] if row["labels"] == ["accuracy"])
    assert [one["value"] for one in accuracy["figures"]] == ["0.800", "0.800"]
    recall = next(row for row in tables["own-groups"]["rows"] if row["labels"] == ["sex", "Male", "recall"])
    assert [one["value"] for one in recall["figures"]] == ["0.812", "0.812"]


def test_every_pointer_of_the_appendix_leads_somewhere(folder: Path) -> None:
    document = made(folder)
    there = {one["id"] for one in figures(document) if "id" in one}
    there |= {block["id"] for section in document["sections"] for block in section["blocks"] if "id" in block}
    # Lists of a contract stand there only where there is one.
    wanted = {name for *_, names in mapping.CLAUSES for name in names} - {"software", "columns"}
    assert wanted <= there


def test_no_two_statements_have_one_id(folder: Path) -> None:
    document = made(folder)
    names = [one["id"] for one in figures(document) if "id" in one]
    names += [block["id"] for section in document["sections"] for block in section["blocks"] if "id" in block]
    assert len(names) == len({*names})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("result.json", b"{", "not JSON"), ("evaluation.json", b"[]", "not an object"),
     ("energy.jsonl", b"1\n", "not an object"), ("gates.json", b'{"a":NaN}', "not JSON"),
     ("log.json", b"{}", "no log")],
)  # fmt: skip
def test_a_damaged_file_is_named(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(CannotReport, match=rf"{name}: .*{said}.*; nothing was written; "):
        report_folder.read(folder)


def test_a_folder_without_a_result_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CannotReport, match="no run ended there"):
        report_folder.read(tmp_path)


def test_the_public_edition_has_neither_the_words_of_feedback_nor_who_overrode_a_gate(folder: Path) -> None:
    override = {"by": "Robin Roe", "reason": "the board decided", "at": "2026-03-01T12:00:00+00:00"}
    (folder / "gates.json").write_text(
        json.dumps(report_folder.gates() | {"verdict": "overridden", "override": override})
    )
    public, consortium = (to_bytes(made(folder, edition)).decode() for edition in ("public", "consortium"))
    for words in ("Ms Doe was missed", "Robin Roe"):
        assert words in consortium
        assert words not in public
    assert "the board decided" in public
    table = next(block for block in made(folder, "public")["sections"][11]["blocks"] if block.get("id") == "feedback")
    assert [(row["labels"], row["figures"][0]["value"]) for row in table["rows"]] == [(["unfair", "open"], "2")]


def test_a_file_of_another_form_is_refused_in_one_line(folder: Path) -> None:
    (folder / "evaluation.json").write_text(json.dumps({"assessment": {"overall": [{"metric": "accuracy"}]}}))
    with pytest.raises(CannotReport, match=r"another form than this version writes .*; nothing was written; "):
        made(folder)


def test_figures_of_a_real_assessment_are_found_again_by_their_names(folder: Path) -> None:
    """600 people of each sex: every man is right, and of 200 women who are positive half are missed."""
    groups = Groups((Attribute("sex", ("Male", "Female")),))
    table = np.zeros((3, 2, 2), np.int64)  # sex, label, bin
    table[0], table[1] = [[300, 0], [0, 300]], [[400, 0], [100, 100]]
    exact = Histogram(Layout(groups, 2, 2), table, 0.0)
    document = report_folder.evaluation() | {"assessment": assessment_as_json(assess(exact, None, 0.95))}
    (folder / "evaluation.json").write_text(json.dumps(document))
    blocks = {block.get("id"): block for block in made(folder)["sections"][6]["blocks"]}
    columns, rows = blocks["groups"]["columns"], {row["labels"][1]: row for row in blocks["groups"]["rows"]}
    recall = {name: row["figures"][columns.index("recall")]["value"] for name, row in rows.items()}
    assert recall == {"Male": "1.000", "Female": "0.500", "unknown": None}
    gaps = {row["labels"][1]: row["figures"][0] for row in blocks["gaps"]["rows"]}
    assert (gaps["equal opportunity difference"]["value"], gaps["equal opportunity difference"]["status"]) == (
        "0.500",
        "shown",
    )
