"""Who is held out depends on the subject and the key alone; made-up institutions on the seed."""

from __future__ import annotations

import hmac
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_fl.errors import ConfigError, DataError
from lepton_fl.tasks.split import HoldOut, Partition

KEY = "lepton-fl/hold-out/1"
IDS = [f"patient-{number}" for number in range(20_000)]


def as_fraction(key: str, subject: str) -> float:
    """HMAC-SHA256's first eight bytes, big-endian, as a fraction of 2^64."""
    return int(hmac.new(key.encode(), subject.encode(), "sha256").hexdigest()[:16], 16) / 2**64


def partition(alpha: float, seed: int = 0) -> Partition:
    return Partition(prefix="bank", institutions=4, alpha=alpha, seed=seed)


def two_classes(records: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(records, dtype=np.int64) % 2


def sizes(assigned: np.ndarray[tuple[int], np.dtype[np.int64]], institutions: int) -> list[int]:
    return np.bincount(assigned, minlength=institutions).tolist()


@pytest.mark.parametrize("subject", ["HD0001", "AD48842", "", "Müller", "patient 1\n"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_subject_is_held_out_where_its_keyed_hash_lies_below_the_share(subject: str, share: float) -> None:
    assert HoldOut(KEY, share, 0.0).holds(subject) == (as_fraction(KEY, subject) < share)


def test_the_shipped_hold_out_never_changes() -> None:
    held = [number for number in range(1, 21) if HoldOut(KEY, 0.2, 0.0).holds(f"HD{number:04d}")]
    assert held == [1, 6, 17, 19]


def test_about_the_declared_share_of_subjects_is_held_out() -> None:
    # One standard deviation is sqrt(0.2 * 0.8 / 20,000) = 0.0028.
    assert HoldOut(KEY, 0.2, 0.0).mask(IDS).mean() == pytest.approx(0.2, abs=4 * 0.0028)


def test_another_key_is_another_split() -> None:
    one, other = HoldOut("a", 0.2, 0.0).mask(IDS), HoldOut("b", 0.2, 0.0).mask(IDS)
    # Independent splits share 0.2 * 0.2 of the subjects.
    assert (one & other).mean() == pytest.approx(0.04, abs=4 * math.sqrt(0.04 * 0.96 / 20_000))


def test_a_larger_share_only_adds_subjects() -> None:
    small, large = HoldOut(KEY, 0.2, 0.0).mask(IDS), HoldOut(KEY, 0.4, 0.0).mask(IDS)
    assert bool(np.all(large[small]))


@given(st.text(), st.lists(st.text()), st.lists(st.text()))
def test_a_subjects_side_does_not_depend_on_the_other_subjects(
    subject: str, before: list[str], after: list[str]
) -> None:
    holdout = HoldOut(KEY, 0.5, 0.0)
    assert holdout.mask([*before, subject, *after])[len(before)] == holdout.holds(subject)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_share_that_holds_out_nobody_or_everybody_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"holdout\.share"):
        HoldOut(KEY, share, 0.0)


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"holdout\.key"):
        HoldOut("", 0.2, 0.0)


def people(count: int) -> list[str]:
    return [f"person-{number}" for number in range(count)]


@pytest.mark.parametrize("alpha", [0.5, 1.0, 100.0])
def test_every_record_belongs_to_one_of_the_institutions(alpha: float) -> None:
    assigned = partition(alpha).assign(two_classes(1_000), people(1_000), 4)
    assert len(assigned) == 1_000
    assert set(assigned.tolist()) == {0, 1, 2, 3}


def test_a_seed_gives_the_same_partition_every_time_and_another_seed_another() -> None:
    labels = two_classes(1_000)
    first = partition(1.0, seed=7).assign(labels, people(len(labels)), 4)
    assert first.tolist() == partition(1.0, seed=7).assign(labels, people(len(labels)), 4).tolist()
    assert first.tolist() != partition(1.0, seed=8).assign(labels, people(len(labels)), 4).tolist()


def test_a_large_alpha_makes_institutions_nearly_equal_in_size_and_in_labels() -> None:
    labels = two_classes(10_000)
    assigned = partition(100.0).assign(labels, people(len(labels)), 4)
    assert min(sizes(assigned, 4)) > 2_000
    assert max(sizes(assigned, 4)) < 3_000
    for number in range(4):
        assert labels[assigned == number].mean() == pytest.approx(0.5, abs=0.1)


def test_a_small_alpha_makes_institutions_differ() -> None:
    labels = two_classes(10_000)
    spreads = []
    for seed in range(10):
        # Where a draw leaves an institution with next to nothing it may be refused; more records avoid that.
        assigned = partition(0.5, seed).assign(labels, people(len(labels)), 4)
        rates = [float(labels[assigned == number].mean()) for number in range(4)]
        spreads.append(max(rates) - min(rates))
    assert np.median(spreads) > 0.3


def test_an_institution_without_a_record_is_an_error_that_says_what_to_change() -> None:
    with pytest.raises(DataError, match=r"2 of 5 institutions without a record.*fewer institutions.*alpha"):
        partition(100.0).assign(np.zeros(3, dtype=np.int64), people(3), 5)


def test_names_sort_in_the_order_of_their_numbers() -> None:
    names = partition(1.0).names(12)
    assert names == sorted(names)
    assert names[0] == "bank-01"
    assert names[11] == "bank-12"


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.inf, math.nan])
def test_an_alpha_that_is_not_a_positive_number_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"task\.partition\.alpha"):
        partition(alpha)


def test_a_partition_into_no_institution_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.partition\.institutions"):
        Partition(prefix="bank", institutions=0, alpha=1.0, seed=0)


def test_removing_a_record_moves_no_other() -> None:
    labels = two_classes(2_000)
    whole = partition(1.0).assign(labels, people(2_000), 4)
    without = partition(1.0).assign(labels[1:], people(2_000)[1:], 4)
    assert whole[1:].tolist() == without.tolist()


@pytest.mark.parametrize("tune", [-0.1, 0.8, 1.0, math.nan])
def test_a_tune_share_that_leaves_nobody_to_train_on_is_refused(tune: float) -> None:
    with pytest.raises(ConfigError, match=r"holdout\.tune"):
        HoldOut(KEY, 0.2, tune)


@given(st.text(), st.floats(0.01, 0.5), st.floats(0.0, 0.4))
def test_a_subject_is_on_one_side_and_a_tune_share_takes_from_training_alone(
    subject: str, share: float, tune: float
) -> None:
    holdout, fraction = HoldOut(KEY, share, tune), as_fraction(KEY, subject)
    assert holdout.holds(subject) == HoldOut(KEY, share, 0.0).holds(subject)
    assert holdout.tunes(subject) == (share <= fraction < share + tune)
    assert not (holdout.holds(subject) and holdout.tunes(subject))


def test_about_the_declared_share_of_subjects_is_kept_for_choices() -> None:
    holdout = HoldOut(KEY, 0.2, 0.1)
    assert holdout.tune_mask(IDS).mean() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 20_000))
    assert not (holdout.mask(IDS) & holdout.tune_mask(IDS)).any()
    assert holdout.held_out == 0.3


def test_a_split_is_named_by_its_key_and_shares() -> None:
    names = {HoldOut(*made).sha256 for made in [("a", 0.2, 0.0), ("b", 0.2, 0.0), ("a", 0.3, 0.0), ("a", 0.2, 0.1)]}
    assert len(names) == 4
    assert HoldOut("a", 0.2, 0.0).sha256 in names
