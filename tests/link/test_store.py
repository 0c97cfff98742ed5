"""The operator's records: an invitation is spent once, a revoked member is none, and nothing is lost."""

from __future__ import annotations

import base64
import hashlib
import shutil
import sqlite3
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from lepton_server.store import Store, StoreError

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
WAIT_S = 20.0


def a_secret(number: int) -> bytes:
    return hashlib.sha256(f"secret {number}".encode()).digest()


def a_key(number: int) -> bytes:
    return hashlib.sha256(f"key {number}".encode()).digest()


def enrol(store: Store, secret: bytes, key: bytes, certificate: bytes = b"certificate", now: datetime = NOW) -> bytes:
    return store.enrol(secret, key, certificate, (now, now + timedelta(days=30)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "server.db"


@pytest.fixture
def store(path):
    opened = Store(path)
    yield opened
    opened.close()


# Against a model

NAMES = ["ash", "birch", "elm", "fir", "oak"]
UNKNOWN = 1_000_000  # the number of a secret that was never given out
# Two keys whose node ids are equal, and two whose node ids are the reserved 0 and 1.
TWINS = [bytes(7) + b"\x08" + b"a" * 24, bytes(7) + b"\x09" + b"b" * 24]
RESERVED = [bytes(32), bytes(7) + b"\x03" + bytes(24)]
KEYS = [a_key(0), a_key(1), a_key(2), *TWINS, *RESERVED]


def node_id_of(key: bytes) -> int:
    return int.from_bytes(key[:8], "big") // 2


class Records(RuleBasedStateMachine):
    """A store and, beside it, what it should say, in dictionaries."""

    secrets = Bundle("secrets")  # numbers of invitations

    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder / "server.db")
        self.now = NOW
        self.invitations = []  # each: name, end, withdrawn, spent_by; its place is its secret
        self.members = {}  # name: first key, key, certificate and its end, enrolled_at, revoked_at
        self.answers = 0

    def teardown(self):
        self.store.close()
        shutil.rmtree(self.folder)

    def open_for(self, name):
        return [
            found
            for found in self.invitations
            if found["name"] == name and not found["withdrawn"] and found["spent_by"] is None
        ]

    def refusal(self, number, key):
        """Why the store must refuse, as a word of its sentence; None where it must not."""
        if number == UNKNOWN or self.invitations[number]["withdrawn"]:
            return "unknown"
        found = self.invitations[number]
        if found["spent_by"] is not None:
            return None if found["spent_by"] == key else "used already"
        if self.now >= found["end"]:
            return "expired"
        taken = {node_id_of(member["first"]) for member in self.members.values()}
        if found["name"] not in self.members and node_id_of(key) in taken | {0, 1}:
            return "node id is taken"
        owners = {member["key"]: name for name, member in self.members.items()}
        return None if owners.get(key, found["name"]) == found["name"] else "another institution's"

    @rule(target=secrets, name=st.sampled_from(NAMES), hours=st.sampled_from([48, 24, 6]))
    def invite(self, name, hours):
        number, end = len(self.invitations), self.now + timedelta(hours=hours)
        if name in self.members and (self.members[name]["revoked_at"] or self.now < self.members[name]["end"]):
            word = "revoked" if self.members[name]["revoked_at"] else "member already"
            with pytest.raises(StoreError, match=word):
                self.store.invite(name, a_secret(UNKNOWN), end, self.now)
            return multiple()
        self.store.invite(name, a_secret(number), end, self.now)
        for earlier in self.open_for(name):
            earlier["withdrawn"] = True
        self.invitations.append({"name": name, "end": end, "withdrawn": False, "spent_by": None})
        return number

    @rule(number=secrets | st.just(UNKNOWN), key=st.sampled_from(KEYS))
    def enrol(self, number, key):
        self.enrol_with(number, key)

    @rule(number=secrets)
    def enrol_again_with_the_same_key(self, number):
        self.enrol_with(number, self.invitations[number]["spent_by"] or KEYS[0])

    @rule(number=secrets)
    def enrol_two_keys_with_one_secret(self, number):
        self.enrol_with(number, KEYS[1])
        self.enrol_with(number, KEYS[2])

    def enrol_with(self, number, key):
        self.answers += 1
        certificate = f"certificate {self.answers}".encode()
        word = self.refusal(number, key)
        if word is not None:
            with pytest.raises(StoreError, match=word):
                enrol(self.store, a_secret(number), key, certificate, self.now)
            return
        found = self.invitations[number]
        member = self.members.get(found["name"])
        if found["spent_by"] is not None and (member["revoked_at"] or member["key"] != key):
            with pytest.raises(StoreError, match="was revoked, or has another key since"):
                enrol(self.store, a_secret(number), key, certificate, self.now)
            return
        answer = enrol(self.store, a_secret(number), key, certificate, self.now)
        if found["spent_by"] is None:
            found["spent_by"] = key
            member = member or {"first": key, "enrolled_at": self.now, "revoked_at": None}
            member |= {"key": key, "certificate": certificate, "end": self.now + 30 * DAY}
            self.members[found["name"]] = member
        assert answer == member["certificate"]

    @rule(key=st.sampled_from(KEYS))
    def renew(self, key):
        self.answers += 1
        certificate, end = f"certificate {self.answers}".encode(), self.now + 30 * DAY
        owners = [one for one in self.members.values() if one["key"] == key and not one["revoked_at"]]
        if not owners:
            with pytest.raises(StoreError, match="not a member's, or was revoked"):
                self.store.renew(key, certificate, (self.now, end))
            return
        self.store.renew(key, certificate, (self.now, end))
        owners[0].update(certificate=certificate, end=end)

    @rule(name=st.sampled_from(NAMES))
    def revoke(self, name):
        waiting, member = self.open_for(name), self.members.get(name)
        if not waiting and (member is None or member["revoked_at"]):
            with pytest.raises(StoreError, match="no member or open invitation"):
                self.store.revoke(name, self.now)
            return
        self.store.revoke(name, self.now)
        for found in waiting:
            found["withdrawn"] = True
        if member is not None:
            member["revoked_at"] = self.now

    @rule(hours=st.sampled_from([1, 6, 31 * 24]))
    def wait(self, hours):
        self.now += timedelta(hours=hours)

    @rule()
    def reopen(self):
        self.store.close()
        self.store = Store(self.folder / "server.db")

    @invariant()
    def the_list_is_the_models(self):
        listed = {found.name: (found.enrolled_at, found.revoked_at) for found in self.store.institutions()}
        assert listed == {name: (member["enrolled_at"], member["revoked_at"]) for name, member in self.members.items()}

    @invariant()
    def a_key_is_a_members_until_it_is_revoked(self):
        owners = {member["key"]: name for name, member in self.members.items() if not member["revoked_at"]}
        for key in KEYS:
            found = self.store.member(key)
            assert (found.name if found else None) == owners.get(key)

    @invariant()
    def node_ids_are_the_first_keys_and_never_shared(self):
        ids = {found.name: found.node_id for found in self.store.institutions()}
        assert ids == {name: node_id_of(member["first"]) for name, member in self.members.items()}
        assert len(set(ids.values())) == len(ids)

    @invariant()
    def open_invitations_are_the_ones_that_could_be_used(self):
        usable = [
            (found["name"], found["end"]) for name in NAMES for found in self.open_for(name) if found["end"] > self.now
        ]
        assert [(found.institution, found.expires_at) for found in self.store.open_invitations(self.now)] == usable


Records.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestRecords = Records.TestCase


# One thing at a time


def test_an_invitation_makes_a_member_with_its_name(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    enrol(store, a_secret(0), a_key(0))
    found = store.member(a_key(0))
    assert (found.name, found.enrolled_at, found.revoked_at) == ("elm", NOW, None)


def test_a_repeat_by_the_same_key_gets_the_first_certificate_even_after_the_end(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    enrol(store, a_secret(0), a_key(0), b"first")
    assert enrol(store, a_secret(0), a_key(0), b"second", NOW + 2 * DAY) == b"first"
    assert len(store.institutions()) == 1


def test_an_invitation_used_by_another_key_says_to_tell_the_operator(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    enrol(store, a_secret(0), a_key(0))
    with pytest.raises(StoreError, match=r"used already.*tell the operator"):
        enrol(store, a_secret(0), a_key(1))
    assert store.member(a_key(1)) is None


def test_an_invitation_ends_at_its_end_and_not_a_moment_before(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    assert store.invited(a_secret(0), NOW + DAY - timedelta(microseconds=1)).institution == "elm"
    with pytest.raises(StoreError, match="expired"):
        store.invited(a_secret(0), NOW + DAY)


def test_an_end_in_another_time_zone_is_the_same_moment(store):
    far_east = timezone(timedelta(hours=13))
    store.invite("elm", a_secret(0), (NOW + DAY).astimezone(far_east), NOW.astimezone(far_east))
    assert [found.expires_at for found in store.open_invitations(NOW + DAY - timedelta(minutes=1))] == [NOW + DAY]
    assert store.open_invitations((NOW + DAY).astimezone(timezone(-timedelta(hours=9)))) == []


def test_a_newer_invitation_for_a_name_withdraws_the_older(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    store.invite("elm", a_secret(1), NOW + DAY, NOW)
    with pytest.raises(StoreError, match="replaced by a newer one"):
        store.invited(a_secret(0), NOW)
    assert store.invited(a_secret(1), NOW).institution == "elm"


def test_an_unknown_and_a_withdrawn_secret_hear_the_same(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    store.revoke("elm", NOW)
    heard = []
    for number in (0, 1):
        with pytest.raises(StoreError) as refused:
            store.invited(a_secret(number), NOW)
        heard.append(str(refused.value))
    assert heard[0] == heard[1]


def test_a_revoked_member_is_no_member_but_stays_on_the_list(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    enrol(store, a_secret(0), a_key(0))
    store.revoke("elm", NOW + DAY)
    assert store.member(a_key(0)) is None
    assert [(found.name, found.revoked_at) for found in store.institutions()] == [("elm", NOW + DAY)]


def test_a_key_of_a_revoked_member_cannot_come_back_under_another_name(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    enrol(store, a_secret(0), a_key(0))
    store.revoke("elm", NOW)
    store.invite("oak", a_secret(1), NOW + DAY, NOW)
    with pytest.raises(StoreError, match="nothing was enrolled"):
        enrol(store, a_secret(1), a_key(0))
    assert store.member(a_key(0)) is None


def test_a_member_is_invited_again_once_its_certificate_has_ended_and_not_a_moment_before(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    enrol(store, a_secret(0), a_key(0))
    with pytest.raises(StoreError, match="member already, with a certificate until 2026-03-31 12:00 UTC"):
        store.invite("elm", a_secret(1), NOW + 40 * DAY, NOW + 30 * DAY - timedelta(microseconds=1))
    store.invite("elm", a_secret(1), NOW + 40 * DAY, NOW + 30 * DAY)
    assert enrol(store, a_secret(1), a_key(0), b"second", NOW + 31 * DAY) == b"second"


def test_a_renewal_moves_the_moment_from_which_a_member_can_be_invited_again(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    enrol(store, a_secret(0), a_key(0))
    store.renew(a_key(0), b"second", (NOW + 20 * DAY, NOW + 50 * DAY))
    with pytest.raises(StoreError, match="member already"):
        store.invite("elm", a_secret(1), NOW + 40 * DAY, NOW + 31 * DAY)


def test_a_member_that_comes_back_with_another_key_keeps_its_node_id_and_loses_the_old_key(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    enrol(store, a_secret(0), a_key(0))
    before = store.member(a_key(0))
    store.invite("elm", a_secret(1), NOW + 40 * DAY, NOW + 31 * DAY)
    enrol(store, a_secret(1), a_key(1), now=NOW + 31 * DAY)
    assert (store.member(a_key(0)), store.member(a_key(1))) == (None, before)


def test_a_refused_key_leaves_the_invitation_open(store):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    with pytest.raises(StoreError, match="make another key"):
        enrol(store, a_secret(0), RESERVED[0])
    assert enrol(store, a_secret(0), a_key(0), b"now it works") == b"now it works"


# Two at a time


def together(*acts):
    """The results of functions started at the same moment, each in its thread; an error is a result."""
    start = threading.Barrier(len(acts), timeout=WAIT_S)

    def run(act):
        start.wait()
        try:
            return act()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts, timeout=WAIT_S))


def enrol_apart(path, secret, key, certificate):
    """Enrol over a connection of its own."""

    def act():
        own = Store(path)
        try:
            return enrol(own, secret, key, certificate)
        finally:
            own.close()

    return act


def test_of_two_who_enrol_with_one_secret_at_once_exactly_one_wins(path, store):
    for number in range(15):
        name, secret = f"elm {number}", a_secret(number)
        store.invite(name, secret, NOW + DAY, NOW)
        keys = [a_key(2 * number), a_key(2 * number + 1)]
        results = together(*(enrol_apart(path, secret, key, key) for key in keys))
        (won,) = [result for result in results if isinstance(result, bytes)]
        (lost,) = [result for result in results if not isinstance(result, bytes)]
        assert isinstance(lost, StoreError)
        assert "used already" in str(lost)
        assert [store.member(key) is not None for key in keys] == [key == won for key in keys]
    assert len(store.institutions()) == 15


def test_one_key_that_asks_twice_at_once_gets_one_certificate(path, store):
    for number in range(10):
        store.invite(f"elm {number}", a_secret(number), NOW + DAY, NOW)
        first, second = together(
            enrol_apart(path, a_secret(number), a_key(number), b"first"),
            enrol_apart(path, a_secret(number), a_key(number), b"second"),
        )
        assert first == second
        assert first in (b"first", b"second")


def test_a_new_file_can_be_opened_by_several_at_once(tmp_path):
    for number in range(10):
        path = tmp_path / f"{number}.db"
        results = together(*(lambda path=path: Store(path).close() for _ in range(4)))
        assert results == [None] * 4


def test_one_connection_sees_what_another_wrote(path, store):
    other = Store(path)
    try:
        store.invite("elm", a_secret(0), NOW + DAY, NOW)
        assert other.invited(a_secret(0), NOW).institution == "elm"
        other.revoke("elm", NOW)
    finally:
        other.close()
    assert store.open_invitations(NOW) == []


# The file


def test_a_file_that_is_opened_again_has_kept_everything(path):
    first = Store(path)
    first.invite("elm", a_secret(0), NOW + DAY, NOW)
    enrol(first, a_secret(0), a_key(0), b"elm's")
    first.invite("oak", a_secret(1), NOW + DAY, NOW)
    first.invite("birch", a_secret(2), NOW + DAY, NOW)
    enrol(first, a_secret(2), a_key(2), b"birch's")
    first.revoke("birch", NOW)
    before = (first.institutions(), first.open_invitations(NOW), first.member(a_key(0)))
    first.close()
    second = Store(path)
    try:
        assert (second.institutions(), second.open_invitations(NOW), second.member(a_key(0))) == before
        assert [found.name for found in second.institutions()] == ["birch", "elm"]
        assert enrol(second, a_secret(0), a_key(0), b"another") == b"elm's"
        assert second.member(a_key(2)) is None
    finally:
        second.close()


def test_what_was_answered_is_in_the_file_before_it_is_closed(path, store, tmp_path):
    store.invite("elm", a_secret(0), NOW + DAY, NOW)
    enrol(store, a_secret(0), a_key(0))
    copy = tmp_path / "after a crash"
    copy.mkdir()
    for part in tmp_path.glob("server.db*"):
        shutil.copy(part, copy / part.name)
    recovered = Store(copy / "server.db")
    try:
        assert recovered.member(a_key(0)).name == "elm"
    finally:
        recovered.close()


def test_no_secret_is_in_the_file(path, store):
    secret = a_secret(0)
    store.invite("elm", secret, NOW + DAY, NOW)
    enrol(store, secret, a_key(0))
    content = b"".join(part.read_bytes() for part in path.parent.glob("server.db*"))
    assert b"elm" in content
    encoded = base64.b64encode(secret).rstrip(b"=")
    for form in (secret, secret.hex().encode(), encoded, encoded.translate(bytes.maketrans(b"+/", b"-_"))):
        assert form not in content
    assert hashlib.sha256(secret).digest() not in content  # not even a hash that others could compute elsewhere


def test_no_secret_is_in_an_error(store):
    secret = a_secret(0)
    store.invite("elm", secret, NOW, NOW)
    for asked in (secret, a_secret(1)):
        with pytest.raises(StoreError) as refused:
            store.invited(asked, NOW)
        assert asked.hex() not in str(refused.value)
        assert repr(asked)[2:-1] not in str(refused.value)


def another_release(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE institutions (name TEXT)")
        db.execute("PRAGMA user_version = 2")
    db.close()


def another_programs(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()


def another_programs_with_our_version_number(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
        db.execute("PRAGMA user_version = 1")
    db.close()


def another_programs_with_one_of_our_tables(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE keys (anything TEXT)")
    db.close()


def not_sqlite(path):
    path.write_bytes(b"institution,key\nelm,1\n" * 100)


@pytest.mark.parametrize(
    "write",
    [
        another_release,
        another_programs,
        another_programs_with_our_version_number,
        another_programs_with_one_of_our_tables,
        not_sqlite,
    ],
)
def test_a_file_that_is_not_this_releases_is_refused_and_stays_as_it_was(path, write):
    write(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="nothing was changed"):
        Store(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_in_no_folder_is_refused_by_its_path(tmp_path):
    with pytest.raises(StoreError, match=r"cannot open .*missing"):
        Store(tmp_path / "missing" / "server.db")


def test_a_folder_in_place_of_the_file_is_refused(path):
    path.mkdir()
    with pytest.raises(StoreError, match="cannot open"):
        Store(path)
