"""Whether an instruction is what was agreed to: every round is held against the signed contract, field by field."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_fl.fairness.settings import Weighing
from lepton_fl.federation.arrays import BadArrays, Template, checked
from lepton_fl.federation.contract import COHORT_KEY, CONTRACT_KEY, Contract, digest
from lepton_fl.federation.terms import Terms
from lepton_fl.flower import ConfigRecord, Message, MessageType
from lepton_fl.strategies.averaging import FedProx
from lepton_fl.training.weights import LEAST, MOST, WEIGHTS_KEY


@dataclass(frozen=True)
class Agreed:
    """What every instruction of a run is held against."""

    sha256: str  # of the contract
    terms: Terms
    least_cohort: int
    template: Template  # of the model's parameters


def agreed(contract: Contract, terms: Terms, template: Template) -> Agreed:
    """What this contract, with its terms, lets an instruction ask for."""
    return Agreed(digest(contract), terms, contract.least_cohort, template)


def drift(agreed: Agreed, message: Message) -> str | None:
    """How an instruction differs from what was agreed to: `rounds: signed 10, now 11`; None if it does not."""
    records = message.content.config_records
    config = records["config"] if "config" in records else ConfigRecord()
    asked = config.get(CONTRACT_KEY)
    if asked != agreed.sha256:
        return f"contract: signed {agreed.sha256[:12]}, now {_short(asked)}"
    is_training = message.metadata.message_type == MessageType.TRAIN
    said = _of_round(agreed, config) or (_of_pull if is_training else _of_plan)(agreed.terms, config)
    said = said or _of_weights(agreed.terms, config, is_training=is_training)
    return said or _of_model(agreed.template, message)


def _of_round(agreed: Agreed, config: ConfigRecord) -> str | None:
    round, cohort, rounds = config.get("server-round"), config.get(COHORT_KEY), agreed.terms.rounds
    if type(round) is not int or not 1 <= round <= rounds:
        return f"rounds: signed {rounds}, now {_short(round)}"
    if type(cohort) is not int or cohort < agreed.least_cohort:
        return f"least_cohort: signed {agreed.least_cohort}, now {_short(cohort)}"
    return None


def _of_plan(terms: Terms, config: ConfigRecord) -> str | None:
    round, every = int(str(config["server-round"])), terms.evaluation.every
    if round == terms.rounds or round % every == 0:
        return None
    return f"evaluation.every: signed {every} and the last round, now round {round}"


def _of_pull(terms: Terms, config: ConfigRecord) -> str | None:
    pull = config.get("proximal-mu", 0.0)
    signed = terms.strategy.proximal_mu if isinstance(terms.strategy, FedProx) else 0.0
    return None if pull == signed else f"strategy.proximal_mu: signed {signed:g}, now {_short(pull)}"


def _of_weights(terms: Terms, config: ConfigRecord, *, is_training: bool) -> str | None:
    """Weights of groups come only in a training instruction, of a run that was signed with a fairness that has them."""
    if WEIGHTS_KEY not in config:
        return None
    if not (is_training and terms.fairness.steers):
        return "fairness: signed without weights of groups from the operator, now with some"
    value, labels = config[WEIGHTS_KEY], max(2, terms.task.shape().outputs)
    many = terms.task.groups().cells * labels
    if not isinstance(value, list) or len(value) != many or not all(type(one) is float for one in value):
        return f"fairness: signed {many} weights of groups, now something else"
    most = terms.fairness.most if isinstance(terms.fairness, Weighing) else MOST
    # The bounds of `weighing.bounded`, with room for a last bit.
    low, high = max(LEAST, 1 / most) * (1 - 1e-9), min(MOST, most) * (1 + 1e-9)
    if not all(low <= one <= high for one in map(float, value)):
        return f"fairness.most: signed {most:g}, now weights of groups beyond it"
    return None


def _of_model(template: Template, message: Message) -> str | None:
    arrays = message.content.array_records
    if [*arrays] != ["arrays"]:
        return "model: signed one set of parameters, now another number of them"
    try:
        checked(arrays["arrays"], template)
    except BadArrays as error:
        return f"model: {error}"
    return None


def _short(value: object) -> str:
    """A peer's value, bounded and printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value)[:40])
