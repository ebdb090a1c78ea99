import io
import json
import os
from math import prod

import numpy as np
import pytest

from privacy.ckks.shares import (
    CHECKS,
    FIELD,
    LARGEST,
    _reduce,
    add_shares,
    candidates,
    check_share,
    encode_share,
    find_wrong,
    open_sum,
    reconstruct,
    share,
)
from privacy.errors import InternalError, ProtocolError, VerificationError
from tests.vectors import shares_reference

VECTORS = json.loads(shares_reference.PATH.read_text())
EXPECTED = {"truncated": "is truncated: ", "oversized": "is oversized: ", "not-reduced": "is not reduced modulo 65521"}


def key(length=64, seed=0):
    return np.random.default_rng(seed).normal(0, 4.5, length).round().astype(np.int32)


def deal(secret, threshold, n):
    return dict(enumerate(share(secret, threshold, range(1, n + 1), os.urandom), start=1))


def spoil(shares, points, place=0):
    """Copies, where the shares at `points` are off by one in one coefficient."""
    spoilt = {x: values.copy() for x, values in shares.items()}
    for x in points:
        spoilt[x][place] = (int(spoilt[x][place]) + 1) % FIELD
    return spoilt


def test_the_stored_vectors_are_what_the_reference_makes():
    assert shares_reference.vectors() == VECTORS


@pytest.mark.parametrize("vector", VECTORS["encodings"], ids=lambda vector: vector.get("failure", "accepted"))
def test_vectors_of_the_encoding(vector):
    data = bytes.fromhex(vector["share"])
    if "failure" in vector:
        with pytest.raises(ProtocolError, match=EXPECTED[vector["failure"]]):
            check_share(data, vector["length"], sender="hospital-a", step="release")
    else:
        values = check_share(data, vector["length"], sender="hospital-a", step="release")
        assert values.tolist() == vector["values"]
        assert encode_share(values) == data


def run(vector):
    """The operations of one vector, each result compared with the one it names."""
    dealt = []
    for operation in vector["operations"]:
        match operation:
            case {"op": "share", "secret": secret, "random": words, "shares": expected}:
                points = range(1, len(expected) + 1)
                random_bytes = io.BytesIO(bytes.fromhex(words)).read
                dealt.append(share(np.array(secret, np.int32), vector["threshold"], points, random_bytes))
                assert [encode_share(row).hex() for row in dealt[-1]] == expected
            case {"op": "released", "sums": sums}:
                released = {
                    int(x): check_share(bytes.fromhex(data), len(secret), sender=x, step="release")
                    for x, data in sums.items()
                }
                added = {x: add_shares([rows[x - 1] for rows in dealt]) for x in released}
                vector["altered"] = [x for x, values in added.items() if (values != released[x]).any()]
            case {"op": "open", "bound": bound, "wrong": wrong, "total": total}:
                assert wrong == vector["altered"]
                opened = open_sum(released, vector["threshold"], bound, os.urandom)
                assert opened.wrong == tuple(wrong)
                assert opened.total.tolist() == total
    return released


@pytest.mark.parametrize("vector", VECTORS["sums"], ids=lambda vector: vector["name"])
def test_vectors_of_sharing(vector):
    match vector.get("failure"):
        case None:
            run(vector)
        case "out-of-bound":
            with pytest.raises(VerificationError, match="is beyond"):
                run(vector)
        case "too-many-wrong":
            with pytest.raises(VerificationError, match=r"more than \d of the shares of participants"):
                open_sum(run(vector), vector["threshold"], LARGEST, os.urandom)


def test_a_hundred_participants_at_full_length():
    """The largest values in the largest products: every coefficient p - 1, each of 67 powers of 100 points."""
    secret = np.resize(np.array([LARGEST, -LARGEST, -1, 0], np.int32), 16384)
    rows = share(secret, 67, range(1, 101), lambda size: (FIELD - 1).to_bytes(2, "little") * (size // 2))
    for x in (1, 2, 99, 100):
        higher = sum(-pow(x, k, FIELD) for k in range(1, 67))
        assert rows[x - 1, :4].tolist() == [(int(constant) + higher) % FIELD for constant in secret[:4]]
    shares = dict(enumerate(rows, start=1))
    assert (reconstruct({x: shares[x] for x in range(34, 101)}, 67, LARGEST) == secret).all()
    assert open_sum(shares, 67, LARGEST, os.urandom).wrong == ()


def test_the_sum_of_shares_is_a_share_of_the_sum():
    keys = [key(seed=i) for i in range(5)]
    dealt = [deal(secret, 4, 5) for secret in keys]
    released = {x: add_shares([shares[x] for shares in dealt]) for x in (1, 3, 4, 5)}
    assert (reconstruct(released, 4, 200) == np.sum(keys, axis=0)).all()


def test_adding_is_modulo_p():
    full = np.full(3, FIELD - 1, np.uint16)
    assert add_shares([full] * 100).tolist() == [FIELD - 100] * 3
    assert add_shares([full, np.ones(3, np.uint16)]).tolist() == [0, 0, 0]


def test_reduction_is_right_up_to_53_bits():
    values = np.random.default_rng(2).integers(0, 2**53, 10_000, dtype=np.uint64)
    values[:6] = 0, FIELD - 1, FIELD, 2**53 - 1, 2**53 // FIELD * FIELD, 2**53 // FIELD * FIELD - 1
    assert (_reduce(values.copy()) == values % FIELD).all()


def test_randomness_is_consumed_in_order_whatever_is_rejected():
    stream = io.BytesIO(b"\xf1\xff\x05\x00\xff\xff\x06\x00\x07\x00")
    rows = share(np.array([1, -1], np.int32), 2, [1, 2], stream.read)
    assert rows.tolist() == [[6, 5], [11, 11]]
    assert stream.read() == b"\x07\x00"


@pytest.mark.parametrize(("n", "threshold"), [(4, 3), (5, 4), (7, 3), (10, 7), (10, 4), (33, 20)])
def test_wrong_shares_are_named_up_to_capacity_and_refused_beyond(n, threshold):
    secret, most = key(), (n - threshold) // 2
    shares = deal(secret, threshold, n)
    for count in range(most + 1):
        wrong = tuple(sorted(np.random.default_rng(count).choice(n, count, replace=False) + 1))
        opened = open_sum(spoil(shares, wrong, place=count), threshold, 100, os.urandom)
        assert opened.wrong == wrong
        assert (opened.total == secret).all()
    if n > threshold:
        with pytest.raises(VerificationError, match=f"more than {most} of the shares of participants .1, 2"):
            find_wrong(spoil(shares, range(1, most + 2)), threshold, os.urandom)


def test_shares_that_are_wrong_in_different_coefficients_are_all_found():
    shares = deal(key(), 67, 100)
    for i, x in enumerate(range(5, 85, 5)):
        shares = spoil(shares, [x], place=i)
    assert find_wrong(shares, 67, os.urandom) == tuple(range(5, 85, 5))


def test_randomness_that_hides_a_wrong_share_ends_in_a_refusal():
    """The combinations of all zeros show nothing; the check of every coefficient does."""
    shares = spoil(deal(key(), 4, 8), [3])
    with pytest.raises(VerificationError, match="more than 2"):
        find_wrong(shares, 4, bytes)
    assert find_wrong(deal(key(), 4, 8), 4, bytes) == ()


def test_exactly_as_many_as_the_threshold_show_nothing_but_damage():
    shares = spoil(deal(key(), 3, 3), [2])
    assert find_wrong(shares, 3, os.urandom) == ()
    moved = reconstruct(shares, 3, LARGEST) - key()
    assert moved.tolist() == [-3, *[0] * 63]  # the share at 2 counts -3 times: 1 * 3 / ((1 - 2) (3 - 2))
    shares[2] = np.random.default_rng(1).integers(0, FIELD, 64).astype(np.uint16)
    with pytest.raises(VerificationError, match=r"sum of keys: coefficient \d+ is beyond \+-100"):
        reconstruct(shares, 3, 100)


def test_colluders_beyond_capacity_may_agree_on_another_key():
    """Why the bounds on the sum and on the noise are needed besides: 4 of 7 shares may be of another polynomial."""
    ours, theirs = deal(key(seed=1), 3, 7), deal(key(seed=2), 3, 7)
    mixed = {x: (theirs if x <= 5 else ours)[x] for x in range(1, 8)}
    opened = open_sum(mixed, 3, 100, os.urandom)
    assert opened.wrong == (6, 7)
    assert (opened.total == key(seed=2)).all()


def test_t_right_shares_are_among_the_candidates_whatever_else_was_released():
    secret = key()
    shares = deal(secret, 3, 4)
    shares[2], shares[4] = np.random.default_rng(1).integers(0, FIELD, (2, 64)).astype(np.uint16)
    with pytest.raises(VerificationError, match="more than 0"):
        next(candidates(shares, 3, 100, os.urandom))
    shares = deal(secret, 3, 5)
    shares[4], shares[5] = shares[5], shares[4]
    (found,) = candidates(shares, 3, 100, os.urandom)
    assert found.wrong == (4, 5)
    assert (found.total == secret).all()
    assert [found.wrong for found in candidates(deal(secret, 3, 5), 3, 100, os.urandom)] == [()]


def test_colluders_that_agree_on_another_key_cannot_hide_the_right_one():
    """Three of ten move the sum by one, so that decoding takes one right share for the wrong one (t = 7)."""
    secret, liars = key(), (1, 2, 3)
    shares = deal(secret, 7, 10)
    kept = (4, 5, 6, 7, 8, 9)  # of the honest; the polynomial that is 0 at them and 1 at 0:
    for x in liars:
        moved = prod(pow(-y, -1, FIELD) * (x - y) for y in kept) % FIELD
        shares[x] = shares[x].copy()
        shares[x][0] = (int(shares[x][0]) + moved) % FIELD
    wrong, *others = candidates(shares, 7, 100, os.urandom)
    assert (wrong.wrong, (wrong.total - secret).tolist()) == ((10,), [1, *[0] * 63])
    right = [found for found in others if (found.total == secret).all()]
    assert [found.wrong for found in right] == [liars]


def test_so_many_sets_that_they_are_not_tried():
    shares = spoil(deal(key(), 67, 100), range(1, 18))
    with pytest.raises(VerificationError, match="more than 16"):
        next(candidates(shares, 67, 100, os.urandom))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-1], "is truncated: 127 bytes, expected 128"),
        (lambda data: b"", "is truncated: 0 bytes, expected 128"),
        (lambda data: data + b"\0\0", "is oversized: 130 bytes, expected 128"),
        (lambda data: data[:20] + b"\xf1\xff" + data[22:], "coefficient 10 is not reduced modulo 65521"),
    ],
)
def test_a_wrong_encoding_names_sender_step_and_reason(change, why):
    data = encode_share(deal(key(), 3, 4)[1])
    with pytest.raises(ProtocolError, match=f"share of hospital-b: {why}") as caught:
        check_share(change(data), 64, sender="hospital-b", step="consent")
    assert (caught.value.sender, caught.value.step) == ("hospital-b", "consent")


@pytest.mark.parametrize("points", [[0, 1, 2], [1, 2, 2], [1, 2, FIELD], [1, 2, FIELD + 1], [-1, 1, 2], [1, 2]])
def test_points_that_would_give_the_key_away_or_cannot_be_are_our_bug(points):
    with pytest.raises(InternalError, match="points"):
        share(key(), 3, points, os.urandom)
    with pytest.raises(InternalError, match="points"):
        reconstruct(dict.fromkeys(points, np.ones(2, np.uint16)), 3, 100)


@pytest.mark.parametrize("threshold", [0, 4])
def test_a_threshold_nobody_can_meet_is_our_bug(threshold):
    with pytest.raises(InternalError, match=f"3 points and a threshold of {threshold}"):
        share(key(), threshold, [1, 2, 3], os.urandom)


@pytest.mark.parametrize("secret", [[LARGEST + 1], [-LARGEST - 1], [-(2**31)], [[1, 2]]])
def test_a_secret_that_the_field_cannot_hold_is_our_bug(secret):
    with pytest.raises(InternalError, match="small coefficients"):
        share(np.array(secret, np.int32), 2, [1, 2], os.urandom)


def test_reconstruction_takes_exactly_the_threshold_and_a_bound_below_half_the_field():
    shares = deal(key(), 3, 4)
    with pytest.raises(InternalError, match="4 to interpolate from, the threshold is 3"):
        reconstruct(shares, 3, 100)
    del shares[1]
    with pytest.raises(InternalError, match="the bound 32761"):
        reconstruct(shares, 3, LARGEST + 1)


def test_shares_of_different_lengths_are_our_bug():
    one, two = np.ones(2, np.uint16), np.ones(3, np.uint16)
    with pytest.raises(InternalError, match="differ in length"):
        add_shares([one, two])
    with pytest.raises(InternalError, match="or there are none"):
        add_shares([])
    with pytest.raises(InternalError, match="differ in length"):
        find_wrong({1: one, 2: two}, 1, os.urandom)


def test_five_combinations_put_a_failure_below_two_to_the_minus_60_and_four_do_not():
    wrong_ones = 50  # at most, of 100 shares
    assert FIELD ** (CHECKS - 1) < wrong_ones * 2**60 < FIELD**CHECKS
