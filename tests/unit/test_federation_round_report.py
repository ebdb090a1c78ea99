"""What `cloister round verify` says of a checked record."""

from dataclasses import replace

import pytest

from federation.round_report import _facts, lines
from privacy.plan import JobPlan
from privacy.record import RecordVerdict
from privacy.transcript import check_certificate, check_commit, check_fingerprints, group_headers
from tests.parties import KEY_COMMITMENT, Cohort, transcript_of

SILOS = ["a", "b", "c"]


@pytest.fixture
def verdict():
    """Of a round of the suite ckks-group."""
    cohort = Cohort(*SILOS)
    headers = [cohort.header(name) for name in SILOS]
    signed = cohort.commit(headers, SILOS)
    check = group_headers(cohort.plan, cohort.ctx, KEY_COMMITMENT)
    commit = check_commit(cohort.plan, cohort.ctx, check, signed, headers)
    prints = [cohort.fingerprint(name, commit.digest) for name in SILOS]
    transcript = check_fingerprints(cohort.plan, cohort.ctx, commit, prints)
    signers = [cohort.consent(name, transcript_of(signed, headers, prints)) for name in SILOS[:2]]
    consents = check_certificate(cohort.plan, cohort.ctx, transcript.digest, signers)
    return RecordVerdict(cohort.plan, tuple(SILOS), transcript, consents, (), {})


def keyed(verdict, *released):
    """As if the round had had the suite ckks-multikey."""
    fields = verdict.plan.model_dump(mode="json") | {"suite": "ckks-multikey", "parameters": "small"}
    fields["cohort"] |= {"minimum": 3, "tolerated_colluders": 1}
    return replace(verdict, plan=JobPlan.model_validate(fields), released=released)


def test_with_a_shared_key_nothing_is_said_of_shares(verdict):
    facts = _facts(verdict, sum_checked=False)
    assert (facts["released"], facts["releases_needed"]) == ([], 0)
    text = "\n".join(lines(facts))
    assert "shares" not in text
    assert "consents   a, b (2 were needed)" in text
    assert "not the sum itself, for it is not at hand" in text
    assert "the sum is that of its members' updates" in "\n".join(lines(_facts(verdict, sum_checked=True)))


@pytest.mark.parametrize(
    ("released", "said"),
    [
        (("a", "b", "c"), "shares     3 sums released, of the 3 that open the sum: a, b, c"),
        (("b",), "shares     1 sums released, of the 3 that open the sum: b"),
        ((), "shares     0 sums released, of the 3 that open the sum: nobody"),
    ],
)
def test_with_a_key_each_it_says_how_many_sums_of_shares_were_released_of_how_many_it_takes(verdict, released, said):
    facts = _facts(keyed(verdict, *released), sum_checked=False)
    assert facts["released"] == list(released)
    assert facts["releases_needed"] == 3
    assert said in list(lines(facts))
