"""One run from its terms to its results, whatever Grid carries the messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lepton_fl.energy import summary
from lepton_fl.energy.summary import Account
from lepton_fl.errors import ConfigError, TrainingFailed
from lepton_fl.evaluation.gates import Gates
from lepton_fl.fairness.steering import steering_of
from lepton_fl.federation.arrays import template_of, to_arrays
from lepton_fl.federation.client_app import DECLARED_WEIGHT, ClientProgram
from lepton_fl.federation.cohort_release import (
    THE_OPERATOR_SEES,
    THE_OPERATOR_SEES_A_SUM,
    CohortRelease,
    check_noisy_mean,
    cost_of_few,
)
from lepton_fl.federation.contract import Contract, digest
from lepton_fl.federation.journal import Journal, RoundReport
from lepton_fl.federation.program import cohort_mechanism, program
from lepton_fl.federation.replies import Expected
from lepton_fl.federation.rounds import Rounds, Run
from lepton_fl.federation.summed import Sums, sums_of
from lepton_fl.federation.terms import Terms
from lepton_fl.flower import Context, Grid, RecordDict, ServerApp
from lepton_fl.privacy.accounting import epsilon_spent
from lepton_fl.results.folder import Folder
from lepton_fl.results.judged import judged
from lepton_fl.results.outcome import Facts, Outcome, claim_of, steps_of_a_round
from lepton_fl.results.terminal import Voice
from lepton_fl.results.thresholds import NAME as THRESHOLDS
from lepton_fl.results.thresholds import thresholds_of
from lepton_fl.strategies.strategy import Federation
from lepton_fl.training.private import Mechanism
from lepton_fl.training.shared_noise import epsilons


@dataclass(frozen=True)
class Names:
    """What was typed: for titles and result files."""

    task: str
    model: str
    strategy: str


@dataclass(frozen=True)
class Prepared:
    """A run that can start: everything was checked against everything."""

    terms: Terms
    facts: Facts
    program: ClientProgram
    federation: Federation
    at_server: Mechanism | None  # under privacy=institution, what the server adds to each round's mean
    sums: Sums | None  # what is added up under masks; None: the operator sees each update


def prepare(terms: Terms, names: Names, institutions: Sequence[str], cohort_size: int | None) -> Prepared:
    """Build the model, calibrate the noise, and refuse what does not fit together, before anything is trained."""
    federation = Federation(len(institutions), cohort_size or len(institutions), terms.training.learning_rate)
    if federation.cohort_size > len(institutions):
        raise ConfigError(
            f"cohort_size {federation.cohort_size} is more than the {len(institutions)} institutions; nothing was "
            "trained; lower it"
        )
    if terms.is_summed and federation.cohort_size < len(institutions):
        raise ConfigError(
            f"cohort_size {federation.cohort_size} of {len(institutions)} asks other institutions in each round, and "
            "secure aggregation adds up one fixed cohort, since the difference of two sums tells of who is in one; "
            "nothing was trained; leave cohort_size out, or give secure_aggregation=off where every policy allows it"
        )
    made = program(terms, len(institutions))
    sums = sums_of(terms, made, len(institutions)) if terms.is_summed else None
    terms.strategy.build(federation, is_summed=terms.is_summed)  # refuses here what it would refuse later
    parameters = sum(parameter.numel() for parameter in made.model.parameters())
    at_server = cohort_mechanism(terms, len(institutions), federation.cohort_size)
    facts = Facts(
        task=names.task,
        title=terms.task.title,
        model=names.model,
        strategy=names.strategy,
        rounds=terms.rounds,
        institutions=tuple(institutions),
        parameters=parameters,
        claim=claim_of(terms, made.shared or made.mechanism or at_server),
        is_summed=terms.is_summed,
        evaluating=made.evaluating,
        warnings=() if at_server is None else _costs(at_server, parameters, is_summed=terms.is_summed),
    )
    return Prepared(terms, facts, made, federation, at_server, sums)


def _costs(at_server: Mechanism, parameters: int, *, is_summed: bool) -> tuple[str, ...]:
    of_few, seen = cost_of_few(at_server, parameters), THE_OPERATOR_SEES_A_SUM if is_summed else THE_OPERATOR_SEES
    return (seen,) if of_few is None else (of_few, seen)


def among(prepared: Prepared, institutions: int) -> Prepared:
    """The same run with so many institutions that take part in the end; a step's divisor stays as it was declared.

    Raises:
        ConfigError: too few for the strategy.
    """
    cohort_size = min(prepared.federation.cohort_size, institutions)
    federation = replace(prepared.federation, institutions=institutions, cohort_size=cohort_size)
    prepared.terms.strategy.build(federation, is_summed=prepared.sums is not None)
    return replace(prepared, federation=federation)


@dataclass(frozen=True)
class Carrier:
    """What takes a run to its institutions and through a crash."""

    grid: Grid
    names: Mapping[int, str]  # node id: institution; may grow while the run goes on
    journal: Journal
    contract: Contract | None  # that the institutions agreed to; None: all of them are in this process
    energy: Account | None = None  # None: nobody meters
    gates: Gates | None = None  # None: nobody judges
    is_folded: bool = False  # `CohortGrid` makes one reply of a round's models


def conduct(prepared: Prepared, carrier: Carrier, output: tuple[Folder, Voice]) -> Outcome:
    """Run every round that is not over yet; files and lines come as the rounds do.

    Raises:
        TrainingFailed: no round made a model.
    """
    began = time.monotonic()
    folder, voice = output
    terms, claim, model = prepared.terms, prepared.facts.claim, prepared.program.model
    template, is_gated = template_of(model), carrier.gates is not None and bool(carrier.gates.declared)
    progress = carrier.journal.resume(to_arrays(model))

    def on_round(report: RoundReport) -> None:
        if report.skipped is None:
            # Privacy was paid for this model; whatever happens next, it is not lost.
            folder.add_model(rounds.arrays, template, claim, is_gated=is_gated)
        folder.add_round(report, claim)
        voice.round_done(report)

    run = _run_of(prepared, carrier, on_round)
    rounds = Rounds(terms.strategy.build(prepared.federation, is_summed=run.is_summed), run, progress)
    voice.started(prepared.facts)
    folder.begin(progress.reports, claim)
    if progress.reports:
        voice.continued(progress.reports)
    with voice.progress(terms.rounds, len(progress.reports)):
        _start(rounds, carrier.grid, terms.rounds - len(progress.reports))
    _refuse_without_model(rounds.reports)
    sha256 = folder.add_model(rounds.arrays, template, claim, is_gated=is_gated)
    outcome = Outcome(
        prepared.facts,
        tuple(rounds.reports),
        time.monotonic() - began,
        sha256,
        _energy(prepared, carrier),
        stopped=rounds.stopped,
    )
    outcome = judged(carrier.gates, outcome, folder.path)
    thresholds = thresholds_of(terms, prepared.facts, rounds.reports)
    if thresholds is not None:
        folder.add_file(THRESHOLDS, thresholds)
    folder.finish(outcome)
    return outcome


def _energy(prepared: Prepared, carrier: Carrier) -> Mapping[str, Any] | None:
    account = carrier.energy
    return None if account is None else summary.as_json(account.lines(), account.settings, prepared.facts.institutions)


def _run_of(prepared: Prepared, carrier: Carrier, on_round: Callable[[RoundReport], None]) -> Run:
    terms, program, at_server, summed = prepared.terms, prepared.program, prepared.at_server, prepared.terms.is_summed
    if at_server is not None:
        check_noisy_mean(at_server, program.randomness.within("self-test"))
    return Run(
        names=carrier.names,
        expected=Expected(
            template=template_of(program.model),
            evaluating=program.evaluating,
            weight_cap=weight_cap_of(prepared),
            most_records=terms.weight_cap,
            with_loss=terms.strategy.needs_exact_loss,
        ),
        journal=carrier.journal,
        epsilon_after=_epsilon_after(prepared),
        on_round=on_round,
        least_replies=terms.strategy.least_replies,
        contract=None if carrier.contract is None else digest(carrier.contract),
        cohort_release=None
        if at_server is None or summed or carrier.is_folded
        else CohortRelease(at_server, program.randomness),
        delta=prepared.facts.claim.delta if prepared.facts.claim.is_private else None,
        is_summed=summed,
        is_folded=carrier.is_folded,
        stops=_stops(carrier),
        steering=steering_of(terms.fairness, terms.task.groups(), program.evaluating.labels),
    )


def weight_cap_of(prepared: Prepared) -> int:
    """The most that an institution's weight counts; under privacy all weigh the same."""
    return prepared.terms.weight_cap if prepared.facts.claim.epsilon_budget is None else DECLARED_WEIGHT


def _stops(carrier: Carrier) -> Callable[[Sequence[RoundReport]], str | None]:
    """Released accuracy and the energy that was told decide whether a further round buys enough."""
    account = carrier.energy

    def stops(reports: Sequence[RoundReport]) -> str | None:
        if account is None or account.settings.stop_below is None:
            return None
        released = [
            (one.round, one.metrics.accuracy)
            for one in reports
            if one.metrics is not None and one.metrics.accuracy is not None
        ]
        return summary.should_stop(released, account.lines(), account.settings)

    return stops


def _start(rounds: Rounds, grid: Grid, count: int) -> None:
    """Let Flower's ServerApp run the strategy for so many rounds more."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        rounds.start(grid, rounds.arrays.copy(), num_rounds=count)

    server_app(grid, Context(grid.run.run_id, 1, {}, RecordDict(), {}))


def _refuse_without_model(reports: Sequence[RoundReport]) -> None:
    if all(report.skipped for report in reports):
        reasons = [str(reports[-1].skipped), *(f"{name}: {why}" for name, why in reports[-1].refused.items())]
        raise TrainingFailed(
            f"no round made a model ({'; '.join(reasons)}); no model was written; lower training.learning_rate or look "
            "at the data"
        )


def _epsilon_after(prepared: Prepared) -> Callable[[int], float] | None:
    """Epsilon of an institution that was asked in so many rounds; None without privacy."""
    delta, mechanism = prepared.facts.claim.delta, prepared.program.mechanism or prepared.at_server
    steps, shared = steps_of_a_round(prepared.terms), prepared.program.shared
    if shared is not None and delta is not None:
        return lambda asked: epsilons(shared, delta, asked * steps).of_the_sum
    if mechanism is None or delta is None:
        return None
    return lambda asked: epsilon_spent(mechanism.noise_multiplier, delta, mechanism.sampling_rate, asked * steps)
