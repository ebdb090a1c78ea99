"""Any t shares give the sum, t - 1 fit every secret alike, and up to capacity wrong shares are named, never others."""

import io
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy.ckks.shares import (
    FIELD,
    LARGEST,
    add_shares,
    check_share,
    encode_share,
    find_wrong,
    open_sum,
    reconstruct,
    share,
)
from privacy.errors import ProtocolError, VerificationError

POINTS = st.lists(st.integers(1, FIELD - 1), min_size=1, max_size=12, unique=True)
ELEMENTS = st.integers(0, FIELD - 1)


@st.composite
def rounds(draw):
    """Keys of |U| members, the threshold, and everybody's sum of shares."""
    points = draw(POINTS)
    threshold = draw(st.integers(1, len(points)))
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 20)))
    keys = draw(hnp.arrays(np.int32, shape, elements=st.integers(-80, 80)))
    dealt = [share(secret, threshold, points, os.urandom) for secret in keys]
    return keys.sum(axis=0), threshold, {x: add_shares([rows[i] for rows in dealt]) for i, x in enumerate(points)}


@given(rounds(), st.data())
def test_any_t_shares_give_the_sum(a_round, data):
    total, threshold, sums = a_round
    chosen = data.draw(st.permutations(sorted(sums)))[:threshold]
    assert (reconstruct({x: sums[x] for x in chosen}, threshold, 320) == total).all()


@given(rounds(), st.data())
def test_wrong_shares_are_named_up_to_capacity(a_round, data):
    total, threshold, sums = a_round
    count = data.draw(st.integers(0, (len(sums) - threshold) // 2))
    wrong = data.draw(st.permutations(sorted(sums)))[:count]
    for x in wrong:
        error = data.draw(hnp.arrays(np.uint64, len(total), elements=ELEMENTS).filter(np.any))
        sums[x] = ((sums[x] + error) % FIELD).astype(np.uint16)
    opened = open_sum(sums, threshold, 320, os.urandom)
    assert opened.wrong == tuple(sorted(wrong))
    assert (opened.total == total).all()


@given(rounds(), st.data())
def test_beyond_capacity_is_refused_or_another_sum_that_as_many_shares_agree_on(a_round, data):
    _, threshold, sums = a_round
    most = (len(sums) - threshold) // 2
    wrong = data.draw(st.permutations(sorted(sums)))[: most + 1]
    spoilt = {x: ((values.astype(int) + (x in wrong)) % FIELD).astype(np.uint16) for x, values in sums.items()}
    try:
        named = find_wrong(spoilt, threshold, os.urandom)
    except VerificationError:
        return
    assert len(named) <= most
    right = sorted(set(spoilt) - set(named))
    first, last = (
        reconstruct({x: spoilt[x] for x in part}, threshold, LARGEST)
        for part in (right[:threshold], right[len(right) - threshold :])
    )
    assert (first == last).all()


def newton(known):
    """The coefficients of the polynomial through (x, y) pairs, lowest first, in plain integers modulo p."""
    coefficients, basis = [0] * len(known), [1] + [0] * len(known)
    for x, y in known:
        value, scale = (sum(c * pow(x, k, FIELD) for k, c in enumerate(row)) for row in (coefficients, basis))
        factor = (y - value) * pow(scale, -1, FIELD)
        coefficients = [(c + factor * b) % FIELD for c, b in zip(coefficients, basis, strict=False)]
        basis = [(low - x * b) % FIELD for low, b in zip([0, *basis], basis, strict=False)]
    return coefficients


@given(POINTS, st.integers(-LARGEST, LARGEST), st.integers(-LARGEST, LARGEST))
def test_t_less_one_shares_fit_every_secret_with_exactly_one_randomness(points, secret, candidate):
    """The polynomial through (0, candidate) and the t - 1 shares is unique; dealt with it, the shares are the same.

    So for every candidate as many streams of randomness lead to what t - 1 participants see: one.
    """
    threshold = len(points)
    seen = share(np.array([secret], np.int32), threshold, points, os.urandom)[:-1, 0]
    known = [(0, candidate), *zip(points[:-1], map(int, seen), strict=True)]
    constant, *higher = newton(known)
    assert constant == candidate % FIELD
    stream = b"".join(value.to_bytes(2, "little") for value in higher)
    again = share(np.array([candidate], np.int32), threshold, points, io.BytesIO(stream).read)
    assert (again[:-1, 0] == seen).all()


@settings(max_examples=200)
@given(st.binary(max_size=40), st.integers(0, 20))
def test_decoding_then_encoding_is_the_identity_or_a_refusal(data, length):
    words = [int.from_bytes(data[i : i + 2], "little") for i in range(0, len(data), 2)]
    if len(data) == 2 * length and all(word < FIELD for word in words):
        assert encode_share(check_share(data, length, sender="a", step="release")) == data
    else:
        with pytest.raises(ProtocolError, match="share of a"):
            check_share(data, length, sender="a", step="release")
