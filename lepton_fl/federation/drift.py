"""Whether an instruction is what was agreed to: every round is held against the signed contract, field by field."""

from __future__ import annotations

from lepton_fl.federation.arrays import BadArrays, Template, checked
from lepton_fl.federation.contract import COHORT_KEY, CONTRACT_KEY, Contract, digest
from lepton_fl.flower import ConfigRecord, Message, MessageType
from lepton_fl.strategies.averaging import FedProx


def drift(contract: Contract, template: Template, message: Message) -> str | None:
    """How an instruction differs from the contract: `rounds: signed 10, now 11`; None if it does not.

    Args:
        template: of the signed model's parameters.
    """
    records = message.content.config_records
    config = records["config"] if "config" in records else ConfigRecord()
    asked = config.get(CONTRACT_KEY)
    if asked != digest(contract):
        return f"contract: signed {digest(contract)[:12]}, now {_short(asked)}"
    if message.metadata.message_type == MessageType.TRAIN:
        said = _of_training(contract, config)
        if said is not None:
            return said
    return _of_model(template, message)


def _of_training(contract: Contract, config: ConfigRecord) -> str | None:
    terms = contract.settings()
    round, cohort, pull = config.get("server-round"), config.get(COHORT_KEY), config.get("proximal-mu", 0.0)
    signed_pull = terms.strategy.proximal_mu if isinstance(terms.strategy, FedProx) else 0.0
    if type(round) is not int or not 1 <= round <= terms.rounds:
        return f"rounds: signed {terms.rounds}, now {_short(round)}"
    if type(cohort) is not int or cohort < contract.least_cohort:
        return f"least_cohort: signed {contract.least_cohort}, now {_short(cohort)}"
    if pull != signed_pull:
        return f"strategy.proximal_mu: signed {signed_pull:g}, now {_short(pull)}"
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
