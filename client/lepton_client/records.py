"""Which of a file's records are this institution's."""

from __future__ import annotations

from dataclasses import replace

from lepton_fl.errors import DataError
from lepton_fl.federation.terms import Terms
from lepton_fl.tasks.task import DataSource, Request
from lepton_fl.training.examples import Site


def own_site(terms: Terms, source: DataSource, institution: str) -> Site:
    """This institution's records: the rows under its name, or all rows if the file has only one name or none.

    Raises:
        DataError: several institutions in the file, none of them this one; or what the task's own loading raises.
    """
    # A task that makes institutions up does so in a simulation; here the file is one institution's own.
    made_up = None if terms.task.partition is None else 1
    sites = terms.task.load(Request(source, terms.holdout, made_up)).sites
    for site in sites:
        if site.institution == institution:
            return site
    if len(sites) == 1:
        return replace(sites[0], institution=institution)
    raise DataError(
        f"the file has {len(sites)} institutions and none is called {institution}; nothing was trained; give this "
        "institution's own file"
    )
