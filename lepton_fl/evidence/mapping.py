"""Appendix A: where the report holds what other documents ask for. Evidence, not legal advice.

Sources, read for their structure and put in our own words: Regulation (EU) 2016/679, Article 35(7); Regulation (EU)
2024/1689, Annex IV, points 1 to 9; NIST SP 800-226 (March 2025), the factors of its differential privacy pyramid;
Coalition for Health AI, Applied Model Card, schema v0.2.
"""

from __future__ import annotations

from collections.abc import Mapping

from lepton_fl.evidence.blocks import Prose, Row, Section, Table
from lepton_fl.evidence.shown import Origin, Shown, absent

_GDPR, _AI_ACT = "GDPR, Article 35(7)", "EU AI Act, Annex IV"
_NIST, _CHAI = "NIST SP 800-226", "CHAI Applied Model Card"

# The document, its clause, what the clause is about in our words, and where this report speaks of it.
CLAUSES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (_GDPR, "(a)", "what is processed, and for what", ("human.intended_use", "purpose.purpose", "data.schema")),
    (_GDPR, "(b)", "whether it is necessary and in proportion", ("human.legal_basis", "purpose.retention_days")),
    (_GDPR, "(c)", "risks to those concerned", ("human.known_risks", "privacy.epsilon", "groups", "gaps")),
    (_GDPR, "(d)", "measures against those risks", ("privacy.epsilon", "privacy.trust", "gates", "log.head")),
    (_AI_ACT, "1", "the system in general", ("human.intended_use", "human.provider", "model.version", "software")),
    (_AI_ACT, "2(a), (b)", "how it was developed, and its design", ("model.kind", "model.strategy", "settings")),
    (_AI_ACT, "2(c)", "architecture and computing resources", ("model.kind", "model.parameters", "energy.kwh")),
    (_AI_ACT, "2(d)", "the data", ("data.schema", "columns", "human.data_origin")),
    (_AI_ACT, "2(e)", "human oversight", ("human.human_oversight",)),
    (_AI_ACT, "2(f)", "changes planned beforehand", ()),
    (_AI_ACT, "2(g)", "validation and testing", ("overall", "groups", "gaps", "performance.confidence")),
    (_AI_ACT, "2(h)", "cybersecurity", ("privacy.trust", "log.head", "model.file")),
    (_AI_ACT, "3", "limits, accuracy for groups of persons, oversight", ("groups", "gaps", "human.known_risks")),
    (_AI_ACT, "4", "why these performance metrics", ("human.fairness_reason",)),
    (_AI_ACT, "5", "risk management", ("human.known_risks", "gates")),
    (_AI_ACT, "6", "changes through its life", ("human.changes",)),
    (_AI_ACT, "7", "standards applied", ()),
    (_AI_ACT, "8", "declaration of conformity", ()),
    (_AI_ACT, "9", "watching it after release", ("human.maintenance", "feedback")),
    (_NIST, "privacy parameters", "epsilon, delta, and their meaning", ("privacy.epsilon", "privacy.delta")),
    (_NIST, "unit of privacy", "whose presence is hidden", ("privacy.unit", "privacy.relation")),
    (_NIST, "algorithms and correctness", "mechanism, accounting", ("privacy.accountant", "privacy.noise_multiplier")),
    (_NIST, "utility", "what the noise costs", ("overall", "history")),
    (_NIST, "bias", "effect on groups", ("groups", "gaps", "fairness.excess")),
    (_NIST, "trust model", "who must be trusted", ("privacy.trust",)),
    (_NIST, "security and access", "what protects the data beside noise", ("log.head", "model.contract")),
    (_NIST, "data collection exposure", "what exists before any noise", ("human.data_origin",)),
    (_CHAI, "BasicInfo, ReleaseInfo", "name, contact, version", ("human.provider", "human.contact", "model.version")),
    (_CHAI, "UsesAndDirections", "use, users, people, what it is not for",
     ("human.intended_use", "human.intended_users", "human.people_affected", "human.out_of_scope")),
    (_CHAI, "Warnings", "risks, biases", ("human.known_risks", "gaps")),
    (_CHAI, "TrustIngredients", "data, type of model, security, upkeep",
     ("model.kind", "columns", "human.maintenance", "privacy.trust")),
    (_CHAI, "KeyMetrics: usefulness", "how well it works", ("overall",)),
    (_CHAI, "KeyMetrics: fairness", "for whom it works", ("groups", "gaps")),
    (_CHAI, "KeyMetrics: safety", "reliability", ("performance.confidence", "gates")),
    (_CHAI, "Resources", "trials, publications, consent", ()),
)  # fmt: skip


def mapping(stands: Mapping[str, bool]) -> Section:
    """Appendix A.

    Args:
        stands: of every statement in the report, whether something stands there.
    """
    rows = tuple(
        Row((document, clause, about), (_evidence(wanted, stands),)) for document, clause, about, wanted in CLAUSES
    )
    table = Table("mapping", "Where to find it", ("document", "clause", "about"), ("evidence",), rows)
    note = Prose("", ("These are pointers to evidence. They are not legal advice, and no claim that a duty is met.",))
    question = "Where does this report hold what other documents ask for?"
    return Section("A", "Other documents", question, (note, table))


def _evidence(wanted: tuple[str, ...], stands: Mapping[str, bool]) -> Shown:
    there = [name for name in wanted if stands.get(name)]
    if not there:
        return absent("not covered" if not wanted else f"not covered: {', '.join(wanted)} not measured in this run")
    return Shown(", ".join(there), Origin("this report"))
