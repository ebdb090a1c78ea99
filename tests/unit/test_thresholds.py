from itertools import combinations

import pytest

from privacy.errors import ConfigError
from privacy.thresholds import check_multikey_cohort, least_members, may_be_missing, threshold


@pytest.mark.parametrize(
    ("n", "c", "t", "least", "missing"),
    [(3, 1, 3, 3, 0), (4, 1, 3, 3, 1), (5, 1, 4, 3, 1), (10, 3, 7, 5, 3), (32, 10, 22, 12, 10), (100, 33, 67, 35, 33)],
)
def test_the_table_of_the_protocol(n, c, t, least, missing):
    check_multikey_cohort(n, c, least)
    assert (threshold(n, c), least_members(2, c), may_be_missing(n, threshold(n, c))) == (t, least, missing)


def test_a_plan_may_ask_for_more_members_than_two_honest_ones():
    assert least_members(7, 1) == 7


def in_common(n, t):
    """The fewest members that two sets of t among n share, by trying all pairs."""
    sets = [set(chosen) for chosen in combinations(range(n), t)]
    return min(len(one & other) for one in sets for other in sets)


@pytest.mark.parametrize(("n", "c"), [(n, c) for n in range(2, 8) for c in range(n - 1)])
def test_the_threshold_is_the_least_at_which_two_certificates_share_an_honest_signer(n, c):
    t = threshold(n, c)
    assert in_common(n, t) > c
    assert in_common(n, t - 1) <= c
    assert c < t <= n


@pytest.mark.parametrize("n", range(3, 101))
def test_every_accepted_round_has_a_threshold_it_can_reach_and_colluders_cannot(n):
    for c in [1] if n == 3 else range(1, n - 1):
        check_multikey_cohort(n, c, 2)
        assert c < threshold(n, c) <= n
        assert least_members(2, c) <= n
        assert 2 * threshold(n, c) - n > c


@pytest.mark.parametrize(
    ("n", "c", "minimum", "why"),
    [
        (1, 0, 1, "hides no update in a sum of so few.*4 silos or more, or 3 with tolerated_colluders = 1"),
        (2, 0, 2, "hides no update in a sum of so few.*or choose the suite ckks-group"),
        (3, 0, 2, "is defined for 3 silos only with one colluder, where t = 3.*Set tolerated_colluders = 1"),
        (3, 2, 3, "is defined for 3 silos only with one colluder, where t = 3.*list 4 silos or more"),
        (4, 3, 4, "leaves fewer than two honest silos.*Set tolerated_colluders to at most 2"),
        (10, 10, 5, "leaves fewer than two honest silos.*at most 8"),
        (10, 0, 5, "is for jobs in which somebody may collude.*Set tolerated_colluders to 1 or more .3 is usual here"),
        (10, -1, 5, "is for jobs in which somebody may collude"),
        (10, 3, 11, "never reaches the minimum cohort of 11.*Set cohort.minimum to 5-10"),
        (101, 33, 35, "takes at most 100 silos"),
    ],
)
def test_an_impossible_round_is_refused_with_what_would_work(n, c, minimum, why):
    with pytest.raises(ConfigError, match=f"ckks-multikey with {n} silos, {c} of them colluding: {why}"):
        check_multikey_cohort(n, c, minimum)
