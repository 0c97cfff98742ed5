"""Four institutions that train under masks in this process, and a network between them that a test can break."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from proposals import SUMMED, WITHOUT, terms

from lepton_fl.federation.arrays import checked, template_of, to_arrays
from lepton_fl.federation.client_app import ClientProgram, answer_evaluation, answer_training
from lepton_fl.federation.local_grid import LOCAL_RUN, LocalGrid, node_id_of
from lepton_fl.federation.masked_app import AnsweredOnce, Computes, MaskedApp, Own, at_once
from lepton_fl.federation.program import program
from lepton_fl.federation.secure_grid import Cohort, Decide, SecureGrid, undecided
from lepton_fl.federation.steps import PARAMS, Step, step_of
from lepton_fl.federation.summed import Sums, sums_of
from lepton_fl.flower import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from lepton_fl.privacy.rounds_spent import InMemory
from lepton_fl.secure_aggregation.cohort import LEAST
from lepton_fl.secure_aggregation.keys import Identity
from lepton_fl.strategies.strategy import WEIGHT_KEY
from lepton_fl.training.examples import Examples, Site

NAMES = ("ash", "elm", "oak", "yew")  # of four, three are enough
CONTRACT = hashlib.sha256(b"a contract").digest()
ROUND = 3


@cache
def made() -> tuple[ClientProgram, Sums]:
    """A seeded run: with the same records, every institution trains the same and rounds the same."""
    asked = terms(privacy=WITHOUT, seed=1, **SUMMED)
    trains = program(asked, len(NAMES))
    return trains, sums_of(asked, trains, len(NAMES))


def site_of(name: str) -> Site:
    """So many records as the name's place in the alphabet says."""
    numbers = torch.Generator().manual_seed(ord(name[0]))
    count, features = 10 * (1 + NAMES.index(name)), next(made()[0].model.parameters()).shape[1]
    examples = Examples(torch.rand(count, features, generator=numbers), torch.arange(count) % 2)
    return Site(name, examples, examples, examples)


@dataclass
class Institutions:
    """What they were asked, and how they misbehave."""

    silent: set[tuple[str, str, int]] = field(default_factory=set)  # (institution, step, attempt): an app that raises
    altered: dict[tuple[str, str], Callable[[Message, Message], Message]] = field(default_factory=dict)
    declining: Collection[str] = ()  # counts
    asked: list[tuple[str, Step, RecordDict]] = field(default_factory=list)
    replied: list[tuple[str, Step]] = field(default_factory=list)

    def __post_init__(self) -> None:
        keys = {name: Identity.generate(os.urandom) for name in NAMES}
        self.identities = {name: key.public for name, key in keys.items()}
        trains, sums = made()
        self.apps = {}
        for name in NAMES:
            own = Own(name, keys[name], self.identities, LOCAL_RUN, CONTRACT, LEAST, AnsweredOnce(), os.urandom)
            is_counting = name not in self.declining
            computes = Computes(trains, site_of(name), sums, InMemory(), is_counting, at_once)
            self.apps[name] = MaskedApp(own, computes)

    def __call__(self, message: Message, context: Context) -> Message:
        """One institution's answer."""
        name, step = str(context.node_config["institution"]), step_of(message.content)
        assert step is not None
        self.asked.append((name, step, message.content))
        attempt = sum((who, one.name) == (name, PARAMS) for who, one, _ in self.asked)
        if (name, step.name, attempt) in self.silent:
            raise RuntimeError("the machine is on fire")
        reply = self.apps[name](message, context)
        said = step_of(reply.content)
        assert said is not None
        self.replied.append((name, said))
        return self.altered.get((name, step.name), lambda asked, answered: answered)(message, reply)

    def steps_of(self, name: str) -> list[str]:
        """What this institution was asked, one after another."""
        return [step.name for who, step, _ in self.asked if who == name]

    def grid(self) -> LocalGrid:
        """The network to them."""
        return LocalGrid(self, NAMES)

    def secure(self, inner: LocalGrid | None = None, decide: Decide = undecided) -> SecureGrid:
        """What a strategy talks to."""
        inner = inner or self.grid()
        return SecureGrid(inner, Cohort(LOCAL_RUN, CONTRACT, self.identities, inner.names), made()[1], decide)


def model() -> ArrayRecord:
    return to_arrays(made()[0].model)


def content(round: int = ROUND) -> RecordDict:
    return RecordDict({"arrays": START.copy(), "config": ConfigRecord({"server-round": round})})


def instructions(grid: SecureGrid | LocalGrid, purpose: str = "train", round: int = ROUND) -> list[Message]:
    """What a strategy sends in a round."""
    return [grid.create_message(content(round), purpose, node_id_of(name), "1") for name in NAMES]


START = model()  # training works in place


def flat(arrays: ArrayRecord) -> npt.NDArray[np.float64]:
    return np.concatenate([value.ravel() for value in checked(arrays, template_of(made()[0].model)).values()])


def mean_by_hand(survivors: Iterable[str], round: int = ROUND) -> npt.NDArray[np.float64]:
    """The mean of the models that these train without any mask, each weighed by its records."""
    models, weights = [], []
    for name in survivors:
        asked = Message(content(round), dst_node_id=node_id_of(name), message_type="train")
        reply = answer_training(made()[0], site_of(name), asked, InMemory())
        models.append(flat(reply.content.array_records["arrays"]))
        weights.append(int(str(reply.content.metric_records["metrics"][WEIGHT_KEY])))
    return np.average(models, axis=0, weights=weights)


def counts_by_hand(survivors: Iterable[str], round: int = ROUND) -> list[int]:
    """The sum of the counts that these answer with outside of a sum."""
    tables = []
    for name in survivors:
        asked = Message(content(round), dst_node_id=node_id_of(name), message_type="evaluate")
        reply = answer_evaluation(made()[0], site_of(name), asked, InMemory())
        tables.append(reply.content.metric_records["metrics"]["scores"])
    return [int(one) for one in np.sum(tables, axis=0)]
