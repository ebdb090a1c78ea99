"""Approving a job on data: what is granted, what is refused, and that the record says what the budget was then."""

from dataclasses import replace

import pytest
from cloister.wire import JobPhase

from certs.names import Role
from privacy.budget import BudgetRefusal, what_if
from privacy.errors import CloisterError, ConfigError, Refused, Unavailable
from silo_agent import approval, datasets
from silo_agent.approval import Terms
from silo_agent.budget_view import by_record_text
from silo_agent.entries import References
from silo_agent.jobs import JobState
from silo_agent.peers import trust_peer
from silo_agent.register import RegisteredDataset, add_dataset
from tests.lone_silo import NOW, STEWARD, LoneSilo
from tests.tiny import tiny_dataset


@pytest.fixture
def silo(tmp_path, monkeypatch):
    """A job that waits; two of its rounds fit, three don't. Data and model are as they must be."""
    silo = LoneSilo(tmp_path, charged=True, epsilon=1.0, approved=False)
    with silo.home.store.writing() as tx:
        add_dataset(tx.connection, RegisteredDataset("visits", "patients", tmp_path, "{}"), (), NOW)
    silo.stand(JobState.SEEN)
    for place, name in ((approval, "check_weights"), (approval, "model_folder"), (datasets, "require_fit")):
        monkeypatch.setattr(place, name, lambda *_: None)
    monkeypatch.setattr(approval, "loaded", lambda *_: silo.records)
    silo.records = tiny_dataset(public_size=20)
    return silo


def test_a_budget_whose_delta_is_above_one_in_the_public_size_grants_nothing(silo):
    silo.records = replace(silo.records, public_size=1001)  # the budget's delta is 1e-3
    with pytest.raises(Refused, match=r"the population's budget's delta is 0.001, more than one in its 1001 records"):
        approval.approve(silo.home, silo.plan, "visits", STEWARD)
    assert silo.job_state is JobState.SEEN


def another(silo):
    return silo.plan.model_copy(update={"nonce": "2" * 64})


def test_an_approval_grants_rounds_and_says_where_they_lead(silo):
    references = References("GDPR Art. 9(2)(j)", "DPIA-7")
    examined = approval.approve(silo.home, silo.plan, "visits", STEWARD, Terms(references=references))
    entry, grant = silo.entries[-1], silo.budget.grants[silo.job.hex()]
    assert (entry.rounds, entry.legal_basis, entry.dpia) == (2, "GDPR Art. 9(2)(j)", "DPIA-7")
    assert (grant.rounds, grant.committed, grant.vector) == (2, 0, entry.charge.rdp)
    assert entry.epsilon_after == examined.forecast.epsilon_after == what_if(silo.budget, grant.vector, 2).epsilon_after
    assert silo.job_state is JobState.APPROVED
    silo.verify()
    silo.home.store.check()


def test_a_refusal_after_an_approval_takes_the_rounds_back(silo):
    approval.approve(silo.home, silo.plan, "visits", STEWARD)
    approval.refuse(silo.home, silo.plan, "steward", None, STEWARD)
    assert not silo.budget.grants
    assert (silo.kinds[-2:], silo.entries[-1].round) == (["job-approval", "refuse"], None)
    silo.home.store.check()
    silo.verify()


def test_rounds_for_failures_must_fit_too(silo):
    with pytest.raises(BudgetRefusal, match="3 rounds would bring epsilon"):
        approval.approve(silo.home, silo.plan, "visits", STEWARD, Terms(extra_rounds=1))
    assert silo.entries[-1].asked.rounds == 3
    with pytest.raises(ConfigError, match="3, and this job has 2 rounds in at most 4 attempts"):
        approval.approve(silo.home, silo.plan, "visits", STEWARD, Terms(extra_rounds=3))
    assert silo.job_state is JobState.SEEN
    silo.verify()


def test_a_budget_that_is_spent_while_the_job_is_examined_does_not_grant_it(silo, monkeypatch):
    silo.approve(another(silo))
    examine = approval.examine

    def meanwhile(*asked):
        found = examine(*asked)
        silo.reserve_elsewhere(another(silo))
        return found

    monkeypatch.setattr(approval, "examine", meanwhile)
    with pytest.raises(BudgetRefusal, match="2 rounds would bring epsilon"):
        approval.approve(silo.home, silo.plan, "visits", STEWARD)
    assert (silo.entries[-1].kind, silo.entries[-1].reason) == ("refuse", "over-cap")
    assert silo.job.hex() not in silo.budget.grants
    assert silo.job_state is JobState.SEEN
    silo.verify()


def test_a_peer_that_is_pinned_anew_while_the_job_is_examined_is_another_than_the_plans(silo, monkeypatch):
    """An auditor holds the plan against what is pinned when the approval is recorded."""
    examine, (peer, *_) = approval.examine, (name for name in silo.plan.identity_keys if name != silo.home.name)

    def meanwhile(*asked):
        found = examine(*asked)
        with silo.home.store.writing() as tx:
            trust_peer(tx.connection, Role.SILO, peer, " ".join(["abcd"] * 16), NOW)
        return found

    monkeypatch.setattr(approval, "examine", meanwhile)
    before = len(silo.entries)
    with pytest.raises(CloisterError, match=f"{peer}.*pinned here is abcd"):
        approval.approve(silo.home, silo.plan, "visits", STEWARD)
    assert (len(silo.entries), silo.job_state) == (before, JobState.SEEN)


def test_a_refund_while_the_job_is_examined_leaves_no_refusal_that_an_auditor_would_dispute(silo, monkeypatch):
    silo.approve(another(silo))
    silo.reserve_elsewhere(another(silo))
    examine = approval.examine

    def meanwhile(*asked):
        try:
            return examine(*asked)
        finally:
            silo.refund_elsewhere(another(silo))

    monkeypatch.setattr(approval, "examine", meanwhile)
    with pytest.raises(Unavailable, match="the budget moved while the job was examined"):
        approval.approve(silo.home, silo.plan, "visits", STEWARD)
    assert silo.kinds[-1] == "refund"
    silo.verify()
    monkeypatch.setattr(approval, "examine", examine)
    approval.approve(silo.home, silo.plan, "visits", STEWARD)
    assert silo.job_state is JobState.APPROVED
    silo.verify()


@pytest.mark.parametrize(("changes", "reason"), [({"unit": "patient"}, "unit"), ({"delta": 0.05}, "delta")])
def test_the_policy_file_refuses_a_job_on_other_terms_whatever_its_limits(tmp_path, changes, reason):
    silo = LoneSilo(tmp_path, charged=True, approved=False, **changes)
    decided(silo)
    refusals = [entry for entry in silo.entries if entry.kind == "refuse"]
    assert [(entry.decision, entry.reason) for entry in refusals] == [("budget", reason)]
    silo.verify()


@pytest.mark.parametrize("changes", [{"steps_per_round": 10**7}, {"noise_multiplier": 1e-9}])
def test_a_job_that_cannot_be_priced_is_refused_and_the_agent_goes_on(tmp_path, changes):
    silo = LoneSilo(tmp_path, charged=True, approved=False, **changes)
    decided(silo)
    assert (silo.entries[-1].decision, silo.entries[-1].reason) == ("preflight", "not-fit")
    silo.verify()


def decided(silo):
    """The agent decides by a policy file that would approve nearly anything; it refuses."""
    with (silo.folder / "silo.toml").open("a") as config:
        config.write('[policy]\nauto_approve = true\ndataset = "visits"\nmax_epsilon_per_job = 900.0\n')
    silo.start()
    with silo.home.store.writing() as tx:
        add_dataset(tx.connection, RegisteredDataset("visits", "patients", silo.folder, "{}"), (), NOW)
    silo.stand(JobState.SEEN)
    silo.port.job = silo.job_view(JobPhase.JOINING)
    assert silo.take_part().advance() is JobState.REFUSED
    assert "refuse_job" in silo.port.calls


def test_a_steward_reads_what_a_promise_to_records_would_have_been_worth(silo):
    """Of ten patients with four records each; it says nothing where each has one, or the record is the unit."""
    silo.records = replace(tiny_dataset(40, patients=10), public_size=10)
    found = approval.approve(silo.home, silo.plan, "visits", STEWARD).by_record
    assert found.most_records == silo.records.training.most_records == 4
    assert found.epsilon_by_record > 4 * found.epsilon > 0
    text = by_record_text(found)
    assert f"epsilon {found.epsilon:.3f} for this job" in text
    assert f"who has 4 records epsilon {found.epsilon_by_record:.1f}" in text
    assert "nothing that has a figure" in by_record_text(replace(found, epsilon_by_record=None))


@pytest.mark.parametrize("patients", [None, 40])
def test_nothing_is_said_of_records_where_nobody_has_two(silo, patients):
    silo.records = replace(tiny_dataset(40, patients=patients), public_size=10)
    assert approval.approve(silo.home, silo.plan, "visits", STEWARD).by_record is None
