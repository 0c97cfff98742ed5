"""A run's folder with figures that can be checked by hand, and the report that is made of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save

from lepton_fl.evidence import model_facts, report_signature, sources
from lepton_fl.evidence.report import report, to_bytes
from lepton_fl.evidence.report_card import card
from lepton_fl.evidence.report_check import Files
from lepton_fl.evidence.report_page import page
from lepton_fl.evidence.sources import Sources


@dataclass(frozen=True)
class Key:
    """A signer with a key of its own."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    def sign(self, domain: str, statement: bytes) -> bytes:
        return self.private.sign(domain.encode() + b"\0" + statement)


KEY = Key(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
NAMES = ("Elm Hospital", "Oak Clinic", "Ash Infirmary", "Yew Ward")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; </style></svg><b>",
    "\u202egnirts desrever\u202c",
    "{{ 7*7 }} {% raw %} &amp; &#x3c;",
    "x" * 10_000,
    "مستشفى الشفاء",
    "line\nbreak\x00\x1b[31m | `code` [a](javascript:alert(1))",
)
MADE_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MODEL = save({"linear.bias": np.zeros(1, np.float32), "linear.weight": np.ones((1, 3), np.float32)})


def figure(metric: str, value: float | None, low: float | None, high: float | None, status: str = "shown") -> Any:
    why = {"shown": "", "suppressed": "fewer than 26 records by the noisy count", "not resolved": ""}[status]
    return {"metric": metric, "value": value, "low": low, "high": high, "status": status, "why": why}


def assessment() -> Any:
    def group(name: str, records: int, recall: Any) -> Any:
        figures = [figure("records", records, records - 10, records + 10), figure("accuracy", 0.75, 0.61, 0.86), recall]
        return {"attribute": "sex", "group": name, "figures": figures}

    return {
        "overall": [
            figure("records", 175.0, 160.0, 190.0),
            figure("accuracy", 0.80012, 0.71239, 0.88761),
            figure("AUC", 0.871, 0.792, 0.934),
        ],
        "groups": [
            group("Female", 41, figure("recall", None, None, None, "suppressed")),
            group("Male", 134, figure("recall", 0.8125, 0.7001, 0.8899)),
        ],
        "gaps": [
            {
                "attribute": "sex",
                "figure": figure("demographic parity difference", 0.1234, -0.0412, 0.2887, "not resolved"),
                "between": ["Male", "Female"],
            },
            {
                "attribute": "sex",
                "figure": figure("equal opportunity difference", None, None, None, "suppressed"),
                "between": None,
            },
        ],
    }


def result(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    return {
        "schema": "lepton-fl/result/1", "version": "0.1.0", "finished_at": "2026-03-01T11:58:00+00:00",
        "task": "heart", "model": "logistic", "strategy": "fedavg", "parameters": 4, "institutions": [*names],
        "rounds": 2, "metrics": {"records": 175, "accuracy": 0.8, "auc": 0.87, "loss": 0.43},
        "metrics_by_institution": {}, "evaluation": "summed counts of the hold-out", "secure_aggregation": True,
        "private": True, "not_private_because": None, "unit": "record",
        "neighbouring_relation": "add or remove one record", "epsilon": 0.999_91, "epsilon_without_seed": 0.999_91,
        "epsilon_budget": 1.0, "delta": 1e-4, "noise_multiplier": 17.4488, "clipping_norm": 1.0, "sampling_rate": 1.0,
        "steps": 2, "seed": None, "noise": "own", "honest": None, "epsilon_of_a_share": None, "seconds": 2.2,
        "model_sha256": hashlib.sha256(MODEL).hexdigest(),
    }  # fmt: skip


def evaluation(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    models = {"federated": assessment(), "local": assessment(), "personal": assessment()}
    return {
        "schema": "lepton-fl/evaluation/1", "round": 2, "evaluation": "private", "unit": "record",
        "neighbouring_relation": "add or remove one record", "epsilon": 0.9876, "delta": 1e-4, "confidence": 0.95,
        "releases": 2, "noise_stddev": {"decisions": 5.3, "scores": 7.1, "own": 0}, "assessment": assessment(),
        "institutions": [{"institution": name, "models": models} for name in names],
        "history": [{"round": n, "accuracy": figure("accuracy", 0.7 + n / 20, 0.6 + n / 20, 0.8 + n / 20)}
                    for n in (1, 2)],
    }  # fmt: skip


def rounds(names: tuple[str, ...] = NAMES) -> list[dict[str, Any]]:
    one = {"round": 1, "cohort": [*names], "replied": [*names[1:]], "refused": {names[0]: "it declined: no"},
           "not_evaluated": {}, "skipped": None, "metrics": None, "private": True, "unit": "record",
           "neighbouring_relation": "add or remove one record", "epsilon": 0.7, "seconds": 0.1}  # fmt: skip
    return [one, {**one, "round": 2, "replied": [*names[:3]], "refused": {}}]


def energy(names: tuple[str, ...] = NAMES) -> list[dict[str, Any]]:
    return [
        {"round": n, "institution": name, "phase": phase, "wall_s": 0.5, "cpu_s": 0.4, "bytes_up": 100,
         "bytes_down": 50, "joules": {"cpu": {"value": 6.0, "tier": tier}}, "tier": tier}
        for n in (1, 2) for name in names for phase, tier in (("train", "measured"), ("communicate", "modelled"))
    ]  # fmt: skip


def gates() -> dict[str, Any]:
    one = {"gate": "epsilon", "limit": 1.0, "figure": figure("epsilon", 0.9999, None, None), "holds": True, "why": ""}
    return {"schema": "lepton-fl/gates/1", "verdict": "released", "gates": [one], "override": None}


def explanation() -> dict[str, Any]:
    weights = (("thalach", 0.412, 0.371, 0.453), ("sex", 0.201, 0.158, 0.244), ("chol", 0.02, 0.0, 0.061))
    features = [
        {"feature": name, "value": value, "low": low, "high": high, "status": "shown", "why": ""}
        for name, value, low, high in weights
    ]
    return {"schema": "lepton-fl/explanation/1", "records": 171, "features": features, "proxies": ["sex"]}


def feedback() -> dict[str, Any]:
    one = {"id": "f1", "run": "7", "kind": "unfair", "about": "Ms Doe was missed",
           "opened_at": "2026-03-02T09:00:00+00:00", "closed_at": None, "resolution": None}  # fmt: skip
    return {"schema": "lepton-fl/feedback/1", "feedback": [one, {**one, "id": "f2", "about": "a question"}]}


def write(folder: Path, names: tuple[str, ...] = NAMES, *, people: bool = True) -> Path:
    """A folder as a whole run leaves it; `people` filled in their fields."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result(names)))
    (folder / "evaluation.json").write_text(json.dumps(evaluation(names)))
    for name, made in (("gates", gates()), ("explanation", explanation()), ("feedback", feedback())):
        (folder / f"{name}.json").write_text(json.dumps(made))
    for name, lines in (("rounds.jsonl", rounds(names)), ("energy.jsonl", energy(names))):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "model.safetensors").write_bytes(MODEL)
    if people:
        (folder / model_facts.NAME).write_text("".join(f"{one}: 'of {one}'\n" for one in model_facts.FIELDS))
    return folder


def read(folder: Path) -> Sources:
    return sources.read(folder)


@dataclass(frozen=True)
class Made:
    """A report with everything that belongs to it."""

    report: bytes
    page: bytes
    card: bytes
    signature: bytes

    def files(self, **changed: bytes) -> Files:
        given = {"report": self.report, "signature": self.signature, "page": self.page, "card": self.card}
        return Files(**{**given, "model": MODEL, **changed})  # type: ignore[arg-type]


def make(folder: Path, edition: str = "consortium", *, is_final: bool = False) -> Made:
    content = to_bytes(report(read(folder), edition, MADE_AT, is_final=is_final))
    drawn, carded = page(content), card(content)
    signed = report_signature.sign(report_signature.statement(content, drawn, carded), KEY)
    return Made(content, drawn, carded, signed)


def figures(document: Any) -> Iterator[dict[str, Any]]:
    """Everything that has a value, wherever it stands."""
    if isinstance(document, dict):
        if "value" in document:
            yield document
        document = [*document.values()]
    if isinstance(document, list):
        for one in document:
            yield from figures(one)
