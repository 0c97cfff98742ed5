"""What the operator sees is as well explained by any other vectors with the same sum.

**What is shown here.** Take a round in which the operator colludes with two of seven institutions and a third drops out
after its shares. The operator then knows every mask but those between two honest survivors: self masks and the dropped
one's key from the answers, the colluders' own. The test takes all of them off each upload and constructs, for other
vectors X' with the same sum, other pair masks m' under which every honest upload has the very bytes that were sent;
headers, hashes and signatures verify, and every message of the rest of the round is unchanged. As X and X' differ by D,
m' and m differ by partial sums of D: a shift that does not depend on m. So if the masks between honest survivors were
independent and uniform, the operator's view would have exactly the same law for X as for X', whatever its computing
power. With a different sum no such masks exist, and the same construction fails, which is tested too.

**What is not shown, but assumed.** That those masks look uniform: X25519 in the roster's public keys (decisional
Diffie-Hellman with HKDF as the extractor), AES-256-CTR as a generator; that SHA-256's commitments to b hide, that
AES-GCM hides the shares in their boxes, and that fewer than a threshold of Shamir's shares say nothing
(`test_shamir.py` counts that one). That an operator which deviates learns no more is argued by the refusals in
`test_attacks.py`, one by one, and by the proof of Bonawitz et al. 2017 (section 6) for their protocol; ours, with the
roster's hash in every key and its own messages, has no proof of its own. Nothing is shown on timing, on sums of several
rounds, or on what a sum by itself says of one institution. The statistics below can only fail to see a leak.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from attempts import Attempt, Remembered, words_of

from lepton_fl.secure_aggregation import shamir
from lepton_fl.secure_aggregation.agreement import pair_stream, self_stream
from lepton_fl.secure_aggregation.cohort import most_corrupt, threshold
from lepton_fl.secure_aggregation.keys import mask_key
from lepton_fl.secure_aggregation.masks import add_masks
from lepton_fl.secure_aggregation.messages import Roster, Unmask, Upload, UploadHeader
from lepton_fl.secure_aggregation.packing import add_packed, pack
from lepton_fl.secure_aggregation.packing import signed as integers
from lepton_fl.secure_aggregation.states import Secrets

LENGTH = 6
COLLUDERS, HONEST, DROPPED = ["h00", "h01"], ["h02", "h03", "h04", "h05"], "h06"
RING = 2**24


@dataclass(frozen=True)
class Seen:
    """A round of seven as the operator and its two colluders see it."""

    roster: Roster
    shares: dict[str, bytes]
    uploads: dict[str, Upload]
    survivors: bytes
    echoes: dict[str, bytes]
    unmasks: dict[str, bytes]
    colluders: dict[str, Secrets]
    total: list[int]


def seen(vectors: Mapping[str, np.ndarray] | None = None) -> tuple[Attempt, Seen]:
    attempt = Attempt(7, length=LENGTH)
    attempt.vectors = dict(vectors or attempt.vectors)
    adverts = attempt.advertised()
    attempt.keep_secrets()
    colluders = {name: attempt.secrets[name] for name in COLLUDERS}
    roster = attempt.operator.roster(adverts)
    shares = {name: member.share(roster) for name, member in attempt.members.items()}
    uploads = attempt.uploads(attempt.operator.inboxes(shares), without=[DROPPED])
    survivors = attempt.operator.survivors(uploads)
    echoes = attempt.echoed(survivors)
    unmasks = attempt.unmasked(attempt.operator.echoes(echoes))
    total = integers(attempt.operator.total(unmasks).words, 24).tolist()
    return attempt, Seen(Roster.from_bytes(roster), shares, uploads, survivors, echoes, unmasks, colluders, total)


def revealed(view: Seen, owner: str) -> int:
    """The one secret of this institution that the answers give: b of a survivor, r of the dropped one."""
    points = view.roster.points
    answers = {name: Unmask.from_bytes(answer) for name, answer in view.unmasks.items()}
    return shamir.combine(
        {
            points[name]: shamir.from_bytes((dict(sent.self_shares) | dict(sent.key_shares))[owner])
            for name, sent in answers.items()
        }
    )


def known_masks(view: Seen, name: str) -> np.ndarray:
    """All that the operator can take off this honest institution's upload, computed from `view` alone."""
    sha256 = view.roster.sha256
    mask_public = {advert.institution: advert.mask_public for advert in view.roster.adverts}[name]
    keys = {peer: mask_key(secrets.key) for peer, secrets in view.colluders.items()}
    keys[DROPPED] = mask_key(revealed(view, DROPPED))
    streams = [self_stream(revealed(view, name), sha256, 1)]
    for peer, key in keys.items():
        towards = pair_stream(key, mask_public, sha256, (peer, name))
        streams.append(replace(towards, sign=-towards.sign))
    masks = np.zeros(LENGTH, np.uint32)
    add_masks(masks, streams)
    return masks.astype(np.int64)


def left(view: Seen, name: str) -> np.ndarray:
    """What of the upload the operator cannot take off: the vector, and its masks with other honest survivors."""
    words = np.zeros(LENGTH, np.uint32)
    add_packed(words, view.uploads[name].packed, 24)
    return (words.astype(np.int64) - known_masks(view, name)) % RING


Pairs = dict[tuple[str, str], np.ndarray]  # the mask of each two honest survivors, by (lower, higher)


def hidden_masks(attempt: Attempt, view: Seen) -> Pairs:
    """The masks that the operator cannot compute, from honest secrets, which it does not have."""
    publics = {advert.institution: advert.mask_public for advert in view.roster.adverts}
    keys = {name: mask_key(attempt.secrets[name].key) for name in HONEST}
    masks = {}
    for low, high in combinations(HONEST, 2):
        words = np.zeros(LENGTH, np.uint32)
        add_masks(words, [pair_stream(keys[low], publics[high], view.roster.sha256, (low, high))])
        masks[low, high] = words.astype(np.int64)
    return masks


def with_masks(vector: np.ndarray, name: str, masks: Pairs) -> np.ndarray:
    """The lower of two adds their mask, the higher takes it away."""
    added = sum(mask for (low, _), mask in masks.items() if low == name)
    taken = sum(mask for (_, high), mask in masks.items() if high == name)
    return vector + added - taken


def shifted(masks: Pairs, differences: Mapping[str, np.ndarray]) -> Pairs:
    """Masks under which vectors that differ by `differences` look the same, if there are such masks.

    The mask between neighbours h and h+1 changes by -(D_2 + ... + D_h): what h's vector gained, h takes off and passes
    on. The last has nobody to pass it to. The change does not depend on the masks.
    """
    other, carried = dict(masks), np.zeros(LENGTH, np.int64)
    for low, high in pairwise(HONEST):
        carried = carried - differences[low]
        other[low, high] = masks[low, high] + carried
    return other


def differences(adds_up: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    drawn = {name: rng.integers(-(10**5), 10**5, LENGTH) for name in HONEST}
    drawn[HONEST[-1]] = -sum(drawn[name] for name in HONEST[:-1]) + (0 if adds_up else 1)
    return drawn


def uploads_of(view: Seen, attempt: Attempt, vectors: Mapping[str, np.ndarray], masks: Pairs) -> dict[str, Upload]:
    """What the honest institutions send for these vectors, if these are the masks that they have among themselves."""
    uploads = {}
    for name in HONEST:
        words = (with_masks(vectors[name], name, masks) + known_masks(view, name)) % RING
        packed = pack(words.astype(np.uint32), 24)
        header = UploadHeader.from_bytes(view.uploads[name].header)
        other = replace(header, vector_sha256=hashlib.sha256(packed.data).digest())
        uploads[name] = Upload(attempt.signed_by(name, other).to_bytes(), packed)
    return uploads


def test_all_that_hides_an_upload_from_the_operator_are_the_masks_between_honest_survivors() -> None:
    attempt, view = seen()
    masks = hidden_masks(attempt, view)
    assert len(masks) == 6
    for name in HONEST:
        assert left(view, name).tolist() == (with_masks(attempt.vectors[name], name, masks) % RING).tolist()


def test_other_vectors_with_the_same_sum_explain_every_byte_that_the_operator_saw() -> None:
    attempt, view = seen()
    by = differences(adds_up=True)
    other = {name: attempt.vectors[name] + by[name] for name in HONEST}
    assert all((by[name] != 0).any() for name in HONEST)
    uploads = uploads_of(view, attempt, other, shifted(hidden_masks(attempt, view), by))
    for name in HONEST:
        assert uploads[name].packed.tobytes() == view.uploads[name].packed.tobytes()
        assert uploads[name].header == view.uploads[name].header
        assert UploadHeader.from_bytes(uploads[name].header).is_by(attempt.identities[name].public)
    colluders = sum(attempt.vectors[name] for name in COLLUDERS)
    assert view.total == (colluders + sum(other.values())).tolist()


def test_vectors_with_another_sum_explain_nothing() -> None:
    attempt, view = seen()
    by = differences(adds_up=False)
    other = {name: attempt.vectors[name] + by[name] for name in HONEST}
    uploads = uploads_of(view, attempt, other, shifted(hidden_masks(attempt, view), by))
    same = {name: uploads[name].packed.tobytes() == view.uploads[name].packed.tobytes() for name in HONEST}
    assert same == {"h02": True, "h03": True, "h04": True, "h05": False}


def test_what_the_operator_cannot_take_off_cancels_in_the_sum_and_in_no_part_of_it() -> None:
    attempt, view = seen()
    rests = {name: left(view, name) - attempt.vectors[name] for name in HONEST}
    assert (sum(rests.values()) % RING == 0).all()
    for size in (1, 2, 3):
        for start in range(4):
            some = [HONEST[(start + step) % 4] for step in range(size)]
            assert (sum(rests[name] for name in some) % RING != 0).any(), some


def test_with_the_same_coins_only_the_uploads_depend_on_the_vectors() -> None:
    """Two inputs with the same sum: every other message, the sum and the answers included, is the same bytes."""
    attempt, one = seen()
    moved = {name: attempt.vectors[name] + difference for name, difference in differences(adds_up=True).items()}
    _, two = seen({**attempt.vectors, **moved})
    assert (one.roster, one.shares, one.survivors) == (two.roster, two.shares, two.survivors)
    assert (one.echoes, one.unmasks, one.total) == (two.echoes, two.unmasks, two.total)
    for name in HONEST:
        headers = [UploadHeader.from_bytes(view.uploads[name].header) for view in (one, two)]
        assert headers[0] != headers[1]
        assert replace(headers[0], vector_sha256=b"", signature=b"") == replace(
            headers[1], vector_sha256=b"", signature=b""
        )


def test_the_dropped_institutions_self_mask_stays_behind_fewer_shares_than_the_threshold() -> None:
    """Of b nobody gives a share in an answer; the colluders hold their own two, and five are needed."""
    _, view = seen()
    assert all(DROPPED not in dict(Unmask.from_bytes(answer).self_shares) for answer in view.unmasks.values())
    assert len(COLLUDERS) == most_corrupt(7) < threshold(7) == 5


def test_no_honest_secret_is_in_any_message_before_the_answers() -> None:
    attempt = Attempt(4)
    adverts = attempt.advertised()
    states = {name: member._state for name, member in attempt.members.items()}
    secrets = [
        *(shamir.to_bytes(s.secrets.key) for s in states.values()),
        *(shamir.to_bytes(s.secrets.itself) for s in states.values()),
        *(s.channel.private_bytes_raw() for s in states.values()),
        *(mask_key(s.secrets.key).private_bytes_raw() for s in states.values()),
        *(identity.secret_bytes() for identity in attempt.identities.values()),
    ]
    roster = attempt.operator.roster(adverts)
    shares = {name: member.share(roster) for name, member in attempt.members.items()}
    uploads = attempt.uploads(attempt.operator.inboxes(shares))
    survivors = attempt.operator.survivors(uploads)
    wire = [*adverts.values(), *shares.values(), *attempt.echoed(survivors).values()]
    wire += [upload.header for upload in uploads.values()]
    assert len(secrets) == 20
    for secret in secrets:
        assert not any(secret in message for message in wire)


# Statistics, which can only fail to see a leak


def chi_square(sample: np.ndarray) -> float:
    """Of bytes against the uniform law, in standard deviations from its mean: 255 degrees of freedom."""
    counts = np.bincount(sample, minlength=256)
    expected = len(sample) / 256
    return float((((counts - expected) ** 2 / expected).sum() - 255) / np.sqrt(2 * 255))


@pytest.mark.parametrize("value", [0, 1, -1, (2**23 - 1) // 4])
def test_an_upload_looks_uniform_whatever_the_vector_is(value: int) -> None:
    attempt = Attempt(4, length=20_000)
    attempt.vectors = {name: np.full(20_000, value) for name in attempt.names}
    uploads = attempt.uploads(attempt.received())
    sent = [upload.packed for upload in uploads.values()]
    for packed in sent:
        assert abs(chi_square(packed)) < 5
    for first, second in pairwise(sent):
        assert abs(chi_square(first ^ second)) < 5
        assert abs(chi_square(first - second)) < 5
    # The same test sees what is not uniform: what the round gives in the end.
    total = attempt.finished(attempt.operator.survivors(uploads)).words
    assert chi_square(pack(total, 24)) > 1000


def test_two_uploads_of_one_vector_in_two_attempts_have_nothing_in_common() -> None:
    first, second = (Attempt(4, length=20_000, attempt=number) for number in (1, 2))
    one, two = (attempt.uploads(attempt.received())["h00"].packed for attempt in (first, second))
    assert abs(chi_square(one ^ two)) < 5
    assert abs(chi_square(one - two)) < 5


def test_the_sum_of_all_uploads_still_has_every_self_mask() -> None:
    """The operator adds them up before anybody answered: pair masks cancel, and what is left looks uniform."""
    attempt = Attempt(4, length=20_000)
    total = np.zeros(20_000, np.uint32)
    for upload in attempt.uploads(attempt.received()).values():
        add_packed(total, upload.packed, 24)
    assert abs(chi_square(pack(total, 24))) < 5
    assert abs(chi_square(pack(total - words_of(attempt.sum_of(attempt.names)), 24))) < 5


def test_an_answer_is_the_same_whatever_was_uploaded() -> None:
    attempt = Attempt(3)
    echoes = attempt.operator.echoes(attempt.echoed(attempt.masked()))
    other = Attempt(3)
    other.vectors = {name: np.zeros(5, np.int64) for name in other.names}
    also = other.operator.echoes(other.echoed(other.masked()))
    assert attempt.members["h00"].unmask(echoes, Remembered()) == other.members["h00"].unmask(also, Remembered())
