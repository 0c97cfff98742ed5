"""A masked federation in this process: every institution with keys of its own, as over the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lepton_fl.federation.client_app import ClientProgram, self_test
from lepton_fl.federation.local_grid import LOCAL_RUN, LocalGrid, Unwatched, Watch
from lepton_fl.federation.masked_app import AnsweredOnce, Computes, MaskedApp, Own, at_once
from lepton_fl.federation.secure_grid import Cohort, SecureGrid, undecided
from lepton_fl.federation.summed import Sums
from lepton_fl.flower import Context, Message
from lepton_fl.privacy.rounds_spent import InMemory, RoundsSpent
from lepton_fl.secure_aggregation.cohort import LEAST
from lepton_fl.secure_aggregation.keys import Identity
from lepton_fl.training.examples import Site

App = Callable[[Message, Context], Message]


@dataclass(frozen=True)
class LocalMasked:
    """The institutions' sides, and what a contract would say of them."""

    apps: Mapping[str, App]
    identities: Mapping[str, bytes]
    contract: bytes  # what stands for its SHA-256

    def grid(
        self,
        sums: Sums,
        watch: Watch = Unwatched(),  # noqa: B008 - it has no state
    ) -> tuple[SecureGrid, Mapping[int, str]]:
        """The grid that adds them up, and the names of its nodes."""
        inner = LocalGrid(self._answer, [*self.apps], watch)
        cohort = Cohort(LOCAL_RUN, self.contract, self.identities, inner.names)
        return SecureGrid(inner, cohort, sums, undecided), inner.names

    def _answer(self, message: Message, context: Context) -> Message:
        return self.apps[str(context.node_config["institution"])](message, context)


def taking_turns(program: ClientProgram, site: Site, sums: Sums, spent: RoundsSpent) -> Computes:
    """An institution that computes in this process, when its turn comes."""
    return Computes(program, site, sums, spent, is_counting=True, begin=at_once)


def local_masked(
    program: ClientProgram,
    sites: Mapping[str, Site],
    sums: Sums,
    contract: bytes,
    computes: Callable[[ClientProgram, Site, Sums, RoundsSpent], Computes] = taking_turns,
) -> LocalMasked:
    """Each of these institutions, with new keys.

    Args:
        computes: what each brings to a round, and where it computes.

    Raises:
        UnsoundMechanism: the self-test of a private run failed; no record was trained on.
    """
    self_test(program)
    keys, spent = {name: Identity.generate(os.urandom) for name in sites}, InMemory()
    identities = {name: key.public for name, key in keys.items()}
    apps = {}
    for name, site in sites.items():
        own = Own(name, keys[name], identities, LOCAL_RUN, contract, LEAST, AnsweredOnce(), os.urandom)
        apps[name] = MaskedApp(own, computes(program, site, sums, spent))
    return LocalMasked(apps, identities, contract)
