"""An institution's own weights under the terms of a run, where they have any."""

from __future__ import annotations

from dataclasses import replace

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.settings import Private
from lepton_fl.fairness.local import OwnNoise, own_variance, own_weights
from lepton_fl.fairness.settings import LocalReweighing
from lepton_fl.federation.program import is_noised_locally
from lepton_fl.federation.terms import Terms
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.units import Budgeted
from lepton_fl.training.examples import Site


def with_own_weights(terms: Terms, site: Site, randomness: Randomness) -> Site:
    """The site with the weights that `fairness=local_rw` gives its records; as it was under any other fairness.

    To be called once for a run: under privacy each call is a release of a table of the subjects set apart, at the
    epsilon of `evaluation`.
    """
    fairness, privacy = terms.fairness, terms.privacy
    if not isinstance(fairness, LocalReweighing):
        return site
    noise = None
    if is_noised_locally(terms) and isinstance(privacy, Budgeted):
        if not isinstance(terms.evaluation, Private):
            raise ConfigError("fairness=local_rw under privacy needs evaluation=private; nothing was read; choose it")
        stream = randomness.within(site.institution).stream("own-table")
        noise = OwnNoise(own_variance(terms.evaluation.epsilon, privacy.delta), stream)
    labels = max(2, terms.task.shape().outputs)
    return replace(site, weights=own_weights(fairness, site, terms.task.groups(), labels, noise))
