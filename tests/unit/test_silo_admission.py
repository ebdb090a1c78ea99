"""Before a silo takes part: whose plan it is, who is pinned, what the policy allows, which key it was dealt."""

import hashlib

import pytest

from certs.identity import fingerprint
from certs.names import Role
from privacy.budget import BudgetPolicy, BudgetRefusal, first_budget
from privacy.ckks.group import GroupKey
from privacy.errors import ConfigError, ProtocolError, Refused
from privacy.job_budget import job_epsilon
from privacy.mail import seal_mail
from privacy.plan import JobPlan
from privacy.roll import KeyDeal, MailDigest, check_roll, dealer_of
from silo_agent.admission import check_budget, check_pins, check_plan, check_price, check_rounds
from silo_agent.deal import dealt_mails, prepare_deal, take_deal
from silo_agent.policy import Approve, Ask, decide
from silo_agent.settings import Policy
from silo_agent.vault import Secret, Vault
from tests.lone_silo import NAMES, OWN, dp_fields
from tests.parties import Cohort


@pytest.fixture
def cohort():
    return Cohort(*NAMES)


def key_of(cohort, name):
    return cohort.keys[name].public_key().public_bytes_raw()


def pins(cohort):
    parties = [(Role.SILO, name) for name in NAMES if name != OWN] + [(Role.AGGREGATOR, "aggregator")]
    return {party: fingerprint(key_of(cohort, party[1])) for party in parties}


# -- whose plan ------------------------------------------------------------------------------------------------


def test_a_plan_must_be_the_jobs_the_federations_and_list_this_silo_with_its_key(cohort):
    plan, job = cohort.plan, cohort.plan.digest()
    check_plan(plan, job, "test", OWN, key_of(cohort, OWN))
    for wrong, message in (
        ((plan, b"x" * 32, "test", OWN, key_of(cohort, OWN)), "not the one whose digest names the job"),
        ((plan, job, "other", OWN, key_of(cohort, OWN)), "is of federation test"),
        ((plan, job, "test", "south", key_of(cohort, OWN)), r"does not list this silo \(south\)"),
        ((plan, job, "test", OWN, key_of(cohort, "west")), "with another identity key"),
    ):
        with pytest.raises(ProtocolError, match=message):
            check_plan(*wrong)


@pytest.mark.parametrize(
    ("role", "missing", "flag"),
    [(Role.SILO, "north", ""), (Role.SILO, "west", ""), (Role.AGGREGATOR, "aggregator", " --role aggregator")],
)
def test_every_peer_and_the_aggregator_must_be_pinned_here(cohort, role, missing, flag):
    pinned = pins(cohort)
    check_pins(cohort.plan, OWN, pinned)
    del pinned[role, missing]
    command = f"cloister silo peers trust {missing} FINGERPRINT{flag}$"
    with pytest.raises(ConfigError, match=f"peer {missing}: is {role} in this job, .*{command}") as caught:
        check_pins(cohort.plan, OWN, pinned)
    assert fingerprint(key_of(cohort, missing)) not in str(caught.value), "pasting what the job says would pin nothing"


def test_a_peer_pinned_with_another_key_is_refused(cohort):
    pinned = pins(cohort) | {(Role.SILO, "north"): fingerprint(key_of(cohort, "west"))}
    with pytest.raises(Refused, match=r"the job names identity .* pinned here is"):
        check_pins(cohort.plan, OWN, pinned)


def test_an_aggregator_pinned_under_a_silos_name_does_not_stand_in_for_that_silo(cohort):
    pinned = pins(cohort)
    pinned[Role.AGGREGATOR, "north"] = pinned.pop((Role.SILO, "north"))
    with pytest.raises(ConfigError, match="no silo of that name is pinned here"):
        check_pins(cohort.plan, OWN, pinned)
    pinned = pins(cohort)
    pinned[Role.SILO, "aggregator"] = pinned.pop((Role.AGGREGATOR, "aggregator"))
    with pytest.raises(ConfigError, match="no aggregator of that name is pinned here"):
        check_pins(cohort.plan, OWN, pinned)


# -- budget and policy -----------------------------------------------------------------------------------------


@pytest.fixture
def data_plan(cohort):
    return JobPlan.model_validate(dp_fields(cohort))


def test_a_whole_job_must_fit_and_the_refusal_says_what_would(data_plan):
    budget = first_budget(None, BudgetPolicy("patients", 8.0, 1e-3, "record"))
    forecast = check_budget(data_plan, "patients", budget, data_plan.rounds)
    assert forecast.rounds_asked == data_plan.rounds
    with pytest.raises(Refused, match=r"2 rounds would bring epsilon .* such rounds still fit; .*noise multiplier"):
        check_budget(data_plan, "patients", first_budget(None, BudgetPolicy("patients", 0.7, 1e-3, "record")), 2)
    with pytest.raises(ConfigError, match="cloister silo budget set patients"):
        check_budget(data_plan, "patients", None, 2)


@pytest.mark.parametrize(("unit", "delta", "code"), [("patient", 1e-3, "unit"), ("record", 1e-4, "delta")])
def test_a_job_is_refused_by_a_budget_that_is_counted_otherwise(data_plan, unit, delta, code):
    with pytest.raises(BudgetRefusal) as found:
        check_budget(data_plan, "patients", first_budget(None, BudgetPolicy("patients", 8.0, delta, unit)), 2)
    assert found.value.code == code


def test_a_mechanism_that_cannot_be_priced_is_the_plans_fault(cohort, data_plan):
    check_price(data_plan)
    check_price(cohort.plan)
    for changes in ({"steps_per_round": 10**7}, {"noise_multiplier": 1e-9}):
        with pytest.raises(Refused, match="its mechanism cannot be priced"):
            check_price(JobPlan.model_validate(dp_fields(cohort, **changes)))


def test_extra_rounds_are_within_the_attempts(data_plan):
    assert [check_rounds(data_plan, extra) for extra in (0, 1, 2)] == [2, 3, 4]
    for extra in (-1, 3):
        with pytest.raises(ConfigError, match=f"{extra}, and this job has 2 rounds in at most 4 attempts"):
            check_rounds(data_plan, extra)


def test_rehearsals_are_asked_about_unless_the_policy_says_otherwise(cohort):
    assert decide(cohort.plan, Policy(), None) == Ask("policy.rehearsals is off")
    assert decide(cohort.plan, Policy(rehearsals=True), None) == Approve(None, 0)
    assert job_epsilon(cohort.plan, 1e-3, 2) == 0


BUDGET = BudgetPolicy("patients", 8.0, 1e-3, "record")


def test_jobs_are_approved_within_all_limits_only(data_plan):
    cost = job_epsilon(data_plan, 1e-3, 2)
    within = Policy(auto_approve=True, dataset="visits", max_epsilon_per_job=cost + 0.01)
    assert decide(data_plan, within, BUDGET) == Approve("visits", 0)
    assert decide(data_plan, within, None) == Ask("the population of policy.dataset has no budget")
    assert decide(data_plan, Policy(rehearsals=True), BUDGET) == Ask("policy.auto_approve is off")
    tight = Policy(auto_approve=True, dataset="visits", max_epsilon_per_job=cost - 0.01)
    assert "policy.max_epsilon_per_job is" in decide(data_plan, tight, BUDGET).why
    elsewhere = within.model_copy(update={"purposes": ("to cure",)})
    assert decide(data_plan, elsewhere, BUDGET) == Ask("its purpose is not one of policy.purposes")
    known = within.model_copy(update={"purposes": (data_plan.purpose,)})
    assert decide(data_plan, known, BUDGET) == Approve("visits", 0)


def test_a_job_is_priced_at_the_budgets_delta_not_at_the_one_it_states(cohort):
    """At a delta of 9 % the job would look within the limit; what it costs the population is above it."""
    plan = JobPlan.model_validate(dp_fields(cohort, delta=0.09))
    stated, real = job_epsilon(plan, 0.09, plan.rounds), job_epsilon(plan, BUDGET.delta, plan.rounds)
    limit = Policy(auto_approve=True, dataset="visits", max_epsilon_per_job=(stated + real) / 2)
    assert f"2 rounds cost epsilon {real:.3f}" in decide(plan, limit, BUDGET).why


def test_rounds_that_are_granted_for_failures_count_against_the_limit(data_plan):
    two, three = (job_epsilon(data_plan, 1e-3, rounds) for rounds in (2, 3))
    policy = Policy(auto_approve=True, dataset="visits", max_epsilon_per_job=(two + three) / 2, extra_rounds=1)
    assert f"3 rounds cost epsilon {three:.3f}" in decide(data_plan, policy, BUDGET).why
    wide = policy.model_copy(update={"max_epsilon_per_job": 10.0, "extra_rounds": 50})
    assert decide(data_plan, wide, BUDGET) == Approve("visits", 2), "as many as it has attempts"


def test_approval_without_limits_is_no_policy():
    with pytest.raises(ValueError, match=r"needs policy\.dataset and policy\.max_epsilon_per_job"):
        Policy(auto_approve=True)


# -- the deal --------------------------------------------------------------------------------------------------


class Dealt:
    """A roll, its dealer and everybody's vault."""

    def __init__(self, cohort, folder):
        self.cohort, self.plan = cohort, cohort.plan
        self.roll = check_roll(cohort.plan, [cohort.job_join(name) for name in NAMES])
        self.dealer = dealer_of(cohort.plan.digest(), self.roll)
        self.receiver = next(name for name in NAMES if name != self.dealer)
        self.vaults = {name: Vault(folder / name) for name in NAMES}
        for name in NAMES:
            self.vaults[name].put(self.job, Secret.MAIL_KEY, cohort.mail_keys[name].private_bytes)
        self.statement = prepare_deal(self.plan, self.roll, self.dealer, self.vaults[self.dealer])
        self.deal = cohort.sign(self.statement)
        self.mails = dealt_mails(self.job, self.vaults[self.dealer])

    @property
    def job(self):
        return self.plan.digest()

    def take(self, deal=None, mail=None):
        mail = self.mails[self.receiver] if mail is None else mail
        return take_deal(self.plan, self.roll, deal or self.deal, mail, self.receiver, self.vaults[self.receiver])


@pytest.fixture
def dealt(cohort, tmp_path):
    return Dealt(cohort, tmp_path)


def test_all_members_hold_one_key_after_a_deal(dealt):
    dealt.take()
    keys = {dealt.vaults[name].get(dealt.job, Secret.COHORT_KEY) for name in (dealt.dealer, dealt.receiver)}
    assert len(keys) == 1
    assert set(dealt.mails) == set(NAMES) - {dealt.dealer}


def test_a_deal_that_was_never_signed_may_be_made_again(dealt):
    again = prepare_deal(dealt.plan, dealt.roll, dealt.dealer, dealt.vaults[dealt.dealer])
    assert again.key_commitment != dealt.statement.key_commitment


def test_another_key_than_the_signed_one_is_not_taken(dealt):
    mail = seal_mail(
        GroupKey.generate().to_bytes(), dealt.roll.mail_keys[dealt.receiver],
        binding=dealt.roll.digest, sender=dealt.dealer, receiver=dealt.receiver,
    )  # fmt: skip
    mails = {**dealt.mails, dealt.receiver: mail}
    digests = tuple(MailDigest(to=to, sha256=hashlib.sha256(mails[to]).hexdigest()) for to in sorted(mails))
    deal = dealt.cohort.sign(dealt.statement.model_copy(update={"mails": digests}))
    with pytest.raises(ProtocolError, match="another key than the one it signed"):
        dealt.take(deal, mail)
    assert not dealt.vaults[dealt.receiver].has(dealt.job, Secret.COHORT_KEY)


def test_a_mail_meant_for_another_silo_or_altered_is_not_taken(dealt):
    altered = bytearray(dealt.mails[dealt.receiver])
    altered[-1] ^= 1
    with pytest.raises(ProtocolError, match="is not the one that was signed"):
        dealt.take(mail=bytes(altered))


def test_a_deal_by_another_silo_than_the_dealer_is_not_taken(dealt):
    other = dealt.cohort.sign(KeyDeal(**{**dealt.statement.model_dump(), "silo": dealt.receiver}))
    with pytest.raises(ProtocolError, match=f"this roll's dealer is {dealt.dealer}"):
        dealt.take(other)
