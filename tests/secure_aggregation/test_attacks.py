"""A malicious operator or institution plays each attack of `docs/secure-aggregation.md`, and is refused by its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attempts import Attempt, Remembered, agreed, identities, names, seeded, words_of

from lepton_fl.secure_aggregation import shamir
from lepton_fl.secure_aggregation.agreement import pair_stream, self_stream
from lepton_fl.secure_aggregation.cohort import threshold
from lepton_fl.secure_aggregation.keys import Identity, mask_key
from lepton_fl.secure_aggregation.masks import add_masks
from lepton_fl.secure_aggregation.member import Member
from lepton_fl.secure_aggregation.messages import (
    Advert,
    Echo,
    Echoes,
    Inbox,
    Roster,
    RoundParams,
    Shares,
    Survivors,
    Unmask,
    UploadHeader,
    signed,
)
from lepton_fl.secure_aggregation.packing import add_packed
from lepton_fl.secure_aggregation.packing import signed as integers
from lepton_fl.secure_aggregation.refusals import Aborted, FalseShares

OPERATORS_OWN = Identity.generate(seeded("a key of the operator's"))


@contextmanager
def refused(name: str, *members: Member) -> Iterator[None]:
    """By this name; and whoever refused knows nothing more."""
    with pytest.raises(Aborted) as caught:
        yield
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)
    for member in members:
        assert member._state is None
        with pytest.raises(Aborted) as again:
            member.share(b"")
        assert again.value.name == "burned"


class OnDisk:
    """Answered rounds in a file, each line synced before `mark` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self, run_id: int, purpose: str, round: int) -> None:
        line = f"{run_id} {purpose} {round}"
        if self.path.exists() and line in self.path.read_text().splitlines():
            raise Aborted("second unmask")
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


# R0: parameters


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("run_id", 8, "other run"),
        ("contract", b"c" * 32, "other contract"),
        ("purpose", "evaluation", "other purpose"),
        ("round", 2, "other round"),
        ("model_sha256", b"x" * 32, "other model"),
        ("schema_sha256", b"x" * 32, "other schema"),
        ("length", 6, "other length"),
        ("wire_bits", 32, "other ring"),
        ("wire_bits", 1, "other ring"),
    ],
)
def test_parameters_that_were_not_agreed_to_are_refused_by_their_field(field: str, value: Any, name: str) -> None:
    attempt = Attempt(4)
    other = replace(attempt.params, **{field: value})
    with refused(name, attempt.members["h00"]):
        attempt.members["h00"].advertise(other.to_bytes())


def test_another_model_for_one_institution_shows_in_the_others_adverts() -> None:
    attempt = Attempt(4)
    adverts = attempt.advertised(without=["h01"])
    other = replace(attempt.params, model_sha256=b"x" * 32)
    adverts["h01"] = attempt.member("h01", model_sha256=b"x" * 32).advertise(other.to_bytes())
    with refused("other parameters", attempt.members["h00"]):
        attempt.members["h00"].share(roster_of(adverts))


def test_a_replayed_round_is_refused() -> None:
    """The parameters of round 1, and then every message of an earlier attempt, in round 2."""
    earlier, now = Attempt(4), Attempt(4, round=2)
    with refused("other round"):
        now.members["h00"].advertise(earlier.params.to_bytes())
    first, second = Attempt(4), Attempt(4, attempt=2)
    roster = first.rostered()
    second.advertised()
    with refused("own entry altered"):
        second.members["h00"].share(roster)
    first, second = Attempt(4), Attempt(4, attempt=2)
    inboxes = first.received()
    second.shared()
    with refused("other roster"):
        second.members["h00"].receive(inboxes["h00"])
    first, second = Attempt(4), Attempt(4, attempt=2)
    survivors = first.masked()
    second.masked()
    with refused("other roster"):
        second.members["h00"].echo(survivors)


@pytest.mark.parametrize("few", [["h00", "h01", "h02"], []])
def test_a_low_threshold_cannot_be_proposed_by_a_small_cohort(few: list[str]) -> None:
    """The threshold is in no message; announcing three of the contract's ten, to have three suffice, is refused."""
    assert not {field.name for field in fields(RoundParams)} & {"threshold", "max_corrupt"}
    attempt = Attempt(10)
    with refused("other cohort", attempt.members["h00"]):
        attempt.members["h00"].advertise(replace(attempt.params, cohort=tuple(few)).to_bytes())


@pytest.mark.parametrize(("count", "least"), [(2, 0), (2, 2), (4, 5)])
def test_a_cohort_below_the_institutions_policy_is_refused_even_if_the_contract_names_it(
    count: int, least: int
) -> None:
    own = identities(names(count))
    terms = agreed({name: identity.public for name, identity in own.items()}, least_cohort=least)
    member = Member("h00", own["h00"], terms, seeded("coins"))
    params = Attempt(3).params
    with refused("small cohort", member):
        member.advertise(replace(params, cohort=tuple(own)).to_bytes())


def test_one_key_under_two_names_is_refused() -> None:
    own = identities(names(4))
    terms = agreed({name: own["h00" if name == "h03" else name].public for name in own})
    member = Member("h01", own["h01"], terms, seeded("coins"))
    with refused("duplicate identity", member):
        member.advertise(Attempt(4).params.to_bytes())


def test_whoever_is_not_in_the_contract_takes_no_part() -> None:
    attempt = Attempt(4)
    with refused("not in the contract"):
        Member("h00", OPERATORS_OWN, attempt.agreed, seeded("coins"))


def test_a_ring_that_does_not_exist_is_refused_even_if_it_was_agreed_to() -> None:
    with refused("other ring"):
        Attempt(4).member("h00", wire_bits=16)


# R1: the roster


def roster_of(adverts: dict[str, bytes]) -> bytes:
    """A roster as a malicious operator writes it: of whatever it likes, in the order of these names."""
    return Roster(tuple(Advert.from_bytes(adverts[name]) for name in sorted(adverts))).to_bytes()


def test_swapped_keys_are_refused() -> None:
    for by in ("nobody", "operator"):
        attempt = Attempt(4)
        adverts = attempt.advertised()
        swapped = replace(Advert.from_bytes(adverts["h01"]), mask_public=b"\x09" + bytes(31))
        adverts["h01"] = (swapped if by == "nobody" else signed(swapped, OPERATORS_OWN)).to_bytes()
        with refused("swapped key", attempt.members["h00"]):
            attempt.members["h00"].share(roster_of(adverts))


def test_an_institution_under_another_ones_name_is_refused() -> None:
    attempt = Attempt(4)
    adverts = attempt.advertised(without=["h01"])
    puppet = replace(Advert.from_bytes(adverts["h02"]), institution="h01", mask_public=b"\x09" + bytes(31))
    adverts["h01"] = attempt.signed_by("h02", puppet).to_bytes()
    with refused("swapped key", attempt.members["h00"]):
        attempt.members["h00"].share(roster_of(adverts))


def test_an_added_roster_entry_is_refused() -> None:
    attempt = Attempt(4)
    adverts = attempt.advertised()
    puppet = replace(Advert.from_bytes(adverts["h01"]), institution="h99")
    adverts["h99"] = signed(puppet, OPERATORS_OWN).to_bytes()
    with refused("unknown institution", attempt.members["h00"]):
        attempt.members["h00"].share(roster_of(adverts))


@pytest.mark.parametrize(
    ("missing", "name"), [(["h00"], "missing from the roster"), (["h06", "h07", "h08", "h09"], "below threshold")]
)
def test_a_missing_roster_entry_is_refused(missing: list[str], name: str) -> None:
    attempt = Attempt(10)
    adverts = {at: advert for at, advert in attempt.advertised().items() if at not in missing}
    with refused(name, attempt.members["h00"]):
        attempt.members["h00"].share(roster_of(adverts))


def test_a_roster_below_the_policys_least_cohort_is_refused() -> None:
    attempt = Attempt(10)
    member = attempt.member("h00", least_cohort=8)
    adverts = attempt.advertised(without=["h00", "h07", "h08", "h09"])
    adverts["h00"] = member.advertise(attempt.params.to_bytes())
    with refused("small cohort", member):
        member.share(roster_of(adverts))


def test_a_roster_that_is_shown_to_one_institution_alone_opens_no_share() -> None:
    """h00 is shown a roster without h03, fit by itself; the others the whole one. Nothing opens across the two."""
    attempt = Attempt(4)
    adverts = attempt.advertised()
    whole, part = roster_of(adverts), roster_of({name: adverts[name] for name in ("h00", "h01", "h02")})
    sent = {name: Shares.from_bytes(attempt.members[name].share(whole)) for name in ("h01", "h02", "h03")}
    attempt.members["h00"].share(part)
    boxes = tuple((name, dict(sent[name].boxes)["h00"]) for name in ("h01", "h02"))
    with refused("below threshold", attempt.members["h00"]):
        attempt.members["h00"].receive(Inbox(Roster.from_bytes(part).sha256, boxes).to_bytes())


def test_a_doubled_roster_entry_is_refused() -> None:
    attempt = Attempt(4)
    adverts = [Advert.from_bytes(advert) for advert in attempt.advertised().values()]
    with refused("doubled roster entry", attempt.members["h00"]):
        attempt.members["h00"].share(Roster((*adverts[:2], adverts[1], *adverts[2:])).to_bytes())


def test_an_altered_own_entry_is_refused() -> None:
    attempt = Attempt(4)
    adverts = attempt.advertised()
    other = replace(Advert.from_bytes(adverts["h00"]), nonce=bytes(32))
    adverts["h00"] = attempt.signed_by("h00", other).to_bytes()
    with refused("own entry altered", attempt.members["h00"]):
        attempt.members["h00"].share(roster_of(adverts))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (lambda adverts: {"mask_public": adverts["h02"].mask_public}, "duplicate key"),
        (lambda adverts: {"channel_public": adverts["h02"].mask_public}, "duplicate key"),
        (lambda adverts: {"channel_public": adverts["h01"].mask_public}, "duplicate key"),
        (lambda adverts: {"channel_public": bytes(32)}, "weak key"),
    ],
)
def test_a_doubled_or_weak_key_of_a_colluding_institution_is_refused(
    changes: Callable[[dict[str, Advert]], dict[str, bytes]], name: str
) -> None:
    attempt = Attempt(4)
    sent = attempt.advertised()
    adverts = {at: Advert.from_bytes(advert) for at, advert in sent.items()}
    sent["h01"] = attempt.signed_by("h01", replace(adverts["h01"], **changes(adverts))).to_bytes()
    with refused(name, attempt.members["h00"]):
        attempt.members["h00"].share(roster_of(sent))


# R2: shares and uploads


def test_a_rerouted_share_opens_for_nobody_else_and_its_sender_leaves_u1() -> None:
    attempt = Attempt(5)
    shares = {name: dict(Shares.from_bytes(sent).boxes) for name, sent in attempt.shared().items()}
    rerouted = tuple((sender, shares[sender]["h03" if sender == "h01" else "h00"]) for sender in attempt.names[1:])
    member = attempt.members["h00"]
    member.receive(Inbox(attempt.operator._roster_sha256, rerouted).to_bytes())
    header = UploadHeader.from_bytes(member.mask(words_of(attempt.vectors["h00"])).header)
    assert header.u1 == ("h00", "h02", "h03", "h04")


def test_shares_under_another_senders_name_do_not_open() -> None:
    attempt = Attempt(4)
    shares = {name: dict(Shares.from_bytes(sent).boxes) for name, sent in attempt.shared().items()}
    crossed = (("h01", shares["h02"]["h00"]), ("h02", shares["h01"]["h00"]), ("h03", shares["h03"]["h00"]))
    with refused("below threshold", attempt.members["h00"]):
        attempt.members["h00"].receive(Inbox(attempt.operator._roster_sha256, crossed).to_bytes())


@pytest.mark.parametrize("sender", ["h00", "h99"])
def test_shares_from_outside_or_from_oneself_are_refused(sender: str) -> None:
    attempt = Attempt(4)
    attempt.shared()
    with refused("unknown sender", attempt.members["h00"]):
        attempt.members["h00"].receive(Inbox(attempt.operator._roster_sha256, ((sender, bytes(80)),)).to_bytes())


@pytest.mark.parametrize("entry", [(2**23 - 1) // 4 + 1, -((2**23 - 1) // 4) - 1, -(2**31)])
def test_a_vector_that_could_overflow_the_ring_is_refused(entry: int) -> None:
    attempt = Attempt(4)
    inboxes = attempt.received()
    attempt.members["h00"].receive(inboxes["h00"])
    with refused("overflow", attempt.members["h00"]):
        attempt.members["h00"].mask(words_of([0, 0, 0, 0, entry]))


@pytest.mark.parametrize("words", [np.zeros(4, np.uint32), np.zeros(5, np.int32), np.zeros((5, 1), np.uint32)])
def test_a_vector_of_another_length_is_refused(words: np.ndarray) -> None:
    attempt = Attempt(4)
    inboxes = attempt.received()
    attempt.members["h00"].receive(inboxes["h00"])
    with refused("other length", attempt.members["h00"]):
        attempt.members["h00"].mask(words)


# R3: the survivor list


@pytest.mark.parametrize(
    ("survivors", "name"),
    [
        (["h00"], "below threshold"),
        (["h00", "h01"], "below threshold"),
        (["h01", "h02", "h03"], "left out"),
        (["h00", "h01", "h02", "h99"], "survivor without shares"),
    ],
)
def test_a_survivor_list_that_singles_out_is_refused(survivors: list[str], name: str) -> None:
    attempt = Attempt(4)
    attempt.masked()
    with refused(name, attempt.members["h00"]):
        attempt.members["h00"].echo(Survivors(attempt.operator._roster_sha256, tuple(survivors)).to_bytes())


def test_a_survivor_list_with_somebody_twice_has_no_form() -> None:
    attempt = Attempt(4)
    three = Survivors.from_bytes(attempt.masked(without=["h03"])).to_bytes()
    doubled = three.replace(b"\0\0\0\x03" + b"\0\0\0\x03h00", b"\0\0\0\x04" + b"\0\0\0\x03h00" * 2)
    assert doubled != three
    with refused("malformed message", attempt.members["h00"]):
        attempt.members["h00"].echo(doubled)


def test_overlapping_lists_never_give_both_secrets_of_one_institution() -> None:
    """Every answer has one share for each of U1: of b or of r. Asking again with h03 dropped is a second list."""
    attempt = Attempt(4)
    survivors = attempt.masked()
    echoes = attempt.operator.echoes(attempt.echoed(survivors))
    for name in attempt.names:
        unmask = Unmask.from_bytes(attempt.members[name].unmask(echoes, Remembered()))
        of_b, of_r = ({owner for owner, _ in shares} for shares in (unmask.self_shares, unmask.key_shares))
        assert not of_b & of_r
        assert of_b | of_r == set(attempt.names)
        with refused("second unmask", attempt.members[name]):
            attempt.members[name].unmask(echoes, Remembered())


def test_a_second_survivor_list_is_refused() -> None:
    attempt = Attempt(4)
    attempt.members["h00"].echo(attempt.masked())
    without_h03 = Survivors(attempt.operator._roster_sha256, ("h00", "h01", "h02"))
    with refused("second survivor list", attempt.members["h00"]):
        attempt.members["h00"].echo(without_h03.to_bytes())


def test_split_views_are_refused_as_soon_as_one_echo_crosses() -> None:
    """h00 to h03 see ten survivors, the others nine of them."""
    attempt = Attempt(10)
    whole = Survivors.from_bytes(attempt.masked())
    part = replace(whole, survivors=whole.survivors[:-1])
    shown = {name: whole if name < "h04" else part for name in attempt.names[:7]}
    echoes = tuple(Echo.from_bytes(attempt.members[name].echo(shown[name].to_bytes())) for name in shown)
    for name in shown:
        with refused("split view", attempt.members[name]):
            attempt.members[name].unmask(Echoes(echoes).to_bytes(), Remembered())


@pytest.mark.parametrize("shown", range(8))
def test_of_two_survivor_lists_only_one_is_ever_answered(shown: int) -> None:
    """Of ten, seven are honest, and `shown` of them see the one list; three collude and sign both."""
    attempt = Attempt(10)
    whole = Survivors.from_bytes(attempt.masked())
    part = replace(whole, survivors=whole.survivors[:-1])
    honest, corrupt = attempt.names[:7], attempt.names[7:]
    answers = {}
    for survivors, seeing in ((whole, honest[:shown]), (part, honest[shown:])):
        signing = {name: Echo.from_bytes(attempt.members[name].echo(survivors.to_bytes())) for name in seeing}
        for name in corrupt:
            forged = Echo(survivors.roster_sha256, survivors.sha256, name, bytes(64))
            signing[name] = attempt.signed_by(name, forged)
        echoes = Echoes(tuple(signing[name] for name in sorted(signing) if name in survivors.survivors))
        ends = [ends_as(attempt.members[name], echoes.to_bytes()) for name in seeing]
        assert set(ends) <= {"answered", "too few echoes"}
        answers[len(survivors.survivors)] = ends.count("answered")
    assert list(answers) == [10, 9]
    assert min(answers.values()) == 0
    assert answers[10] == (shown if shown + 3 >= threshold(10) else 0)
    assert answers[9] == (7 - shown if 7 - shown + 2 >= threshold(10) else 0)  # h09 is not on it


def ends_as(member: Member, echoes: bytes) -> str:
    try:
        member.unmask(echoes, Remembered())
    except Aborted as refusal:
        return refusal.name
    return "answered"


# R4: echoes and answers


def changed_echoes(attempt: Attempt, change: Callable[[list[Echo]], list[Echo]]) -> bytes:
    echoes = Echoes.from_bytes(attempt.operator.echoes(attempt.echoed(attempt.masked())))
    return Echoes(tuple(change(list(echoes.echoes)))).to_bytes()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda e: [*e[:3], replace(e[3], signature=bytes(64))], "forged echo"),
        (lambda e: [*e[:3], signed(e[3], OPERATORS_OWN)], "forged echo"),
        (lambda e: [*e[:3], replace(e[2], institution="h03")], "forged echo"),
        (lambda e: [*e[:2], e[1], e[1]], "doubled echo"),
        (lambda e: [*e[:3], replace(e[3], institution="h99")], "echo from outside"),
        (lambda e: e[:2], "too few echoes"),
        (lambda e: [], "too few echoes"),
    ],
)
def test_a_forged_doubled_or_missing_echo_is_refused(change: Callable[[list[Echo]], list[Echo]], name: str) -> None:
    attempt, record = Attempt(4), Remembered()
    echoes = changed_echoes(attempt, change)
    with refused(name, attempt.members["h00"]):
        attempt.members["h00"].unmask(echoes, record)
    assert not record.marked


def test_a_replayed_echo_is_refused() -> None:
    """h03's echo of attempt 1, which it signed, in attempt 2."""
    first, second = Attempt(4), Attempt(4, attempt=2)
    old = Echo.from_bytes(first.echoed(first.masked())["h03"])
    echoes = changed_echoes(second, lambda echoes: [*echoes[:3], old])
    with refused("replayed echo", second.members["h00"]):
        second.members["h00"].unmask(echoes, Remembered())


def test_a_second_unmask_after_a_restart_is_refused(tmp_path: Path) -> None:
    """The institution's process is gone; its file is not. Another attempt of the round gets nothing more."""
    record = tmp_path / "answered"
    first = Attempt(4)
    echoes = first.operator.echoes(first.echoed(first.masked()))
    first.members["h00"].unmask(echoes, OnDisk(record))
    for attempt in (Attempt(4), Attempt(4, attempt=2)):
        echoes = attempt.operator.echoes(attempt.echoed(attempt.masked()))
        with refused("second unmask", attempt.members["h00"]):
            attempt.members["h00"].unmask(echoes, OnDisk(record))
    other_round = Attempt(4, round=2)
    echoes = other_round.operator.echoes(other_round.echoed(other_round.masked()))
    other_round.members["h00"].unmask(echoes, OnDisk(record))


def test_a_late_upload_never_gets_its_self_mask_revealed() -> None:
    """h03's vector comes after the list. The operator learns its mask key, takes off every pair mask, and has noise."""
    attempt = Attempt(4)
    uploads = attempt.uploads(attempt.received())
    late = uploads.pop("h03")
    survivors = attempt.operator.survivors(uploads)
    echoes = attempt.operator.echoes(attempt.echoed(survivors))
    answers = {
        name: Unmask.from_bytes(attempt.members[name].unmask(echoes, Remembered())) for name in ("h00", "h01", "h02")
    }
    assert all("h03" not in dict(answer.self_shares) for answer in answers.values())
    points = attempt.operator._roster.points
    r = shamir.combine(
        {points[name]: shamir.from_bytes(dict(answer.key_shares)["h03"]) for name, answer in answers.items()}
    )
    left = np.zeros(5, np.uint32)
    add_packed(left, late.packed, 24)
    sha256 = attempt.operator._roster_sha256
    publics = {advert.institution: advert.mask_public for advert in attempt.operator._roster.adverts}
    towards = [pair_stream(mask_key(r), publics[peer], sha256, ("h03", peer)) for peer in ("h00", "h01", "h02")]
    add_masks(left, [replace(stream, sign=-stream.sign) for stream in towards])
    assert integers(left, 24).tolist() != attempt.vectors["h03"].tolist()
    # What is left is exactly the self mask, whose element only h03 had and nobody gave a share of.
    same_coins = Attempt(4)
    same_coins.advertised()
    same_coins.keep_secrets()
    add_masks(left, [self_stream(same_coins.secrets["h03"].itself, sha256, -1)])
    assert integers(left, 24).tolist() == attempt.vectors["h03"].tolist()


def with_false_shares(attempt: Attempt, liars: list[str], drops: dict[str, list[str]]) -> dict[str, bytes]:
    answers = attempt.answers(drops)
    for name in liars:
        sent = Unmask.from_bytes(answers[name])
        off = tuple(
            (owner, shamir.to_bytes((shamir.from_bytes(share) + 1) % shamir.P)) for owner, share in sent.key_shares
        )
        itself = tuple(
            (owner, shamir.to_bytes((shamir.from_bytes(share) + 1) % shamir.P)) for owner, share in sent.self_shares
        )
        answers[name] = attempt.signed_by(name, replace(sent, self_shares=itself, key_shares=off)).to_bytes()
    return answers


@pytest.mark.parametrize(("institutions", "liars"), [(10, ["h05"]), (16, ["h00", "h09"])])
def test_false_shares_are_decoded_around_up_to_the_bound_and_named(institutions: int, liars: list[str]) -> None:
    attempt = Attempt(institutions)
    assert len(liars) <= (institutions - threshold(institutions)) // 2
    total = attempt.operator.total(with_false_shares(attempt, liars, {}))
    assert total.false_shares == frozenset(liars)
    assert integers(total.words, 24).tolist() == attempt.sum_of(attempt.names).tolist()


def test_false_shares_of_a_dropped_institutions_key_are_decoded_around() -> None:
    attempt = Attempt(13)
    assert threshold(13) == 9
    total = attempt.operator.total(with_false_shares(attempt, ["h02"], {"upload": ["h12"]}))
    assert total.false_shares == {"h02"}
    assert integers(total.words, 24).tolist() == attempt.sum_of(total.survivors).tolist()


@pytest.mark.parametrize(("institutions", "liars"), [(10, ["h05", "h06"]), (4, ["h01"])])
def test_false_shares_beyond_the_bound_give_no_sum(institutions: int, liars: list[str]) -> None:
    attempt = Attempt(institutions)
    with pytest.raises(FalseShares, match="no sum was made"):
        attempt.operator.total(with_false_shares(attempt, liars, {}))


def test_a_share_that_is_no_element_is_left_out_and_named() -> None:
    attempt = Attempt(4)
    answers = attempt.answers({})
    sent = Unmask.from_bytes(answers["h02"])
    shares = tuple((owner, b"\xff" * 32) for owner, _ in sent.self_shares)
    answers["h02"] = attempt.signed_by("h02", replace(sent, self_shares=shares)).to_bytes()
    total = attempt.operator.total(answers)
    assert total.false_shares == {"h02"}
    assert integers(total.words, 24).tolist() == attempt.sum_of(attempt.names).tolist()


def test_shares_of_another_secret_than_the_advert_commits_to_give_no_sum() -> None:
    """Four answers agree on one polynomial, whose secret is not the one that h00 committed to."""
    attempt = Attempt(4)
    answers = attempt.answers({})
    points = attempt.operator._roster.points
    other = shamir.split(5, 3, list(points.values()), seeded("other"))
    for name in attempt.names:
        sent = Unmask.from_bytes(answers[name])
        shares = (("h00", shamir.to_bytes(other[points[name]])), *sent.self_shares[1:])
        answers[name] = attempt.signed_by(name, replace(sent, self_shares=shares)).to_bytes()
    with pytest.raises(FalseShares, match="secret of h00"):
        attempt.operator.total(answers)


def test_an_answer_that_was_changed_on_its_way_is_not_counted() -> None:
    attempt = Attempt(4)
    answers = attempt.answers({})
    answers["h01"] = answers["h01"][:-1] + bytes([answers["h01"][-1] ^ 1])
    attempt.operator.total(answers)
    assert attempt.operator.refused == {"h01": "it is not signed by the identity in the contract"}


# Every step


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, bytes(2 << 20)], ids=["nothing", "noise", "too much"])
@pytest.mark.parametrize("step", ["advertise", "share", "receive", "echo", "unmask"])
def test_bytes_that_are_no_message_burn_the_attempt(step: str, data: bytes) -> None:
    attempt = Attempt(3)
    before: dict[str, Callable[[], Any]] = {
        "advertise": lambda: None,
        "share": attempt.advertised,
        "receive": attempt.shared,
        "echo": attempt.masked,
        "unmask": lambda: attempt.echoed(attempt.masked()),
    }
    before[step]()
    member = attempt.members["h00"]
    with refused("malformed message", member):
        member.unmask(data, Remembered()) if step == "unmask" else getattr(member, step)(data)
