"""What terms make: the program of an institution, its mechanism and its evaluations, the noise calibrated.

An institution builds its program from the terms with its own installed code, and works out the noise itself.
"""

from __future__ import annotations

from dataclasses import replace

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.plan import plan
from lepton_fl.evaluation.settings import Private
from lepton_fl.explanation.release import variance_for
from lepton_fl.fairness.settings import LocalReweighing, OfGroups, Thresholds
from lepton_fl.fairness.steering import steering_of
from lepton_fl.federation.client_app import ClientProgram
from lepton_fl.federation.evaluating import Evaluating, Explaining
from lepton_fl.federation.terms import SHARED, Terms
from lepton_fl.privacy import units
from lepton_fl.privacy.accounting import Schedule, calibrate
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.units import Budgeted, PatientPrivacy
from lepton_fl.secure_aggregation.cohort import LEAST, honest
from lepton_fl.strategies.agnostic import scores_of
from lepton_fl.tasks.features import features_of
from lepton_fl.tasks.tabular import Tabular
from lepton_fl.training.choose import engine_for
from lepton_fl.training.clipped_sum import refuse_coupled_records
from lepton_fl.training.device import layers_seeded
from lepton_fl.training.flat import size
from lepton_fl.training.private import Mechanism
from lepton_fl.training.self_test import Claimed
from lepton_fl.training.shared_noise import Cohort as Sharing
from lepton_fl.training.shared_noise import SharedMechanism, calibrate_shared, refuse_several_steps


def refuse_unsummable(terms: Terms) -> None:
    """Return if what is asked for can be summed, where it is to be summed; and if noise that is shared is summed.

    Raises:
        ConfigError: saying what to choose.
    """
    if terms.noise == SHARED and not (
        terms.is_summed and isinstance(terms.privacy, Budgeted) and terms.privacy.is_local
    ):
        raise ConfigError(
            "noise=shared needs privacy=record or patient and secure_aggregation=on: only a masked sum has the whole "
            "noise; nothing was trained; choose them, or noise=own"
        )
    if terms.noise == SHARED:
        refuse_several_steps(terms.training)
    if not terms.is_summed:
        return
    terms.strategy.sum_form(terms.weight_cap, terms.training.learning_rate)


def refuse_unfair(terms: Terms) -> None:
    """Return if there are the groups and the people that the fairness asked for is decided from.

    Raises:
        ConfigError: saying what to give.
    """
    groups, labels = terms.task.groups(), max(2, terms.task.shape().outputs)
    terms.fairness.observed(groups)
    steering_of(terms.fairness, groups, labels)
    if isinstance(terms.fairness, Thresholds) and labels != 2:
        raise ConfigError(
            f"thresholds by group are for two labels, and this task has {labels}; nothing was trained; choose another "
            "fairness"
        )
    is_own = isinstance(terms.fairness, LocalReweighing) and is_noised_locally(terms)
    if is_own and (terms.noise == SHARED or not isinstance(terms.evaluation, Private)):
        raise ConfigError(
            "fairness=local_rw under privacy weighs by a noisy table of each institution's own, so it needs "
            "evaluation=private, and noise=own, since no two steps are of one length; nothing was trained; choose "
            "them, or fairness=global_rw"
        )
    if (terms.fairness.reads_tune or is_own) and terms.holdout.tune == 0:
        raise ConfigError(
            "this fairness is decided from noisy counts of subjects set apart for choices, and holdout.tune sets none "
            "apart; nothing was trained; give holdout.tune=0.1, or fairness=none"
        )


def is_noised_locally(terms: Terms) -> bool:
    """Whether an institution's own records are behind noise before anything is made of them."""
    return isinstance(terms.privacy, Budgeted) and terms.privacy.is_local


def program(terms: Terms, institutions: int) -> ClientProgram:
    """What an institution runs: the model, freshly initialised, and the mechanism, its noise calibrated.

    Args:
        institutions: taking part in the run; each one's share of the declared records sets a step's divisor.

    Raises:
        LeptonError: the terms do not fit together; nothing was trained.
    """
    import torch

    refuse_unsummable(terms)
    refuse_unfair(terms)
    shape, randomness = terms.task.shape(), Randomness(terms.seed)
    with layers_seeded(randomness.stream("model").integer(), torch.device("cpu")):
        model = terms.model.build(shape)
    mechanism = claimed = shared = None
    if isinstance(terms.privacy, Budgeted) and terms.strategy.needs_exact_loss:
        raise ConfigError(
            "this strategy reads each institution's exact training loss, which no epsilon covers; nothing was "
            "trained; choose another strategy, or privacy=none for public data"
        )
    if is_noised_locally(terms) and isinstance(terms.privacy, Budgeted):
        # A model whose records cannot be told apart is refused before the first round, not in it.
        engine = engine_for(model)
        engine.attach(model)
        engine.detach()
        refuse_coupled_records(model, shape.features)
        if terms.noise == SHARED:
            shared = _shared(terms, terms.privacy, institutions, size(model))
        else:
            mechanism = _mechanism(terms, terms.privacy, institutions)
            claimed = Claimed(mechanism, shape)
    elif type(terms.privacy) not in (units.NoPrivacy, units.InstitutionPrivacy):
        raise ConfigError(f"privacy must be one of {', '.join(units.TABLE)}; nothing was trained")
    is_counted = type(terms.privacy) is units.NoPrivacy
    return ClientProgram(
        model,
        shape.outputs,
        terms.training,
        mechanism,
        terms.rounds,
        randomness,
        evaluating(terms, institutions, shape.outputs),
        claimed,
        is_counted,
        shared,
        shape,
        terms.task.groups().cells,
        scores_of(terms.strategy, max(2, shape.outputs)),
    )


def evaluating(terms: Terms, institutions: int, outputs: int) -> Evaluating:
    """How the hold-out is counted under these terms, its noise calibrated.

    Raises:
        ConfigError: noise on the counts, where training promises nothing that it could uphold.
        BudgetSpent: no reasonable noise keeps the promise.
    """
    settings, privacy, fairness = terms.evaluation, terms.privacy, terms.fairness
    if isinstance(settings, Private) and not (isinstance(privacy, Budgeted) and privacy.is_local):
        raise ConfigError(
            "evaluation=private needs privacy=record or patient: it upholds their promise for who is held out; nothing "
            "was trained; choose one of them, or evaluation=exact"
        )
    shares = honest(institutions) if terms.noise == SHARED else 1
    planned = None
    if isinstance(settings, Private) and isinstance(privacy, Budgeted):
        asked = (privacy.delta, terms.rounds, shares, max(2, outputs), fairness.reads_tune)
        planned = plan(settings, *asked)
        if fairness.reads_tune and not fairness.steers:
            # Read once, after the last round, and all of the budget goes into that.
            once = plan(replace(settings, every=terms.rounds), *asked)
            routine, final = replace(planned.routine, tune=0), replace(planned.final, tune=once.final.tune)
            planned = replace(planned, routine=routine, final=final)
    return Evaluating(
        settings,
        terms.task.groups(),
        max(2, outputs),
        terms.rounds,
        planned,
        shares,
        fairness.reads_tune,
        isinstance(privacy, PatientPrivacy),
        _explaining(terms, shares),
        fairness.among(terms.task.groups()) if isinstance(fairness, OfGroups) and fairness.reads_tune else None,
    )


def _explaining(terms: Terms, shares: int) -> Explaining | None:
    """What is told of columns, its noise calibrated; None where nobody asks."""
    settings, privacy, task = terms.explanation, terms.privacy, terms.task
    if settings.epsilon is None:
        return None
    if not isinstance(terms.evaluation, Private) or not isinstance(privacy, Budgeted):
        raise ConfigError(
            "an explanation is released under the promise to who is held out, and this run makes none; nothing was "
            "trained; choose privacy=record or patient with evaluation=private, or explanation.epsilon=null"
        )
    if not isinstance(task, Tabular):
        raise ConfigError(
            "an explanation is by columns of a table, and this task has none; nothing was trained; give "
            "explanation.epsilon=null"
        )
    variance = variance_for(settings.epsilon, privacy.delta, shares)
    watched = (tuple(task.sensitive), settings.top)
    return Explaining(features_of(task.columns), settings.clipping_norm, variance, watched)


def cohort_mechanism(terms: Terms, institutions: int, cohort_size: int) -> Mechanism | None:
    """What the server adds to each round's mean under `privacy=institution`; None under any other.

    Raises:
        ConfigError: a delta at which an institution could be told outright, or a strategy that must see single updates.
    """
    privacy = terms.privacy
    if not isinstance(privacy, units.InstitutionPrivacy):
        return None
    if not terms.strategy.needs_mean_only:
        raise ConfigError(
            "this strategy compares single updates, and privacy=institution hands it their noisy mean alone; nothing "
            "was trained; choose fedavg, fedavgm, fedprox, fedadagrad, fedadam or fedyogi, or another privacy"
        )
    _refuse_large_delta(privacy, institutions)
    noise_multiplier = calibrate(privacy.epsilon, privacy.delta, Schedule(1.0, terms.rounds))
    return Mechanism(noise_multiplier, privacy.clipping_norm, sampling_rate=1.0, expected_batch=float(cohort_size))


def _mechanism(terms: Terms, privacy: Budgeted, institutions: int) -> Mechanism:
    """The noise that the whole run needs, were an institution asked in every round."""
    training, batch, most = terms.training, _expected_batch(terms, privacy), _records_per_subject(terms, privacy)
    schedule = Schedule(training.sampling_rate, terms.rounds * training.local_steps)
    return Mechanism(
        noise_multiplier=calibrate(privacy.epsilon, privacy.delta, schedule),
        clipping_norm=privacy.clipping_norm,
        sampling_rate=training.sampling_rate,
        expected_batch=batch / institutions,
        records_per_subject=most,
    )


def _shared(terms: Terms, privacy: Budgeted, institutions: int, parameters: int) -> SharedMechanism:
    """The noise that the cohort shares."""
    if institutions < LEAST:
        raise ConfigError(
            f"shared noise needs at least {LEAST} institutions, and {institutions} take part; nothing was trained; add "
            "institutions, or give noise=own"
        )
    schedule = Schedule(terms.training.sampling_rate, terms.rounds)
    cohort = Sharing(institutions, honest(institutions), _expected_batch(terms, privacy))
    return calibrate_shared(privacy, schedule, cohort, parameters, _records_per_subject(terms, privacy))


def _expected_batch(terms: Terms, privacy: Budgeted) -> float:
    """Declared, of a step of all institutions together."""
    declared = terms.task.declared(privacy.unit)
    _refuse_large_delta(privacy, declared)
    return float(terms.training.sampling_rate * declared * (1 - terms.holdout.held_out))


def _records_per_subject(terms: Terms, privacy: Budgeted) -> int | None:
    training = terms.training
    most = privacy.records_per_patient if isinstance(privacy, PatientPrivacy) else None
    if most is not None and most > training.physical_batch:
        raise ConfigError(
            f"privacy.records_per_patient {most} is more than training.physical_batch {training.physical_batch}, and "
            "no batch may split a patient; nothing was trained; lower the one or raise the other"
        )
    return most


def _refuse_large_delta(privacy: Budgeted, declared: int) -> None:
    if privacy.delta * declared >= 1:
        raise ConfigError(
            f"privacy.delta {privacy.delta:g} for about {declared} {privacy.unit}s allows one of them to be published "
            f"outright; nothing was trained; set it below {1 / declared:.1g}"
        )
