"""A federation of real processes for the tests that want one, and little to collect for all."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from federations import Federation


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """What is there before a module's tests is not looked at each time: Flower collects for every reply it unpacks."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    yield made
    made.end()
