"""A cohort in chunks: the caller's threads while workers compute, and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import nn

from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.cohort.executor import Member, Outcome, Summed
from lepton_fl.training.cohort.pool import Pool
from lepton_fl.training.examples import Examples
from lepton_fl.training.local import LocalTask


class Counting:
    """Tells how many threads it computed with, and raises for one member."""

    def train(self, start: nn.Module, members: Sequence[Member]) -> Iterator[Outcome]:
        if members[0].weight == 5:
            raise RuntimeError("a bug")
        yield Summed(len(members), torch.get_num_threads(), torch.empty(0))


def members(count: int) -> list[Member]:
    nothing = Examples(torch.empty(0, 1), torch.empty(0, dtype=torch.int64))
    return [Member(nothing, LocalTask(1, 0.0, Randomness(0), None), number) for number in range(count)]


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("workers", "share"), [(1, 4), (2, 2), (3, 1)])
def test_whoever_computes_has_a_share_of_the_cores_and_the_caller_has_all_of_them_again(
    workers: int, share: int
) -> None:
    seen = []
    for outcome in Pool(Counting, 1, workers).train(nn.Identity(), members(5)):
        assert isinstance(outcome, Summed)
        seen.append((outcome.weight, torch.get_num_threads()))
    assert seen == [(share, share)] * 5
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_the_caller_has_its_threads_again_where_a_worker_raises_or_nobody_asks_on() -> None:
    pool = Pool(Counting, 1, 2)
    with pytest.raises(RuntimeError, match="a bug"):
        list(pool.train(nn.Identity(), members(6)))
    assert torch.get_num_threads() == 4
    begun = pool.train(nn.Identity(), members(3))
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 4
