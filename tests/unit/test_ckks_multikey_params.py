"""The parameter table of `ckks-multikey`: as designed, never overflowing, and refused outside its bounds."""

import subprocess
import sys
from decimal import ROUND_CEILING, Decimal, getcontext
from math import prod

import pytest

from privacy.ckks.multikey_params import DEGREES, SCALE, VARIANCE, MultikeyParams
from privacy.ckks.ring import ring_of
from privacy.ckks.shares import LARGEST
from privacy.errors import ConfigError

COHORTS = (3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 100)
EVERY = [MultikeyParams(name, n, bits) for name in DEGREES for n in COHORTS for bits in range(8, 17)]


@pytest.mark.parametrize(
    ("name", "participants", "fields", "bytes_per_value"),
    [
        ("small", 16, 4, 2.91),
        ("small", 32, 3, 3.88),
        ("small", 100, 3, 3.88),
        ("default", 16, 8, 2.91),
        ("default", 32, 8, 2.91),
        ("default", 100, 7, 3.32),
        ("large", 16, 19, 2.65),
        ("large", 32, 18, 2.80),
        ("large", 100, 16, 3.15),
    ],
)
def test_the_design_s_table(name, participants, fields, bytes_per_value):
    params = MultikeyParams(name, participants, 16)
    assert params.fields == fields
    assert round(len(params.primes) * 31 / 8 / params.fields, 2) == bytes_per_value


@pytest.mark.parametrize(
    ("values", "name"),
    [(1, "small"), (199_999, "small"), (200_000, "default"), (9_999_999, "default"), (10_000_000, "large")],
)
def test_the_set_follows_from_the_length(values, name):
    assert MultikeyParams.for_update(values, 4, 16) == MultikeyParams(name, 4, 16)


def test_no_sum_carries_into_its_neighbour_or_wraps_round_the_modulus():
    for params in EVERY:
        base, modulus = 1 << params.field_bits, prod(params.primes)
        assert params.largest_sum(params.participants) < base <= 2 * params.participants << params.grid_bits
        assert (base**params.fields - 1) * SCALE + SCALE <= modulus < base ** (params.fields + 1) * SCALE
        assert params.fields < 64  # the sums of products in multikey_fields.add_fields
        assert params.field_bits <= 32


def test_primes_are_the_ring_s():
    for name, degree in DEGREES.items():
        assert MultikeyParams(name, 4, 16).primes == ring_of(degree).primes


def test_bounds_are_sixteen_standard_deviations_rounded_up():
    getcontext().prec = 50
    for members in range(1, 101):
        exact = 16 * (Decimal(VARIANCE.numerator) / VARIANCE.denominator * members).sqrt()
        assert MultikeyParams.bound(members) == int(exact.to_integral_value(ROUND_CEILING))
    assert MultikeyParams.bound(8) == 288  # a whole number: 16 sqrt(40.5 * 8) = 16 * 18


def test_noise_in_its_bound_leaves_no_doubt_about_the_fields_and_key_sums_fit_the_shares():
    bounds = [MultikeyParams.bound(members) for members in range(3, 101)]
    assert max(bounds) < SCALE // 2
    assert max(bounds) <= LARGEST


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("huge", 4, 16), r"no parameter set 'huge'. Choose of: small, default, large\."),
        (("default", 2, 16), "2 silos, .* List 3 to 100 silos"),
        (("default", 101, 16), "101 silos, .* List 3 to 100 silos"),
        (("default", 4, 7), r"grid\.bits: 7 is outside 8-16\. Choose 8 to 16 bits"),
        (("default", 4, 17), r"grid\.bits: 17 is outside 8-16\. Choose 8 to 16 bits"),
    ],
)
def test_what_the_suite_has_no_parameters_for_is_refused_with_what_would_work(arguments, why):
    with pytest.raises(ConfigError, match=why):
        MultikeyParams(*arguments)


def test_a_plan_can_be_checked_without_numba():
    program = "import sys, privacy.ckks.multikey_params; print(*[m for m in ('numba', 'tenseal') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
