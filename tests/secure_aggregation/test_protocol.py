"""What is unmasked is the sum of the survivors' vectors, bit for bit, whoever drops out and whenever; or nothing is."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from attempts import Attempt, Remembered, seeded, words_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.errors import ConfigError
from lepton_fl.secure_aggregation.aggregator import Aggregator
from lepton_fl.secure_aggregation.cohort import honest, most_corrupt, threshold
from lepton_fl.secure_aggregation.messages import Advert, Echo, Echoes, Shares, Survivors, Unmask, Upload, UploadHeader
from lepton_fl.secure_aggregation.packing import signed as integers
from lepton_fl.secure_aggregation.refusals import Aborted, BelowThreshold

PHASES = ["advert", "shares", "upload", "echo", "unmask"]


def plain(attempt: Attempt, words: np.ndarray) -> list[int]:
    return integers(words, attempt.wire_bits).tolist()


@pytest.mark.parametrize(
    ("institutions", "wanted"),
    [(3, (3, 2)), (4, (3, 2)), (5, (4, 3)), (10, (7, 4)), (50, (34, 18)), (100, (67, 34)), (200, (134, 68))],
)
def test_the_thresholds_are_those_of_the_design(institutions: int, wanted: tuple[int, int]) -> None:
    assert (threshold(institutions), honest(institutions)) == wanted


@pytest.mark.parametrize("institutions", range(3, 200))
def test_two_lists_never_both_collect_a_threshold_and_two_honest_ones_are_in_every_sum(institutions: int) -> None:
    corrupt, needed = most_corrupt(institutions), threshold(institutions)
    honest_answers = institutions - corrupt  # each for one list; the corrupt ones answer for both
    assert 2 * needed > honest_answers + 2 * corrupt
    assert honest(institutions) >= 2
    assert needed <= institutions


def test_four_institutions_and_nobody_drops_out() -> None:
    attempt = Attempt(4)
    total = attempt.run({})
    assert total.survivors == ("h00", "h01", "h02", "h03")
    assert plain(attempt, total.words) == attempt.sum_of(attempt.names).tolist()
    assert (total.false_shares, attempt.operator.refused) == (frozenset(), {})


def test_the_operator_knows_whom_its_next_message_goes_to() -> None:
    attempt = Attempt(6)
    assert list(attempt.operator.present) == attempt.names
    roster = attempt.operator.roster(attempt.advertised(without=["h05"]))
    assert attempt.operator.present == ("h00", "h01", "h02", "h03", "h04")
    shares = {name: attempt.members[name].share(roster) for name in attempt.operator.present if name != "h04"}
    attempt.operator.inboxes(shares)
    assert attempt.operator.present == ("h00", "h01", "h02", "h03")
    other = Attempt(4)
    other.masked(without=["h01"])
    assert other.operator.present == ("h00", "h02", "h03")


@pytest.mark.parametrize("phase", PHASES)
def test_one_institution_of_four_may_drop_out_in_any_phase(phase: str) -> None:
    attempt = Attempt(4)
    total = attempt.run({phase: ["h02"]})
    gone_before_its_upload = phase in {"advert", "shares", "upload"}
    kept = ["h00", "h01", "h03"] if gone_before_its_upload else attempt.names
    assert list(total.survivors) == kept
    assert plain(attempt, total.words) == attempt.sum_of(kept).tolist()


@pytest.mark.parametrize("phase", PHASES)
def test_a_second_one_is_too_many_and_nothing_is_unmasked(phase: str) -> None:
    attempt = Attempt(4)
    with pytest.raises(BelowThreshold, match="2 institutions are left"):
        attempt.run({phase: ["h00", "h02"]})
    with pytest.raises(RuntimeError):
        attempt.operator.total({})
    if phase != "unmask":
        assert not any(record.marked for record in attempt.answered.values())


@pytest.mark.parametrize("phase", PHASES[:4])
def test_after_too_few_answers_the_next_attempt_has_new_keys_and_the_same_sum(phase: str) -> None:
    first = Attempt(4)
    with pytest.raises(BelowThreshold):
        first.run({phase: ["h00", "h02"]})
    second = Attempt(4, attempt=2, answered=first.answered)
    adverts = [
        Advert.from_bytes(bytes_of) for a in (Attempt(4), Attempt(4, attempt=2)) for bytes_of in a.advertised().values()
    ]
    publics = [key for advert in adverts for key in (advert.mask_public, advert.channel_public, advert.commitment)]
    assert len(set(publics)) == len(publics) == 2 * 4 * 3
    assert plain(second, second.run({}).words) == second.sum_of(second.names).tolist()


def test_once_unmasking_began_a_round_is_never_tried_again() -> None:
    first = Attempt(4)
    with pytest.raises(BelowThreshold):
        first.run({"unmask": ["h00", "h02"]})
    second = Attempt(4, attempt=2, answered=first.answered)
    with pytest.raises(Aborted) as refused:
        second.run({})
    assert refused.value.name == "second unmask"


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_the_sum_is_exact_for_any_cohort_length_ring_and_pattern_of_drop_outs(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 60), label="institutions")
    spare = count - threshold(count)
    attempt = Attempt(
        count,
        length=data.draw(st.integers(1, 40), label="length"),
        wire_bits=data.draw(st.sampled_from([24, 32]), label="bits"),
    )
    gone = data.draw(st.lists(st.sampled_from(attempt.names), max_size=spare, unique=True), label="gone")
    phases = {name: data.draw(st.sampled_from(PHASES)) for name in gone}
    total = attempt.run({phase: [name for name in gone if phases[name] == phase] for phase in PHASES})
    kept = [name for name in attempt.names if phases.get(name) not in {"advert", "shares", "upload"}]
    assert list(total.survivors) == kept
    assert plain(attempt, total.words) == attempt.sum_of(kept).tolist()


def test_the_sum_of_sixty_is_exact_with_drop_outs_in_every_phase() -> None:
    attempt = Attempt(60, length=33)
    drops = {phase: attempt.names[7 * place : 7 * place + 3] for place, phase in enumerate(PHASES)}
    total = attempt.run(drops)
    assert len(total.survivors) == 51
    assert plain(attempt, total.words) == attempt.sum_of(total.survivors).tolist()


def test_the_largest_entries_that_fit_are_summed_exactly() -> None:
    attempt = Attempt(3, length=2, wire_bits=24)
    largest = (2**23 - 1) // 3
    attempt.vectors = {name: np.array([largest, -largest]) for name in attempt.names}
    assert plain(attempt, attempt.run({}).words) == [3 * largest, -3 * largest]


def test_the_threads_change_no_word() -> None:
    one, two = Attempt(4, length=70_000), Attempt(4, length=70_000)
    inboxes = one.received()
    assert inboxes == two.received()
    one.members["h00"].receive(inboxes["h00"])
    two.members["h00"].receive(inboxes["h00"])
    words = words_of(one.vectors["h00"])
    assert one.members["h00"].mask(words).header == two.members["h00"].mask(words, threads=2).header


def test_the_vector_itself_is_left_as_it_was() -> None:
    attempt = Attempt(3)
    inboxes = attempt.received()
    attempt.members["h00"].receive(inboxes["h00"])
    words = words_of(attempt.vectors["h00"])
    before = words.copy()
    attempt.members["h00"].mask(words)
    assert words.tolist() == before.tolist()


def test_the_operator_gives_the_same_bytes_when_it_replays_an_attempt() -> None:
    attempt = Attempt(4)
    adverts = attempt.advertised()
    roster = attempt.operator.roster(adverts)
    shares = {name: member.share(roster) for name, member in attempt.members.items()}
    inboxes = attempt.operator.inboxes(shares)
    uploads = attempt.uploads(inboxes, without=["h01"])
    survivors = attempt.operator.survivors(uploads)
    echoed = attempt.echoed(survivors)
    echoes = attempt.operator.echoes(echoed)
    unmasks = attempt.unmasked(echoes)
    again = Aggregator(attempt.params, attempt.agreed.identities)
    reversed_adverts = dict(reversed(adverts.items()))
    assert again.roster(reversed_adverts) == roster
    assert again.inboxes(dict(reversed(shares.items()))) == inboxes
    assert again.survivors(dict(reversed(uploads.items()))) == survivors
    assert again.echoes(dict(reversed(echoed.items()))) == echoes
    assert again.total(unmasks).words.tobytes() == attempt.operator.total(unmasks).words.tobytes()


# What an institution sends wrongly costs it its own place


@pytest.mark.parametrize("wrong", [b"", b"\0" * 300, "another's"])
def test_a_bad_advert_costs_its_sender_its_place_and_no_one_the_round(wrong: bytes | str) -> None:
    attempt = Attempt(4)
    adverts = attempt.advertised()
    adverts["h03"] = adverts["h00"] if isinstance(wrong, str) else wrong
    attempt.operator.roster(adverts | {"stranger": adverts["h01"]})
    assert set(attempt.operator.refused) == {"h03", "stranger"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"institution": "h00"}, "its advert is another institution's"),
        ({"params_sha256": bytes(32)}, "its advert is for other parameters"),
        ({"channel_public": bytes(32)}, "its advert has a key that gives no secret"),
    ],
)
def test_an_advert_for_another_name_or_round_is_refused_with_its_reason(changes: dict[str, Any], why: str) -> None:
    attempt = Attempt(4)
    adverts = attempt.advertised()
    wrong = replace(Advert.from_bytes(adverts["h03"]), **changes)
    attempt.operator.roster(adverts | {"h03": attempt.signed_by("h03", wrong).to_bytes()})
    assert attempt.operator.refused == {"h03": why}


OTHER_ROSTER = ({"roster_sha256": bytes(32)}, "it is for another roster")


@pytest.mark.parametrize(
    ("changes", "why"), [OTHER_ROSTER, ({"institution": "h00"}, "its shares are another institution's")]
)
def test_shares_for_another_name_or_roster_are_refused_with_their_reason(changes: dict[str, Any], why: str) -> None:
    attempt = Attempt(4)
    shares = attempt.shared()
    wrong = replace(Shares.from_bytes(shares["h03"]), **changes)
    assert "h03" not in attempt.operator.inboxes(shares | {"h03": attempt.signed_by("h03", wrong).to_bytes()})
    assert attempt.operator.refused == {"h03": why}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        OTHER_ROSTER,
        ({"u1": ("h00", "h01", "h02")}, "its masks are with strangers"),
        ({"u1": ("h00", "h01", "h03", "h99")}, "its masks are with strangers"),
    ],
)
def test_an_upload_with_other_masks_or_roster_is_refused_with_its_reason(changes: dict[str, Any], why: str) -> None:
    attempt = Attempt(4)
    uploads = attempt.uploads(attempt.received())
    wrong = replace(UploadHeader.from_bytes(uploads["h03"].header), **changes)
    uploads["h03"] = Upload(attempt.signed_by("h03", wrong).to_bytes(), uploads["h03"].packed)
    assert Survivors.from_bytes(attempt.operator.survivors(uploads)).survivors == ("h00", "h01", "h02")
    assert attempt.operator.refused == {"h03": why}


@pytest.mark.parametrize(
    ("changes", "why"), [OTHER_ROSTER, ({"institution": "h00"}, "its echo is another institution's")]
)
def test_an_echo_for_another_name_or_roster_is_refused_with_its_reason(changes: dict[str, Any], why: str) -> None:
    attempt = Attempt(4)
    echoes = attempt.echoed(attempt.masked())
    wrong = replace(Echo.from_bytes(echoes["h03"]), **changes)
    sent = attempt.operator.echoes(echoes | {"h03": attempt.signed_by("h03", wrong).to_bytes()})
    assert [echo.institution for echo in Echoes.from_bytes(sent).echoes] == ["h00", "h01", "h02"]
    assert attempt.operator.refused == {"h03": why}


@pytest.mark.parametrize(
    ("changes", "why"), [OTHER_ROSTER, ({"institution": "h00"}, "its answer is another institution's")]
)
def test_an_answer_for_another_name_or_roster_is_refused_with_its_reason(changes: dict[str, Any], why: str) -> None:
    attempt = Attempt(4)
    answers = attempt.answers({})
    wrong = replace(Unmask.from_bytes(answers["h03"]), **changes)
    attempt.operator.total(answers | {"h03": attempt.signed_by("h03", wrong).to_bytes()})
    assert attempt.operator.refused == {"h03": why}


def test_a_copied_or_weak_key_costs_its_sender_its_place() -> None:
    attempt = Attempt(5)
    adverts = {name: Advert.from_bytes(sent) for name, sent in attempt.advertised().items()}
    copied = replace(adverts["h03"], mask_public=adverts["h00"].mask_public)
    weak = replace(adverts["h04"], mask_public=bytes(32))
    bad = {"h03": attempt.signed_by("h03", copied)}
    attempt.operator.roster({name: advert.to_bytes() for name, advert in (adverts | bad).items()})
    assert attempt.operator.refused == {"h03": "its advert has a key that is there already"}
    again = Aggregator(attempt.params, attempt.agreed.identities)
    bad = {"h04": attempt.signed_by("h04", weak)}
    again.roster({name: advert.to_bytes() for name, advert in (adverts | bad).items()})
    assert again.refused == {"h04": "its advert has a key that gives no secret"}


def test_shares_that_are_not_for_everybody_or_of_another_attempt_cost_their_sender_its_place() -> None:
    attempt, other = Attempt(5), Attempt(5, attempt=2)
    shares = attempt.shared()
    short = Shares.from_bytes(shares["h04"])
    shares["h04"] = attempt.signed_by("h04", replace(short, boxes=short.boxes[1:])).to_bytes()
    assert set(attempt.operator.inboxes(shares)) == {"h00", "h01", "h02", "h03"}
    assert attempt.operator.refused == {"h04": "its shares are not for everybody"}
    again = Attempt(5)
    mixed = again.shared() | {"h04": other.shared()["h04"]}
    again.operator.inboxes(mixed)
    assert again.operator.refused == {"h04": "it is for another roster"}


@pytest.mark.parametrize("wrong", ["cut", "changed", "words"])
def test_a_vector_that_is_not_whole_or_not_the_signed_one_is_never_summed(wrong: str) -> None:
    attempt = Attempt(4)
    uploads = attempt.uploads(attempt.received())
    packed = uploads["h01"].packed
    changed = {"cut": packed[:-3], "changed": packed ^ np.uint8(1), "words": packed.astype(np.uint32)}[wrong]
    uploads["h01"] = Upload(uploads["h01"].header, changed)
    survivors = Survivors.from_bytes(attempt.operator.survivors(uploads))
    assert survivors.survivors == ("h00", "h02", "h03")
    assert attempt.operator.refused == {"h01": "its vector is not whole, or not the one it signed"}


@pytest.mark.parametrize("wrong", ["cut", "long", "words"])
def test_a_vector_of_another_size_or_kind_is_never_summed_though_it_is_signed(wrong: str) -> None:
    attempt = Attempt(4)
    uploads = attempt.uploads(attempt.received())
    packed = uploads["h01"].packed
    other = {"cut": packed[:-3], "long": np.tile(packed, 2), "words": packed.astype(np.uint32)}[wrong]
    header = UploadHeader.from_bytes(uploads["h01"].header)
    claimed = attempt.signed_by("h01", replace(header, vector_sha256=hashlib.sha256(other.data).digest()))
    uploads["h01"] = Upload(claimed.to_bytes(), other)
    assert "h01" not in Survivors.from_bytes(attempt.operator.survivors(uploads)).survivors


def test_whoever_could_not_open_a_box_is_dropped_and_the_rest_have_their_sum() -> None:
    """h04 sends h00 a box that does not open: their U1 differ, and the four that agree go on."""
    attempt = Attempt(5)
    shares = attempt.shared()
    sent = Shares.from_bytes(shares["h04"])
    boxes = tuple((to, bytes(80) if to == "h00" else box) for to, box in sent.boxes)
    shares["h04"] = attempt.signed_by("h04", replace(sent, boxes=boxes)).to_bytes()
    uploads = attempt.uploads(attempt.operator.inboxes(shares))
    assert UploadHeader.from_bytes(uploads["h00"].header).u1 == ("h00", "h01", "h02", "h03")
    total = attempt.finished(attempt.operator.survivors(uploads))
    assert total.survivors == ("h01", "h02", "h03", "h04")
    assert plain(attempt, total.words) == attempt.sum_of(total.survivors).tolist()
    assert attempt.operator.refused == {"h00": "its masks are with other institutions than most survivors' are"}


def test_where_no_group_agrees_on_its_masks_there_is_no_sum() -> None:
    """h04's boxes open for h01 alone: three and two agree, and a threshold is four."""
    attempt = Attempt(5)
    shares = attempt.shared()
    sent = Shares.from_bytes(shares["h04"])
    boxes = tuple((to, box if to == "h01" else bytes(80)) for to, box in sent.boxes)
    shares["h04"] = attempt.signed_by("h04", replace(sent, boxes=boxes)).to_bytes()
    with pytest.raises(BelowThreshold, match="3 institutions are left after the uploads"):
        attempt.operator.survivors(attempt.uploads(attempt.operator.inboxes(shares)))


def test_an_echo_or_an_answer_for_another_list_is_not_counted() -> None:
    attempt = Attempt(4)
    survivors = attempt.masked()
    echoes = attempt.echoed(survivors)
    other = replace(Echo.from_bytes(echoes["h03"]), survivors_sha256=bytes(32))
    echoes["h03"] = attempt.signed_by("h03", other).to_bytes()
    unmasks = attempt.unmasked(attempt.operator.echoes(echoes))
    answer = Unmask.from_bytes(unmasks["h02"])
    moved = replace(answer, self_shares=answer.self_shares[1:], key_shares=answer.self_shares[:1])
    unmasks["h02"] = attempt.signed_by("h02", moved).to_bytes()
    total = attempt.operator.total(unmasks)
    assert plain(attempt, total.words) == attempt.sum_of(attempt.names).tolist()
    assert attempt.operator.refused == {
        "h03": "its echo is for another survivor list",
        "h02": "its answer is for another survivor list",
    }


@pytest.mark.parametrize("changes", [{"cohort": ("h00", "h01", "h02")}, {"wire_bits": 16}])
def test_the_operator_takes_no_parameters_that_no_institution_would(changes: dict[str, object]) -> None:
    attempt = Attempt(4)
    with pytest.raises(ConfigError, match="nothing was sent"):
        Aggregator(replace(attempt.params, **changes), attempt.agreed.identities)


# Secrets


def test_a_member_is_neither_printed_nor_written() -> None:
    attempt = Attempt(3)
    attempt.received()
    member = attempt.members["h00"]
    assert repr(member) == "Member('h00', secrets withheld)"
    assert set(map(repr, vars(member).values())) >= {"Identity(key withheld)"}
    assert "withheld" not in repr(member._state)
    secrets = member._state.secrets
    for secret in (secrets.key, secrets.itself):
        assert str(secret) not in repr(vars(member))
    with pytest.raises(TypeError):
        pickle.dumps(member)


def test_nothing_refers_to_the_secrets_after_the_answer() -> None:
    attempt = Attempt(3)
    attempt.answers({})
    assert all(vars(member._state) == {} for member in attempt.members.values())


def test_a_member_that_forgets_is_burned() -> None:
    attempt = Attempt(3)
    roster = attempt.rostered()
    attempt.members["h00"].forget()
    with pytest.raises(Aborted, match=r"^burned: "):
        attempt.members["h00"].share(roster)


def test_steps_come_in_order_and_each_once() -> None:
    attempt = Attempt(3)
    adverts = attempt.advertised()
    roster = attempt.operator.roster(adverts)
    with pytest.raises(Aborted, match=r"^out of order: "):
        attempt.members["h00"].receive(roster)
    with pytest.raises(Aborted, match=r"^burned: "):
        attempt.members["h00"].share(roster)
    with pytest.raises(Aborted, match=r"^out of order: "):
        attempt.members["h01"].advertise(attempt.params.to_bytes())


def test_an_unfit_answer_record_burns_and_gives_no_share() -> None:
    class FullDisk(Remembered):
        def mark(self, run_id: int, purpose: str, round: int) -> None:
            raise OSError("no room")

    attempt = Attempt(3)
    echoes = attempt.operator.echoes(attempt.echoed(attempt.masked()))
    with pytest.raises(OSError, match="no room"):
        attempt.members["h00"].unmask(echoes, FullDisk())
    with pytest.raises(Aborted, match=r"^burned: "):
        attempt.members["h00"].unmask(echoes, Remembered())


def test_the_coins_of_a_test_are_the_same_every_time_and_differ_by_their_seed() -> None:
    assert seeded("a")(8) == seeded("a")(8) != seeded("b")(8)
