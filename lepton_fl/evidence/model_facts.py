"""What only people can say of a model: purpose, limits, whom to turn to. Empty fields keep a report a draft."""

from __future__ import annotations

from pathlib import Path

from lepton_fl.errors import ConfigError
from lepton_fl.plain_yaml import read_yaml

NAME = "model_facts.yaml"

# Each field, and what belongs into it.
FIELDS = {
    "provider": "who answers for the model: the organisation",
    "intended_use": "what the model is for, and at which point of the work it is used",
    "intended_users": "who uses it, with which training",
    "out_of_scope": "what it must not be used for",
    "people_affected": "whose lives its output touches",
    "contact": "whom to ask, and how",
    "complaints": "how somebody who is affected objects, and who decides",
    "legal_basis": "on which basis each institution may use the records, sensitive attributes included",
    "data_origin": "where the records come from, how and when they were collected and labelled",
    "fairness_criterion": "which of the gaps in section 6 the institutions agreed to hold small",
    "fairness_reason": "why this criterion, and who decided it",
    "known_risks": "what can go wrong, and for whom",
    "human_oversight": "who can overrule the model, and how they notice that they should",
    "maintenance": "how the model is watched after its release, and when it is withdrawn",
    "changes": "what is different from the version before; say so if it is the first",
    "licence": "under which licence the model is given away, if it is",
}


def template() -> str:
    """An empty `model_facts.yaml` with a comment above each field."""
    head = (
        "# What only people can say of this model. `lepton-server report` prints it in the report.\n"
        "# While a field is empty, the report is a draft. Name no institution that the public edition must not name.\n"
    )
    return head + "".join(f"\n# {what}\n{name}: ''\n" for name, what in FIELDS.items())


def read(path: Path) -> dict[str, str]:
    """The fields by name; all empty where there is no file.

    Raises:
        ConfigError: a field that is missing, unknown, or not text.
    """
    if not path.exists():
        return dict.fromkeys(FIELDS, "")
    document = read_yaml(path)
    for name in [*document, *FIELDS]:
        if name not in document or name not in FIELDS:
            raise ConfigError(
                f"{path} {'has no field' if name not in document else 'has a field of its own,'} {name[:60]}; nothing "
                "was written; lepton-server report --facts writes the template where there is no such file"
            )
        if not isinstance(document[name] or "", str):
            raise ConfigError(f"{name} in {path} is not text; nothing was written; put it between quotes")
    return {name: (document[name] or "").strip() for name in FIELDS}


def empty(facts: dict[str, str]) -> list[str]:
    """The fields that nobody filled in."""
    return [name for name in FIELDS if not facts[name]]
