"""Sections 1 to 3: what the model is for, how it was made, from which data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from lepton_fl.evidence import model_facts
from lepton_fl.evidence.blocks import Block, Fact, Facts, Prose, Row, Section, Table
from lepton_fl.evidence.shown import Origin, Plain, Shown, absent, number, said
from lepton_fl.evidence.sources import Sources

NO_CONTRACT = "a simulation has no contract; the terms are in the command that was typed"
_MOST_TENSORS = 64

# Of the terms, what is said elsewhere in a better form, or must stay with those who signed.
_ELSEWHERE = ("task.columns", "task.title", "holdout.key")


def human(sources: Sources, *names: str) -> tuple[Fact, ...]:
    """Fields that people filled in."""
    return tuple(
        Fact(f"human.{name}", name.replace("_", " "), _human(sources, name)) for name in names or model_facts.FIELDS
    )


def _human(sources: Sources, name: str) -> Shown:
    if not sources.facts[name]:
        return absent(f"nobody filled it in: {model_facts.FIELDS[name]}", model_facts.NAME)
    return said(sources.facts[name], model_facts.NAME)


def purpose(sources: Sources) -> Section:
    """Section 1."""
    signed = (sources.contract or {}).get("purpose") or {}
    agreed = tuple(
        Fact(f"purpose.{name}", what, _agreed(sources, signed.get(name), unit))
        for name, what, unit in (
            ("purpose", "purpose, as signed", ""),
            ("retention_days", "results are kept for", "days"),
        )
    )
    names = ("provider", "intended_use", "intended_users", "out_of_scope", "people_affected", "known_risks")
    return Section(
        "1", "Purpose", "What is the model for, what not, and whom does it concern?",
        (Facts("Use", human(sources, *names)), Facts("To turn to", human(sources, "contact", "complaints")),
         Facts("In the contract", agreed)),
    )  # fmt: skip


def _agreed(sources: Sources, value: object, unit: str = "") -> Shown:
    if sources.contract is None:
        return absent(NO_CONTRACT, "contract.json")
    return said(value, "contract.json", unit).at(sources.logged("run"))


def making(sources: Sources) -> Section:
    """Section 2."""
    result = sources.result
    where = sources.from_run()
    rows = tuple(Row((name, text), ()) for name, text in _settings(sources))
    blocks: list[Block] = [
        Facts("Model and training", (
            Fact("model.task", "task", said(result.get("task"), "result.json")),
            Fact("model.kind", "architecture", said(result.get("model"), "result.json")),
            Fact("model.parameters", "trained numbers", number(result.get("parameters"), where, 0)),
            Fact("model.strategy", "strategy", said(result.get("strategy"), "result.json")),
            Fact("model.rounds", "rounds", number(result.get("rounds"), where, 0)),
            Fact("model.seed", "seed", _seed(sources)),
            Fact("model.file", "SHA-256 of the model file", said(result.get("model_sha256"), "result.json")
                 .at(sources.logged("run-ended"))),
            Fact("model.contract", "SHA-256 of the contract", _contract_hash(sources)),
            Fact("model.version", "Lepton FL", said(result.get("version"), "result.json")),
            *human(sources, "changes"),
        )),
    ]  # fmt: skip
    blocks += [_tensors(sources.model)] if sources.model is not None else []
    blocks += [_software(sources)] if sources.contract is not None else []
    note = "" if rows else f"Not measured: {NO_CONTRACT}."
    blocks.append(Table("settings", "Settings that everyone signed", ("setting", "value"), (), rows, note))
    return Section("2", "Model", "What was trained, by which method, with which software?", tuple(blocks))


def _seed(sources: Sources) -> Shown:
    if sources.result.get("seed") is None:
        return said("none: nobody can repeat the noise", "result.json")
    return said(sources.result["seed"], "result.json")


def _contract_hash(sources: Sources) -> Shown:
    if sources.contract is None:
        return absent(NO_CONTRACT, "contract.json")
    content = json.dumps(sources.contract, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
    return said(hashlib.sha256(content).hexdigest(), "contract.json").at(sources.logged("run"))


def tensors(model: bytes) -> list[tuple[str, str, str]]:
    """Name, shape and SHA-256 of each tensor in a safetensors file.

    Source: the safetensors format: 8 bytes of length, a JSON header, the tensors' bytes.
    """
    length = int.from_bytes(model[:8], "little")
    header = json.loads(model[8 : 8 + length])
    body = model[8 + length :]
    return [
        (name, f"{one['dtype']} {'×'.join(map(str, one['shape'])) or 'scalar'}", _sha256(body, one["data_offsets"]))
        for name, one in header.items()
        if name != "__metadata__"
    ]


def _sha256(body: bytes, offsets: list[int]) -> str:
    return hashlib.sha256(body[offsets[0] : offsets[1]]).hexdigest()


def _tensors(model: bytes) -> Table:
    found = tensors(model)
    rows = tuple(Row(one, ()) for one in found[:_MOST_TENSORS])
    note = "" if len(found) <= _MOST_TENSORS else f"{len(found) - _MOST_TENSORS} further tensors are not listed."
    return Table("tensors", "Parts of the model file", ("tensor", "shape", "SHA-256"), (), rows, note)


def _software(sources: Sources) -> Table:
    versions = (sources.contract or {}).get("software") or {}
    rows = tuple(Row((name, str(version)), ()) for name, version in sorted(versions.items()))
    return Table("software", "Software of the operator", ("package", "version"), (), rows)


def _settings(sources: Sources) -> Iterator[tuple[str, str]]:
    for name, value in _leaves(sources.terms, "") if sources.terms else ():
        if not any(name == other or name.startswith(f"{other}.") for other in _ELSEWHERE):
            yield name, value if isinstance(value, str) else json.dumps(value)


def _leaves(document: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict) and document:
        for name, value in document.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, document


def data(sources: Sources, *, with_names: bool) -> Section:
    """Section 3."""
    who = [str(name) for name in sources.result.get("institutions", ())]
    blocks: list[Block] = [
        Facts("Origin and split", (
            Fact("data.institutions", "institutions", number(len(who), sources.from_run(), 0)),
            Fact("data.sizes", "records of each institution", absent(
                "exact numbers of records do not leave an institution; ask it for its own edition")),
            *_split(sources),
            *human(sources, "data_origin", "legal_basis"),
        )),
    ]  # fmt: skip
    if with_names:
        rows = tuple(Row((name,), ()) for name in who)
        blocks.append(Table("members", "Institutions that took part", ("institution",), (), rows))
    else:
        blocks.append(Prose("", ("Institutions are named in the consortium's edition alone.",)))
    columns = (sources.terms.get("task") or {}).get("columns")
    if isinstance(columns, dict):
        blocks.append(_columns(columns))
    return Section(
        "3", "Data", "Which records was it trained and tested on, and how were they prepared?", tuple(blocks)
    )


def _split(sources: Sources) -> tuple[Fact, ...]:
    if not sources.terms:
        missing = absent(NO_CONTRACT, "contract.json")
        return (Fact("data.schema", "SHA-256 of the schema", missing), Fact("data.holdout", "held out", missing))
    task, holdout = sources.terms.get("task") or {}, sources.terms.get("holdout") or {}
    schema = json.dumps(task, sort_keys=True, separators=(",", ":")).encode()
    where = Origin("contract.json", None, sources.logged("run"))
    tune = holdout.get("tune")
    return (
        Fact("data.schema", "SHA-256 of the schema", said(hashlib.sha256(schema).hexdigest(), "contract.json")),
        Fact("data.sensitive", "sensitive attributes", said(", ".join(task.get("sensitive") or ()), "contract.json")),
        Fact("data.holdout", "held out, of people", number(holdout.get("share"), where, 3)),
        *((Fact("data.tune", "held out for choices while training", number(tune, where, 3)),) if tune else ()),
        Fact("data.split", "how", said(
            "by a keyed hash of the person's identifier: the same people in every run", "contract.json")),
    )  # fmt: skip


def _columns(columns: Plain) -> Table:
    rows = []
    for name, column in columns.items():
        if column.get("values"):
            bounds = ", ".join(map(str, column["values"]))
        else:
            bounds = f"{column.get('low')} to {column.get('high')} {column.get('unit') or ''}".strip()
        rows.append(Row((str(name), str(column.get("kind")), bounds), ()))
    note = "Scaled by declared bounds, never by the data; a missing value has an indicator of its own."
    return Table("columns", "What the model reads of a record", ("column", "kind", "declared"), (), tuple(rows), note)
