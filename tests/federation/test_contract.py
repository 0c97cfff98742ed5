"""A contract has one form: what is signed is what is read, and what differs is named."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proposals import SUMMED, contract, terms

from lepton_fl.errors import ConfigError
from lepton_fl.federation.contract import differences, digest, from_bytes, must_leave, to_bytes
from lepton_fl.link import certificates, signature
from lepton_fl.link.certificates import BadCertificate
from lepton_fl.link.signature import Signed, Signer
from lepton_fl.privacy.units import InstitutionPrivacy, NoPrivacy

WHOLE = contract(terms())
MASKED = contract(terms(**SUMMED))
BYTES = to_bytes(WHOLE)
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_a_contract_comes_back_as_it_was() -> None:
    assert from_bytes(BYTES) == WHOLE
    assert digest(from_bytes(BYTES)) == digest(WHOLE)


def test_the_order_of_a_tables_columns_is_part_of_the_contract() -> None:
    columns = [*WHOLE.terms["task"]["columns"]]
    assert [*from_bytes(BYTES).terms["task"]["columns"]] == columns
    turned = {name: WHOLE.terms["task"]["columns"][name] for name in reversed(columns)}
    other = replace(WHOLE, terms={**WHOLE.terms, "task": {**WHOLE.terms["task"], "columns": turned}})
    assert digest(other) != digest(WHOLE)


@given(st.integers(0, len(BYTES) - 1), st.integers(1, 255))
def test_no_other_bytes_pass_for_the_same_contract(position: int, change: int) -> None:
    changed = bytearray(BYTES)
    changed[position] ^= change
    try:
        read = from_bytes(bytes(changed))
    except ConfigError:
        return
    assert read != WHOLE
    assert to_bytes(read) == bytes(changed)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b" " + BYTES,
        BYTES + b"\n",
        json.dumps(json.loads(BYTES), sort_keys=True).encode(),
        BYTES.replace(b'"run_id":7', b'"run_id":7,"run_id":7'),
        BYTES.replace(b'"run_id":7', b'"run_id":7.0'),
        BYTES.replace(b'"run_id":7', b'"run_id":true'),
        BYTES[:-1] + b',"more":1}',
        b"x" * ((1 << 20) + 1),
    ],
)
def test_another_form_is_no_contract(content: bytes) -> None:
    with pytest.raises(ConfigError, match="nothing was trained"):
        from_bytes(content)


@pytest.mark.parametrize(
    "lie",
    [
        {"unit": "patient"},
        {"neighbouring_relation": None},
        {"must_leave": ()},
        {"must_leave": ("plain-update",)},
        {"secure_aggregation": True},
        {"may_leave": ("everything",)},
        {"least_cohort": 5},
    ],
)
def test_a_summary_that_says_otherwise_than_the_terms_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="contract"):
        from_bytes(to_bytes(replace(WHOLE, **lie)))


@pytest.mark.parametrize(
    "lie",
    [
        {"secure_aggregation": False},
        {"identities": {}},
        {"identities": {name: key for name, key in MASKED.identities.items() if name != "Hungary"}},
        {"identities": {**MASKED.identities, "Zürich": "00" * 32}},
        {"identities": {**MASKED.identities, "Hungary": "00" * 31}},
        {"identities": {**MASKED.identities, "Hungary": "AB" * 32}},
        {"must_leave": ("summed-update",)},
    ],
)
def test_a_contract_of_sums_names_one_key_for_each_institution(lie: dict[str, Any]) -> None:
    assert from_bytes(to_bytes(MASKED)) == MASKED
    assert sorted(MASKED.identities) == sorted(MASKED.institutions)
    with pytest.raises(ConfigError, match="contract"):
        from_bytes(to_bytes(replace(MASKED, **lie)))


def test_a_contract_without_secure_aggregation_names_no_keys() -> None:
    assert WHOLE.identities == {}
    with pytest.raises(ConfigError, match="contract's identities"):
        from_bytes(to_bytes(replace(WHOLE, identities=MASKED.identities)))


def test_another_key_is_a_difference_by_the_institutions_name() -> None:
    other = replace(MASKED, identities={**MASKED.identities, "Hungary": "00" * 32})
    assert digest(other) != digest(MASKED)
    assert differences(MASKED, other) == [f'identities.Hungary: signed "{"01" * 32}", now "{"00" * 32}"']


def test_counts_are_asked_for_in_a_sum_where_updates_are_summed() -> None:
    assert (WHOLE.may_leave, MASKED.may_leave) == (("exact-counts",), ("summed-counts",))


def test_what_must_leave_follows_from_the_terms() -> None:
    assert must_leave(terms()) == ("noised-update",)
    assert must_leave(terms(seed=1)) == ("plain-update",)
    assert must_leave(terms(privacy=NoPrivacy())) == ("plain-update", "record-count")
    assert must_leave(terms(privacy=InstitutionPrivacy(1.0, 1e-4, 1.0))) == ("plain-update",)
    assert must_leave(terms(**SUMMED)) == ("noised-update",)
    assert must_leave(terms(noise="shared", **SUMMED)) == ("shared-noise-update",)
    assert must_leave(terms(seed=1, **SUMMED)) == ("summed-update",)
    assert must_leave(terms(seed=1, noise="shared", **SUMMED)) == ("summed-update",)
    assert must_leave(terms(privacy=NoPrivacy(), **SUMMED)) == ("summed-update",)


def test_differences_name_the_setting_as_people_write_it() -> None:
    other = contract(terms(rounds=40), least_cohort=2)
    assert differences(WHOLE, other) == ["rounds: signed 30, now 40", "least_cohort: signed 4, now 2"]
    assert differences(WHOLE, WHOLE) == []


# -- signatures


AUTHORITY = certificates.new_authority("cardiology", NOW)
STRANGER = certificates.new_authority("cardiology", NOW)


def operator(authority: certificates.Authority = AUTHORITY) -> Signer:
    key = certificates.new_key()
    return Signer(key, certificates.sign_operator(authority, key.public_key(), NOW))


def elm(name: str = "elm") -> Signer:
    key = certificates.new_key()
    return Signer(key, certificates.sign_institution(AUTHORITY, certificates.request_certificate(key), name, NOW))


def check(signed: Signed, domain: str = signature.CONTRACT, content: bytes = BYTES, now: datetime = NOW) -> None:
    signature.check(signed, domain, content, (signature.OPERATOR, AUTHORITY.certificate), now)


def test_the_operators_signature_holds_for_the_contract_alone() -> None:
    signed = operator().sign(signature.CONTRACT, BYTES)
    check(signed)
    with pytest.raises(BadCertificate, match="is not; nothing was agreed to"):
        check(signed, content=BYTES + b" ")
    with pytest.raises(BadCertificate, match="is not; nothing was agreed to"):
        check(signed, domain=signature.LEDGER_HEAD)


@pytest.mark.parametrize(
    ("signer", "said"),
    [
        (operator(STRANGER), "not by a member of this federation"),
        (elm(), "by another member"),
        (Signer(certificates.new_key(), operator().certificate), "is not; nothing was agreed to"),
    ],
)
def test_whoever_else_signs_is_refused(signer: Signer, said: str) -> None:
    with pytest.raises(BadCertificate, match=said):
        check(signer.sign(signature.CONTRACT, BYTES))


@pytest.mark.parametrize("later", [timedelta(days=398), -timedelta(days=1)])
def test_a_certificate_that_does_not_hold_now_signs_nothing(later: timedelta) -> None:
    with pytest.raises(BadCertificate, match="look at the clocks"):
        check(operator().sign(signature.CONTRACT, BYTES), now=NOW + later)


@pytest.mark.parametrize("signed", [Signed(b"", b""), Signed(b"x", b"y"), Signed(b"x" * 5000, b"y"), Signed(b"x", b"")])
def test_what_is_no_signature_is_refused(signed: Signed) -> None:
    with pytest.raises(BadCertificate):
        check(signed)


def test_a_signer_never_shows_its_key() -> None:
    assert repr(operator()) == "Signer(key withheld)"
