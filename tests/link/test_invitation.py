"""Invitations: whole or refused, in time or refused, and silent about their secret."""

from __future__ import annotations

import base64
import hashlib
import string
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given
from hypothesis import strategies as st

from lepton_fl.link import invitation
from lepton_fl.link.certificates import new_authority
from lepton_fl.link.invitation import BadInvitation, Invitation
from lepton_fl.v1.enrolment_pb2 import Invitation as Wire

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = bytes(range(100, 132))
CA = new_authority("cardiology", NOW).certificate
PREFIX = "lepton-invitation-1:"
URL_SAFE = string.ascii_letters + string.digits + "-_"


def an_invitation(institution="st-elm", addresses=("fl.example.org:7443",), expires_at=NOW + timedelta(hours=24)):
    return Invitation(institution, addresses, CA, SECRET, expires_at)


def text_of(body: bytes) -> str:
    """A line around any bytes, with the checksum that makes it look whole."""
    checksum = hashlib.sha256(b"lepton-fl/invitation" + body).digest()[:4]
    return PREFIX + base64.urlsafe_b64encode(body + checksum).decode().rstrip("=")


def a_wire(**fields) -> str:
    whole = {
        "institution": "st-elm",
        "addresses": ["fl.example.org:7443"],
        "ca_certificate": CA.public_bytes(serialization.Encoding.DER),
        "secret": SECRET,
        "expires_at": int((NOW + timedelta(hours=1)).timestamp()),
    }
    return text_of(Wire(**(whole | fields)).SerializeToString())


def is_refused(text: str) -> bool:
    try:
        invitation.from_text(text, NOW)
    except BadInvitation:
        return True
    return False


# There and back


@pytest.mark.parametrize("addresses", [("fl.example.org:7443",), ("10.0.0.7:7443", "[fd00::7]:7443", "localhost:1")])
def test_an_invitation_comes_back_from_its_text(addresses):
    sent = an_invitation(addresses=addresses)
    assert invitation.from_text(sent.to_text(), NOW) == sent


def test_an_invitation_is_one_line_without_spaces():
    text = an_invitation("St. Elm Hospital").to_text()
    assert text.startswith(PREFIX)
    assert set(text.removeprefix(PREFIX)) <= set(URL_SAFE)


def test_a_text_written_by_hand_after_the_format_is_read():
    assert invitation.from_text(a_wire(), NOW) == an_invitation(expires_at=NOW + timedelta(hours=1))


def test_an_end_in_another_time_zone_is_the_same_moment():
    summer = timezone(timedelta(hours=2))
    sent = an_invitation(expires_at=datetime(2026, 3, 2, 14, 0, tzinfo=summer))
    assert invitation.from_text(sent.to_text(), NOW).expires_at == datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@given(st.lists(st.tuples(st.integers(0, 2000), st.sampled_from([" ", "\n", "\r\n", "\t", "\n  "])), max_size=20))
def test_white_space_and_line_breaks_anywhere_do_no_harm(breaks):
    text = an_invitation().to_text()
    for place, space in breaks:
        cut = place % (len(text) + 1)
        text = text[:cut] + space + text[cut:]
    assert invitation.from_text(text, NOW) == an_invitation()


def test_a_new_secret_has_256_bits_and_never_comes_twice():
    secrets = {invitation.new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert {len(secret) for secret in secrets} == {32}


# Time


def test_an_invitation_can_be_used_until_a_second_before_its_end():
    end = NOW + timedelta(hours=24)
    text = an_invitation(expires_at=end).to_text()
    assert invitation.from_text(text, end - timedelta(seconds=1)).institution == "st-elm"


@pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=1), timedelta(days=400)])
def test_an_invitation_past_its_end_says_when_that_was_and_what_to_ask_for(late):
    end = NOW + timedelta(hours=24)
    text = an_invitation(expires_at=end).to_text()
    with pytest.raises(BadInvitation, match=r"expired at 2026-03-02 12:00 UTC.*ask the operator for another"):
        invitation.from_text(text, end + late)


# Damage

# One, two and three more bytes: base64 ends on a full group, on two characters and on three.
LENGTHS = ["a1", "a12", "a123"]


@pytest.mark.parametrize("institution", LENGTHS)
def test_every_single_character_changed_is_refused(institution):
    text = an_invitation(institution).to_text()
    accepted = [
        (place, text[place], other)
        for place in range(len(text))
        for other in URL_SAFE + "+/=. !:"
        if other != text[place] and not is_refused(text[:place] + other + text[place + 1 :])
    ]
    assert accepted == []


@given(st.sampled_from(LENGTHS), st.integers(0, 2000), st.characters())
def test_any_character_in_place_of_another_is_refused(institution, place, other):
    text = an_invitation(institution).to_text()
    place %= len(text)
    if other != text[place]:
        assert is_refused(text[:place] + other + text[place + 1 :])


@pytest.mark.parametrize("institution", LENGTHS)
def test_every_single_character_left_out_is_refused(institution):
    text = an_invitation(institution).to_text()
    accepted = [place for place in range(len(text)) if not is_refused(text[:place] + text[place + 1 :])]
    assert accepted == []


@pytest.mark.parametrize("institution", LENGTHS)
def test_every_text_cut_short_is_refused(institution):
    text = an_invitation(institution).to_text()
    assert [end for end in range(len(text)) if not is_refused(text[:end])] == []
    assert [start for start in range(1, len(text) + 1) if not is_refused(text[start:])] == []


@pytest.mark.parametrize("institution", LENGTHS)
def test_every_two_neighbours_swapped_are_refused(institution):
    text = an_invitation(institution).to_text()
    accepted = [
        place
        for place in range(len(text) - 1)
        if text[place] != text[place + 1]
        and not is_refused(text[:place] + text[place + 1] + text[place] + text[place + 2 :])
    ]
    assert accepted == []


@pytest.mark.parametrize("institution", LENGTHS)
@pytest.mark.parametrize("more", ["A", "AAAA", "=AAAA", "==AAAA", "====AAAA", "!", "é"])
def test_an_invitation_with_more_text_behind_it_is_refused(institution, more):
    assert is_refused(an_invitation(institution).to_text() + more)


def test_a_mistyped_invitation_says_to_copy_it_again():
    text = an_invitation().to_text()
    other = "A" if text[100] != "A" else "B"
    with pytest.raises(BadInvitation, match=r"mistyped.*copy the whole line again"):
        invitation.from_text(text[:100] + other + text[101:], NOW)


def test_another_text_says_how_an_invitation_begins():
    with pytest.raises(BadInvitation, match="begins with lepton-invitation-1:"):
        invitation.from_text("hello", NOW)


@given(st.text())
@example("")
@example("\ud800")
@example(PREFIX + "\ud800")
@example("x" * 100_000)
def test_random_text_is_refused_and_nothing_else(text):
    for whole in (text, PREFIX + text):
        with pytest.raises(BadInvitation):
            invitation.from_text(whole, NOW)


@given(st.text(alphabet=URL_SAFE + "="))
def test_random_letters_after_the_prefix_are_refused(text):
    with pytest.raises(BadInvitation):
        invitation.from_text(PREFIX + text, NOW)


@given(st.binary())
def test_random_bytes_with_the_right_checksum_are_refused(body):
    with pytest.raises(BadInvitation):
        invitation.from_text(text_of(body), NOW)


@given(st.integers(-(2**63), 2**63 - 1))
@example(-(2**63))
@example(2**63 - 1)
@example(253402300800)  # the year 10000
def test_any_end_is_read_or_refused(expires_at):
    if is_refused(a_wire(expires_at=expires_at)):
        assert expires_at <= NOW.timestamp() or expires_at >= 253402300800
    else:
        assert NOW.timestamp() < expires_at < 253402300800


@given(st.binary())
def test_a_certificate_of_random_bytes_is_refused(content):
    with pytest.raises(BadInvitation):
        invitation.from_text(a_wire(ca_certificate=content), NOW)


@pytest.mark.parametrize(
    "fields", [{"secret": b""}, {"secret": SECRET[:31]}, {"secret": SECRET * 2}, {"addresses": []}]
)
def test_an_invitation_without_a_whole_secret_or_an_address_is_refused(fields):
    with pytest.raises(BadInvitation, match="not complete"):
        invitation.from_text(a_wire(**fields), NOW)


def test_a_text_longer_than_any_invitation_is_refused():
    with pytest.raises(BadInvitation):
        invitation.from_text(an_invitation(addresses=("a" * 60 + ":1",) * 200).to_text(), NOW)


# Names

GOOD = ["a", "A", "7", "ab", "st-elm", "St. Elm", "st_elm", "a.b", "a" * 64, "1-2"]
BAD = [
    pytest.param("", id="empty"),
    pytest.param("a" * 65, id="65 characters"),
    pytest.param(".st-elm", id="leading dot"),
    pytest.param("..", id="parent folder"),
    pytest.param("-rf", id="leading dash"),
    pytest.param(" st-elm", id="leading space"),
    pytest.param("st-elm ", id="trailing space"),
    pytest.param("st-elm.", id="trailing dot"),
    pytest.param("a/b", id="slash"),
    pytest.param("../etc", id="path"),
    pytest.param("a\\b", id="backslash"),
    pytest.param("a\x00b", id="null"),
    pytest.param("a\nb", id="line break"),
    pytest.param("st-elm\n", id="trailing line break"),
    pytest.param("a\tb", id="tab"),
    pytest.param("a\x1b[31mb", id="terminal colours"),
    pytest.param("a\x7fb", id="delete"),
    pytest.param("klinik-köln", id="umlaut"),
    pytest.param("st\u202eelm", id="right to left"),
    pytest.param("\u0661\u0662", id="Arabic digits"),
    pytest.param("st\u00a0elm", id="space that does not break"),
    pytest.param("a:b", id="colon"),
    pytest.param("a,b", id="comma"),
    pytest.param("a'b", id="quote"),
]


@pytest.mark.parametrize("name", GOOD)
def test_a_name_for_certificates_tables_and_files_is_allowed(name):
    assert invitation.check_name(name) == name


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_could_mislead_is_refused(name):
    with pytest.raises(BadInvitation, match="letters, digits"):
        invitation.check_name(name)


@pytest.mark.parametrize("name", BAD)
def test_an_invitation_with_such_a_name_is_refused_too(name):
    with pytest.raises(BadInvitation):
        invitation.from_text(a_wire(institution=name), NOW)


def test_an_invited_institution_is_told_what_it_can_do_about_a_bad_name():
    with pytest.raises(BadInvitation) as refused:
        invitation.from_text(a_wire(institution="../etc"), NOW)
    assert "nothing was sent" in str(refused.value)
    assert "nobody was invited" not in str(refused.value)


@given(st.text(max_size=80))
def test_an_allowed_name_is_always_short_and_ascii_without_separators(name):
    try:
        invitation.check_name(name)
    except BadInvitation:
        return
    assert 1 <= len(name) <= 64
    assert name.isascii()
    assert name[0].isalnum()
    assert not set(name) & set("/\\\x00\n:")


@given(st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?", fullmatch=True))
def test_every_allowed_name_survives_the_trip(name):
    assert invitation.from_text(an_invitation(name).to_text(), NOW).institution == name


# Silence


def forms(secret: bytes) -> list[str]:
    """Every usual way to write a secret down."""
    encoded = base64.b64encode(secret).decode().rstrip("=")
    return [repr(secret)[2:-1], secret.decode("latin-1"), secret.hex(), encoded, encoded.translate({43: 45, 47: 95})]


def test_the_secret_is_not_shown_with_the_invitation():
    sent = an_invitation()
    for shown in (repr(sent), str(sent), f"{sent}", repr([sent])):
        assert "st-elm" in shown
        assert [form for form in forms(SECRET) if form in shown] == []


def refused_texts() -> list[str]:
    text = an_invitation().to_text()
    other = "A" if text[100] != "A" else "B"
    return [
        text[1:],
        text[:-3],
        text[:100] + other + text[101:],
        an_invitation(expires_at=NOW).to_text(),
        a_wire(institution="../etc"),
        a_wire(addresses=[]),
        a_wire(ca_certificate=SECRET),
        a_wire(expires_at=2**62),
        a_wire(secret=SECRET + b"!"),
        text_of(SECRET),
    ]


@pytest.mark.parametrize("number", range(len(refused_texts())))
def test_no_error_repeats_the_secret_or_the_text(number):
    text = refused_texts()[number]
    with pytest.raises(BadInvitation) as refused:
        invitation.from_text(text, NOW)
    shown = f"{refused.value}{refused.value!r}{refused.value.__cause__!r}"
    assert [form for form in forms(SECRET) if form in shown] == []
    body = text.rpartition(":")[2]
    assert [body[place : place + 12] for place in range(len(body) - 11) if body[place : place + 12] in shown] == []
