"""An institution's key for secure aggregation is its own, pinned in contracts, and no other without a person."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from lepton_client.agreeing import Desk, consider_offer, offered
from lepton_client.considering import Position
from lepton_client.contracts import Contracts, Offered, changed_identities
from lepton_client.home import Home
from lepton_client.identity import announced, identity_of
from lepton_client.refused import Refused
from lepton_client.unmasked_rounds import AnsweredRounds
from proposals import NOWHERE, SUMMED, policy, terms
from proposals import contract as contract_of

from lepton_fl.errors import ConfigError
from lepton_fl.federation.contract import Contract, to_bytes
from lepton_fl.federation.installed import installed_task
from lepton_fl.link import certificates, signature
from lepton_fl.link.certificates import BadCertificate, institution_uri, key_hash, to_pem
from lepton_fl.link.signature import Signed, Signer
from lepton_fl.secure_aggregation.keys import Identity, is_signed
from lepton_fl.secure_aggregation.refusals import Aborted
from lepton_fl.v1.federation_pb2 import Signature, Welcome

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AUTHORITY = certificates.new_authority("cardiology", NOW)
FEDERATION = key_hash(AUTHORITY.certificate.public_key()).hex()
OWN = "Hungary"


def operator() -> Signer:
    key = certificates.new_key()
    return Signer(key, certificates.sign_operator(AUTHORITY, key.public_key(), NOW))


def home_of(path: Path, name: str = OWN) -> Home:
    """A home with a certificate of this federation."""
    home, key = Home(path, name, ()), certificates.new_key()
    certificate = certificates.sign_institution(AUTHORITY, certificates.request_certificate(key), name, NOW)
    certificates.write_key(home.key, key)
    home.certificate.write_bytes(to_pem(certificate))
    return home


# -- the key


def test_the_key_is_made_once_for_its_owner_alone_and_stays(tmp_path: Path) -> None:
    home = Home(tmp_path, OWN, ())
    first = identity_of(home)
    path = tmp_path / "identity.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert identity_of(home).public == first.public
    signed = identity_of(home).sign("a label", b"a statement")
    assert is_signed(first.public, "a label", b"a statement", signed)
    (tmp_path / "other").mkdir()
    assert identity_of(Home(tmp_path / "other", OWN, ())).public != first.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    home = Home(tmp_path, OWN, ())
    identity_of(home)
    (tmp_path / "identity.key").chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o}\); nothing was sent; chmod 600 it"):
        identity_of(home)


@pytest.mark.parametrize("damage", [b"", b"ab\n", b"zz" * 32, b"ab" * 33, b"\xff\xfe"])
def test_a_damaged_key_is_refused_and_never_replaced(tmp_path: Path, damage: bytes) -> None:
    home = Home(tmp_path, OWN, ())
    identity_of(home)
    (tmp_path / "identity.key").write_bytes(damage)
    with pytest.raises(ConfigError, match="is not a key; nothing was sent; restore it from a backup"):
        identity_of(home)
    assert (tmp_path / "identity.key").read_bytes() == damage


def test_the_key_is_announced_under_the_certificates_signature_and_no_secret_with_it(tmp_path: Path) -> None:
    home = home_of(tmp_path)
    identity = identity_of(home)
    said = announced(home, identity)
    assert said.public_key == identity.public
    signed = Signed(said.signature.certificate, said.signature.value)
    signature.check(signed, signature.IDENTITY, identity.public, (institution_uri(OWN), AUTHORITY.certificate), NOW)
    with pytest.raises(BadCertificate):
        signature.check(signed, signature.CONTRACT, identity.public, (institution_uri(OWN), AUTHORITY.certificate), NOW)
    assert identity.secret_bytes() not in said.SerializeToString()


# -- which rounds were unmasked


def test_a_round_is_unmasked_once_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "answered" / "7"
    AnsweredRounds(path).mark(7, "train", 1)
    AnsweredRounds(path).mark(7, "evaluate", 1)
    AnsweredRounds(path).mark(7, "train", 2)
    for purpose, round in (("train", 1), ("evaluate", 1), ("train", 2)):
        with pytest.raises(Aborted) as refused:
            AnsweredRounds(path).mark(7, purpose, round)
        assert refused.value.name == "second unmask"
    AnsweredRounds(path).mark(7, "train", 12)  # of which "train 1" is the beginning
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_line_that_a_crash_cut_short_is_of_a_round_that_was_not_answered(tmp_path: Path) -> None:
    path = tmp_path / "7"
    AnsweredRounds(path).mark(7, "train", 1)
    with path.open("a") as file:
        file.write("7 trai")
    AnsweredRounds(path).mark(7, "train", 2)
    for round in (1, 2):
        with pytest.raises(Aborted):
            AnsweredRounds(path).mark(7, "train", round)


# -- keys in contracts


@dataclass
class Desks:
    """Hungary's desk in this folder, and contracts of four hospitals with their keys."""

    folder: Path
    accept: str = "by-policy"

    def __post_init__(self) -> None:
        self.identity = Identity.generate(lambda size: sha256(b"Hungary").digest()[:size])
        agreed = policy(self.folder, accept=self.accept, may_leave=["noised-update"])
        position = Position(agreed, {"heart": installed_task("heart", NOWHERE)}, None, torch.device("cpu"))
        key = certificates.new_key()
        own = certificates.sign_institution(AUTHORITY, certificates.request_certificate(key), OWN, NOW)
        self.contracts = Contracts(self.folder / "contracts")
        self.desk = Desk(
            self.contracts,
            position,
            (OWN, self.identity.public),
            AUTHORITY.certificate,
            lambda: Signer(key, own),
            lambda: NOW,
        )

    def contract(self, run_id: int, **others: bytes) -> Contract:
        made = contract_of(terms(**SUMMED))
        keys = {name.replace("_", " "): key.hex() for name, key in others.items()}
        identities = made.identities | {OWN: self.identity.public.hex()} | keys
        return replace(made, run_id=run_id, federation=FEDERATION, identities=identities)

    def welcome(self, contract: Contract) -> Offered:
        """The operator puts this contract before Hungary."""
        content = to_bytes(contract)
        signed = operator().sign(signature.CONTRACT, content)
        said = Signature(certificate=signed.certificate, value=signed.value)
        return offered(self.desk, Welcome(run_id=contract.run_id, contract=content, signature=said))

    def decided(self, contract: Contract) -> bool | None:
        """Whether it was accepted; None while a person has to look."""
        matter = consider_offer(self.desk, contract.run_id, self.welcome(contract).contract)
        return None if matter.decided is None else matter.decided.is_accepted


def test_a_contract_with_another_key_for_this_institution_is_refused(tmp_path: Path) -> None:
    desks = Desks(tmp_path)
    with pytest.raises(Refused, match="names another key for this institution than its own; nothing was read or sent"):
        desks.welcome(desks.contract(7, Hungary=bytes(32)))
    assert desks.contracts.runs() == []


def test_a_contract_that_a_stranger_signed_is_refused_whatever_keys_it_names(tmp_path: Path) -> None:
    desks = Desks(tmp_path)
    content = to_bytes(desks.contract(7))
    key = certificates.new_key()
    signed = Signer(key, operator().certificate).sign(signature.CONTRACT, content)
    said = Signature(certificate=signed.certificate, value=signed.value)
    with pytest.raises(BadCertificate):
        offered(desks.desk, Welcome(run_id=7, contract=content, signature=said))


def test_keys_that_stay_the_same_need_no_person(tmp_path: Path) -> None:
    desks = Desks(tmp_path)
    assert [desks.decided(desks.contract(run)) for run in (7, 8, 9)] == [True, True, True]


def test_a_key_that_changed_waits_for_a_person_who_can_compare_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desks = Desks(tmp_path)
    assert desks.decided(desks.contract(7))
    other = desks.contract(8, Switzerland=b"x" * 32)
    assert desks.decided(other) is None
    assert changed_identities(desks.contracts, other) == {"Switzerland": 7}
    said = "Switzerland has another key than in run 7; compare the fingerprints by telephone"
    assert said in [record.getMessage() for record in caplog.records]
    desks.contracts.accept(8, desks.desk.signer(), "maria", NOW)
    assert desks.decided(other) is True  # a person said so
    assert desks.decided(desks.contract(9, Switzerland=b"x" * 32)) is True  # and what they compared is known now
    assert desks.decided(desks.contract(10)) is None  # the key of before is another one again


def test_keys_of_a_contract_that_was_never_accepted_are_not_what_others_are_compared_with(tmp_path: Path) -> None:
    desks = Desks(tmp_path, accept="by-hand")
    assert desks.decided(desks.contract(7)) is None
    assert changed_identities(desks.contracts, desks.contract(8, Switzerland=b"x" * 32)) == {}
