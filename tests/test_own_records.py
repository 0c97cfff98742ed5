"""An institution trains on its own rows and nobody else's, whatever its file holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from compositions import sim_config
from lepton_client.records import own_site

from lepton_fl.errors import DataError
from lepton_fl.federation.terms import Terms
from lepton_fl.tasks.task import DataSource

DATA = Path(__file__).resolve().parent.parent / "lepton_fl" / "tasks" / "data"
SHIPPED = DataSource(path=None, dir=None)


def terms_of(task: str) -> Terms:
    return sim_config(f"task={task}")


def test_of_a_file_that_names_several_only_its_own_rows_are_taken() -> None:
    site = own_site(terms_of("heart"), SHIPPED, "Hungary")
    assert (site.institution, len(site.train) + len(site.holdout)) == ("Hungary", 294)


def test_a_file_under_one_other_name_is_this_institutions_own(tmp_path: Path) -> None:
    lines = (DATA / "heart.csv").read_text().splitlines()
    own = [lines[0], *(line for line in lines if ",Hungary," in f",{line},")]
    (tmp_path / "own.csv").write_text("\n".join(own) + "\n")
    site = own_site(terms_of("heart"), DataSource(path=str(tmp_path / "own.csv"), dir=None), "Budapest")
    assert (site.institution, len(site.train) + len(site.holdout)) == ("Budapest", 294)


def test_a_file_of_several_others_is_refused() -> None:
    with pytest.raises(DataError, match="has 4 institutions and none is called Oslo; nothing was trained"):
        own_site(terms_of("heart"), SHIPPED, "Oslo")


def test_a_task_that_makes_institutions_up_gives_the_whole_file_to_its_owner() -> None:
    site = own_site(terms_of("german_credit"), SHIPPED, "First Bank")
    assert (site.institution, len(site.train) + len(site.holdout)) == ("First Bank", 1000)
