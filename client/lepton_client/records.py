"""Which of a file's records are this institution's, and which file they were read from."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from lepton_fl.errors import DataError
from lepton_fl.federation.terms import Terms
from lepton_fl.tasks.task import DataSource, Request
from lepton_fl.training.examples import Site

_BLOCK = 1 << 20


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


def digest_of(source: DataSource) -> str:
    """Hex SHA-256 of the file that the records are in, or of a folder's files; empty where a task brings its own.

    For the ledger alone; it never leaves.
    """
    digest = hashlib.sha256()
    paths = [Path(source.path)] if source.path else sorted(Path(source.dir).iterdir()) if source.dir else []
    for path in paths:
        if not path.is_file():
            continue
        digest.update(path.name.encode() + b"\0" + path.stat().st_size.to_bytes(8, "big"))
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest() if paths else ""
