"""Whatever is changed of a report, its page, its card, its model or its signature is found, and where."""

from __future__ import annotations

import json
import random

import pytest
import report_folder
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from report_folder import KEY, MODEL, Key, Made

from lepton_fl.evidence import canonical, report_signature
from lepton_fl.evidence.report_check import check

PUBLIC = KEY.private.public_key()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return report_folder.make(report_folder.write(tmp_path_factory.mktemp("run")))


def flipped(content: bytes, at: int, bit: int = 0) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def test_what_was_signed_is_found_as_it_was(made: Made) -> None:
    assert check(made.files(), PUBLIC) == []


@pytest.mark.parametrize("name", ["report", "page", "card", "model", "signature"])
def test_any_flipped_bit_is_found_in_its_own_file(made: Made, name: str) -> None:
    content = {"report": made.report, "page": made.page, "card": made.card, "model": MODEL, "signature": made.signature}
    file = {"report": "report.json", "page": "report.html", "card": "model_card.md", "model": "model.safetensors",
            "signature": "report.json.sig"}[name]  # fmt: skip
    draw = random.Random(7)  # noqa: S311 - which bytes a test changes
    for _ in range(30 if name != "signature" else 100):
        at = draw.randrange(len(content[name]))
        found = check(made.files(**{name: flipped(content[name], at, draw.randrange(8))}), PUBLIC)
        assert [one.file for one in found] == [file], at
        assert found[0].place


def test_a_changed_value_is_named_by_its_place_and_its_name(made: Made) -> None:
    changed = made.report.replace(b'"value":"1.0000"', b'"value":"0.1000"', 1)
    assert changed != made.report
    found = check(made.files(report=changed), PUBLIC)
    assert str(found[0]) == (
        "report.json, /sections/0/blocks/0/facts/4 (verdict.epsilon): it is not what was signed"
    )  # fmt: skip


def test_a_row_that_was_taken_away_is_named(made: Made) -> None:
    document = json.loads(made.report)
    rows = next(block for block in document["sections"][6]["blocks"] if block.get("id") == "gaps")["rows"]
    del rows[-1]
    found = check(made.files(report=json.dumps(document, separators=(",", ":"), sort_keys=True).encode()), PUBLIC)
    assert "/sections/6/blocks/2/rows/1" in found[0].place


def test_the_byte_of_a_changed_page_is_named(made: Made) -> None:
    found = check(made.files(page=flipped(made.page, 1234)), PUBLIC)
    assert found[0].place == "byte 1234"


def test_a_page_that_is_cut_off_is_named_where_it_ends(made: Made) -> None:
    found = check(made.files(page=made.page[:-10]), PUBLIC)
    assert found[0].place == f"byte {len(made.page) - 10}"


def test_the_tensor_of_a_changed_model_is_named(made: Made) -> None:
    found = check(made.files(model=flipped(MODEL, len(MODEL) - 1)), PUBLIC)
    assert found[0].place == "tensor linear.weight"


def test_another_form_of_the_same_report_is_found(made: Made) -> None:
    changed = made.report.replace(b'"ci":null', b'"ci": null', 1)
    assert check(made.files(report=changed), PUBLIC)[0].place == f"byte {made.report.index(b'null,')}"


def test_another_key_signed_nothing(made: Made) -> None:
    other = Key(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    found = check(made.files(), other.private.public_key())
    assert [one.file for one in found] == ["report.json.sig"]
    again = report_signature.sign(report_signature.read(made.signature).statement, other)
    assert check(made.files(signature=again), PUBLIC)


def test_a_page_that_was_signed_but_says_something_else_is_found(made: Made) -> None:
    forged = made.page.replace(b"0.800", b"0.900", 1)
    signed = report_signature.sign(report_signature.statement(made.report, forged, made.card), KEY)
    found = check(made.files(page=forged, signature=signed), PUBLIC)
    assert [(one.file, one.place) for one in found] == [("report.html", f"byte {made.page.index(b'0.800') + 2}")]


def test_a_signature_without_its_domain_does_not_stand_for_a_report(made: Made) -> None:
    document = json.loads(made.signature)
    bare = KEY.private.sign(canonical.to_bytes(document["statement"])).hex()
    again = canonical.to_bytes({**document, "signature": bare})
    assert check(made.files(signature=again), PUBLIC)[0].file == "report.json.sig"


@pytest.mark.parametrize("junk", [b"", b"{}", b"[]", b"null", b"\xff", b'{"statement":1}', b"[" * 5000])
def test_junk_in_place_of_any_file_is_a_finding_and_no_crash(made: Made, junk: bytes) -> None:
    for name in ("report", "page", "card", "model", "signature", "log"):
        assert check(made.files(**{name: junk}), PUBLIC), name
