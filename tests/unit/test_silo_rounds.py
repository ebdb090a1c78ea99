"""One silo's rounds against an aggregator that is honest, away, or lying; killed and started again anywhere."""

import hashlib
import shutil

import numpy as np
import pytest
from cloister.wire import RoundPhase
from sqlalchemy import update

from privacy.ckks.group import GroupKey
from privacy.errors import ConfigError, InternalError, ProtocolError, Unavailable
from privacy.flatten import adapter_digest
from privacy.plan import RoundContext
from privacy.record import RoundRecord, check_record
from privacy.statement import read
from privacy.transcript import Applied, Fingerprint, RoundJoin
from silo_agent.jobs import accepted_roll
from silo_agent.membership import Membership
from silo_agent.statements import round_records
from silo_agent.tables import budgets
from tests.lone_silo import NAMES, OWN, STEPS, LoneSilo, consent_of


class Killed(BaseException):
    """kill -9: nothing after this point happens."""


@pytest.fixture
def silo(tmp_path):
    return LoneSilo(tmp_path)


@pytest.fixture
def charged(tmp_path):
    return LoneSilo(tmp_path, charged=True)


def test_a_round_ends_with_the_mean_applied_and_reported(silo):
    silo.to_consented()
    assert silo.state == "Consented"
    silo.port.certify(*NAMES)
    silo.advance(opened=(1,))
    assert silo.state == "Applied"
    expected = np.fromfile(silo.folder / "artifacts" / silo.job.hex() / "adapter-1.f32", "<f4")
    assert np.abs(expected - 0.5).max() < 1e-4
    assert read(silo.port.applied[0], Applied).adapter == adapter_digest(expected).hex()
    assert not list((silo.folder / "outbox" / silo.job.hex()).iterdir())
    assert not (silo.folder / "artifacts" / silo.job.hex() / "sum-1").exists()


def test_the_transcript_is_kept_as_evidence_and_checks_offline(silo):
    silo.to_consented()
    silo.port.certify(*NAMES)
    silo.advance(opened=(1,))
    with silo.home.store.reading() as connection:
        record = RoundRecord.decode(round_records(connection, silo.job)[1])
    assert check_record(record).transcript.commit.members == NAMES


def test_what_a_round_costs_is_on_record_in_order(charged):
    charged.to_consented()
    charged.port.certify(*NAMES)
    charged.advance(opened=(1,))
    assert charged.kinds == ["policy", "job-approval", "reserve", "commit", "release", "round"]
    reserve, commit, release, end = charged.entries[2:]
    assert commit.outcome == "executed"
    assert commit.steps_executed == STEPS
    assert commit.charge == reserve.charge
    assert release.ciphertext_sha256 == commit.ciphertext_sha256
    assert hashlib.sha256(charged.port.updates[0][0].body).hexdigest() == release.ciphertext_sha256
    assert end.outcome == "published"
    assert charged.budget.spent_epsilon > 0
    assert not charged.budget.reserved


def test_an_update_leaves_only_after_others_know_what_it_cost(charged):
    """The ledger is shown to witnesses first: a backup from before cannot make the charge unknown."""
    shown: list[int] = []

    def nobody_there() -> None:
        raise Unavailable("witnesses", "are away", "Wait.")

    charged.show_ledger = nobody_there
    with pytest.raises(Unavailable, match="are away"):
        charged.to_submitted()
    assert charged.kinds[-1] == "release"
    assert not charged.port.updates
    charged.show_ledger = lambda: shown.append(len(charged.entries))
    charged.advance()
    assert len(charged.port.updates) == 1
    assert shown == [5], "policy, approval, reserve, commit, release"


def denied(silo, number, reason):
    """A round that the budget does not allow: no gradient, no update, on record, and the ledger verifies."""
    runs, updates = silo.source.runs, len(silo.port.updates)
    silo.advance(current=number)
    silo.port.phase = RoundPhase.COLLECTING
    silo.advance(current=number)
    assert silo.state_of(number) == "Withdrawn"
    assert "withdraw_round" in silo.port.calls
    assert (silo.source.runs, len(silo.port.updates)) == (runs, updates)
    refusal = silo.entries[-1]
    assert (refusal.kind, refusal.decision, refusal.reason, refusal.round) == ("refuse", "budget", reason, number)
    silo.verify()
    return silo.runner.state(number).why


def test_the_budget_says_no_before_any_gradient(tmp_path):
    silo = LoneSilo(tmp_path, charged=True, epsilon=1.0)
    other = silo.plan.model_copy(update={"nonce": "2" * 64})
    silo.approve(other)
    silo.reserve_elsewhere(other)
    before = silo.budget.charged_epsilon
    assert "the cap is 1 at delta" in denied(silo, 1, "over-cap")
    assert silo.budget.charged_epsilon == before


def test_an_aggregator_that_aborts_after_each_submission_gets_the_rounds_that_were_approved_and_no_more(charged):
    assert (charged.plan.rounds, charged.plan.round_attempts) == (2, 4)
    at_most = charged.entries[1].epsilon_after
    for number in (1, 2):
        charged.go_to(number)
        charged.advance(current=number)
        charged.port.phase = RoundPhase.COLLECTING
        charged.advance(current=number)
        assert charged.state_of(number) == "Submitted"
        charged.port.phase = RoundPhase.ABORTED
        charged.advance(current=number)
        assert charged.state_of(number) == "Burnt"
    for number in (3, 4):
        charged.go_to(number)
        assert "has used the 2 rounds it was approved for" in denied(charged, number, "grant-used-up")
    assert len(charged.port.updates) == 2
    assert charged.budget.charged_epsilon == at_most
    charged.home.store.check()


def test_a_round_that_was_refunded_is_not_one_of_those_approved(charged):
    charged.source.fail_after, charged.source.error = 0, ConfigError("dataset", "is gone", "Restore it.")
    charged.to_submitted()
    assert charged.kinds[-1] == "refund"
    charged.source.fail_after = None
    for number in (2, 3):
        charged.go_to(number)
        charged.advance(current=number)
        charged.port.phase = RoundPhase.COLLECTING
        charged.advance(current=number)
        assert charged.state_of(number) == "Submitted"
    charged.go_to(4)
    denied(charged, 4, "grant-used-up")


def test_a_job_that_nobody_approved_trains_nothing(tmp_path):
    silo = LoneSilo(tmp_path, charged=True, approved=False)
    assert "is not approved" in denied(silo, 1, "not-approved")


@pytest.mark.parametrize(("column", "value", "reason"), [("unit", "patient", "unit"), ("delta", 1e-5, "delta")])
def test_a_budget_on_other_terms_than_the_job_pays_no_round(tmp_path, column, value, reason):
    silo = LoneSilo(tmp_path, charged=True)
    with silo.home.store.writing() as tx:
        tx.connection.execute(update(budgets).values(**{column: value}))
    silo.to_submitted()
    assert silo.source.runs == 0
    assert (silo.state, silo.entries[-1].reason) == ("Withdrawn", reason)


def test_a_job_on_data_that_would_charge_nobody_is_our_bug(charged):
    with charged.home.store.reading() as connection:
        accepted = accepted_roll(connection, charged.job)
    with pytest.raises(InternalError, match="what it charges is not what its plan says"):
        Membership.of(charged.plan, OWN, accepted, None)


@pytest.mark.parametrize("steps", [1, 2])
def test_training_that_fails_half_way_is_spent_and_withdrawn(charged, steps):
    charged.source.fail_after = steps
    charged.to_submitted()
    assert charged.state == "Withdrawn"
    assert charged.entries[-1].outcome == "presumed"
    assert charged.budget.spent_epsilon > 0
    assert not charged.port.updates


def test_training_that_never_began_is_refunded(charged):
    charged.source.fail_after = 0
    charged.source.error = ConfigError("dataset", "is gone", "Restore it.")
    charged.to_submitted()
    assert charged.kinds[-1] == "refund"
    assert charged.budget.charged_epsilon == 0
    assert charged.state == "Withdrawn"


def test_a_bug_before_the_first_step_counts_as_spent(charged):
    charged.source.fail_after = 0
    charged.to_submitted()
    assert charged.entries[-1].outcome == "presumed"


@pytest.mark.parametrize("counted", [(STEPS - 1, STEPS - 1), (STEPS, STEPS - 1), (STEPS + 1, STEPS + 1), (0, 0)])
def test_another_number_of_steps_than_planned_is_spent_and_not_sent(charged, counted):
    charged.source.counted = counted
    charged.to_submitted()
    assert charged.entries[-1].outcome == "presumed"
    assert charged.entries[-1].steps_executed is None
    assert charged.budget.spent_epsilon == charged.entries[-1].charge.epsilon
    assert charged.state == "Withdrawn"
    assert (
        f"{counted[1]} noise additions in {counted[0]} steps ran, and the plan has {STEPS}"
        in charged.runner.state(1).why
    )
    assert not charged.port.updates
    charged.verify()


def test_training_stops_when_the_round_goes_on_without_it(charged):
    charged.advance()
    charged.port.phase = RoundPhase.COLLECTING
    charged.source.on_run = lambda: charged.interrupt("the round went on without this update")
    charged.advance()
    assert charged.state == "Withdrawn"
    assert charged.entries[-1].outcome == "presumed"


# -- killed and started again ----------------------------------------------------------------------------------------


def kill_at(silo, point):
    def durably(name):
        if name == point:
            raise Killed

    silo.start(durably)


@pytest.mark.parametrize("point", ["Reserved", "Train", "Trained", "Seal"])
def test_killed_between_reserving_and_sealing_is_spent_and_withdrawn(charged, point):
    charged.advance()
    kill_at(charged, point)
    charged.port.phase = RoundPhase.COLLECTING
    with pytest.raises(Killed):
        charged.advance()
    charged.start()
    runs = charged.source.runs
    charged.advance()
    assert charged.state == "Withdrawn"
    assert charged.source.runs == runs, "the mechanism is never run twice for a round"
    assert charged.entries[-1].outcome == "presumed"
    assert len(charged.budget.closed) == 1
    assert not charged.budget.reserved
    charged.port.make_commit(members=("north", "west"), own=False)
    charged.advance()
    assert charged.state == "Consented", "a participant without an update still checks and consents"


@pytest.mark.parametrize(
    "point",
    ["Joined", "SendJoin", "Sealed", "SendUpdate", "Submitted", "Fingerprinted", "SendFingerprint", "Consented",
     "SendConsent", "Certified", "OpenSum", "Opened", "SendApplied", "Applied"],
)  # fmt: skip
def test_killed_anywhere_else_it_takes_up_where_it_was(charged, point):
    kill_at(charged, point)

    def press_on(step):
        try:
            step()
        except Killed:
            charged.start()
            step()

    press_on(charged.advance)
    charged.port.phase = RoundPhase.COLLECTING
    press_on(charged.advance)
    charged.port.make_commit(ask=False)
    press_on(charged.advance)
    charged.port.show_fingerprints()
    press_on(charged.advance)
    charged.port.certify(*NAMES)
    press_on(lambda: charged.advance(opened=(1,)))
    assert charged.state == "Applied"
    assert charged.source.runs == 1
    assert charged.kinds == ["policy", "job-approval", "reserve", "commit", "release", "round"]
    assert len({update[0] for update in charged.port.updates}) == 1
    assert len({(seeds, residues) for _, seeds, residues in charged.port.updates}) == 1
    assert len(set(charged.port.fingerprints)) == 1
    assert len(set(charged.port.joins)) == len(set(charged.port.consents)) == len(set(charged.port.applied)) == 1
    charged.home.store.check()


def test_a_resend_is_the_same_bytes(silo):
    silo.advance()
    silo.port.phase = RoundPhase.COLLECTING
    silo.port.away = {"submit_update"}
    with pytest.raises(Unavailable):
        silo.advance()
    silo.port.away = set()
    silo.start()
    silo.advance()
    first, second = silo.port.updates
    assert first == second
    assert silo.state == "Submitted"


def test_an_update_whose_reply_was_lost_is_answered_for_when_the_collection_is_over(silo):
    silo.advance()
    silo.port.phase = RoundPhase.COLLECTING
    silo.port.away = {"submit_update"}
    with pytest.raises(Unavailable):
        silo.advance()
    silo.port.away = set()
    silo.port.make_commit(ask=False)
    silo.start()
    silo.advance()
    assert (silo.state, len(silo.port.updates), len(silo.port.fingerprints)) == ("Fingerprinted", 1, 1)
    silo.port.show_fingerprints()
    silo.advance()
    assert silo.state == "Consented"


def test_a_resend_that_comes_too_late_is_no_refusal_of_the_update_that_was_taken(silo):
    silo.advance()
    silo.port.phase = RoundPhase.COLLECTING
    silo.port.refuses["submit_update"] = ProtocolError("round 1", "takes no update", "Ask for the round.")
    silo.port.on_submit = lambda: silo.port.make_commit(ask=False)  # an earlier try counted, just now
    silo.advance()
    assert silo.state == "Fingerprinted"


# -- lies ------------------------------------------------------------------------------------------------------------


def refused(silo, pattern):
    silo.advance()
    assert silo.state == "Refused"
    assert pattern in silo.runner.state(1).why
    assert not silo.port.consents
    assert (silo.entries[-1].decision, silo.entries[-1].reason) == ("protocol", "bad-evidence")


def test_a_commit_signed_by_another_key_is_refused(silo):
    silo.to_submitted()
    silo.port.make_commit()
    silo.port.commit = silo.cohort.sign(read_commit(silo), by="north")
    refused(silo, "the signature is not aggregator's")


def read_commit(silo):
    from privacy.transcript import RoundCommit

    return read(silo.port.commit, RoundCommit)


def test_a_sum_that_is_not_the_committed_one_is_refused(silo):
    silo.to_submitted()
    silo.port.make_commit()
    altered = bytearray(silo.port.sum_chunks[0])
    altered[0] ^= 1
    silo.port.sum_chunks[0] = bytes(altered)
    refused(silo, "H(C) differs")
    assert not (silo.folder / "artifacts" / silo.job.hex() / "sum-1").exists()


@pytest.mark.parametrize("change", ["short", "long", "order"])
def test_a_sum_of_another_form_is_refused(silo, change):
    silo.to_submitted()
    silo.port.make_commit()
    chunks = silo.port.sum_chunks
    if change == "short":
        chunks[-1] = chunks[-1][:-8]
    elif change == "long":
        chunks.append(b"12345678")
    else:
        silo.port.sum_seeds = dict(reversed(silo.port.sum_seeds.items()))
    silo.advance()
    assert silo.state == "Refused"
    assert not silo.port.consents


def test_other_seeds_than_a_header_says_are_refused(silo):
    silo.to_submitted()
    silo.port.make_commit()
    silo.port.sum_seeds["north"] = silo.port.sum_seeds["west"]
    refused(silo, "other seeds of north")


def test_a_sum_without_the_update_it_submitted_is_refused(silo):
    silo.to_submitted()
    silo.port.make_commit(members=("north", "west"))
    refused(silo, "own update is not in it")


def test_an_update_in_its_name_that_it_never_sent_is_refused(silo):
    silo.advance()
    silo.source.fail_after = 1
    silo.port.phase = RoundPhase.COLLECTING
    silo.advance()
    assert silo.state == "Withdrawn"
    silo.port.make_commit(own=False)
    refused(silo, "in this silo's name")


def altered(chunks):
    """One residue of the sum changed: what an aggregator does that adds an encoding of its own."""
    residues = np.frombuffer(chunks[0], "<u8").copy()
    residues[0] ^= np.uint64(1 << 40)
    return [residues.tobytes(), *chunks[1:]]


def test_a_sum_that_is_not_its_members_is_refused_before_any_consent(silo):
    silo.to_submitted()
    silo.port.make_commit(change=altered)
    assert silo.state == "Fingerprinted"
    refused(silo, "is not the sum of its members' ciphertexts")
    assert not (silo.folder / "artifacts" / silo.job.hex() / "sum-1").exists()


def test_a_sum_that_does_not_open_is_refused_and_nothing_applied(silo):
    silo.to_submitted()
    silo.key = GroupKey.generate()  # the peers seal under another key than they say
    silo.port.make_commit()
    silo.advance()
    assert silo.state == "Consented"
    silo.port.certify(*NAMES)
    silo.advance(opened=(1,))
    assert silo.state == "Refused"
    assert not (silo.folder / "artifacts" / silo.job.hex() / "adapter-1.f32").exists()


def answered(silo, **commit):
    """The silo answered a first commit, and the aggregator shows another one."""
    silo.to_submitted()
    silo.port.make_commit(ask=False)
    silo.advance()
    assert silo.state == "Fingerprinted"
    first = read(silo.port.fingerprints[0], Fingerprint) if silo.port.fingerprints else None
    silo.port.make_commit(ask=False, **commit)
    silo.advance()
    return first


def test_it_answers_another_commit_that_leaves_out_the_silent(silo):
    first = answered(silo, members=("east", "north"), attempt=2)
    second = read(silo.port.fingerprints[1], Fingerprint)
    assert second.commit != first.commit
    silo.port.show_fingerprints()
    silo.advance()
    assert silo.state == "Consented"


@pytest.mark.parametrize("change", [lambda data: data[:-8], lambda data: data[:8] + b"x" + data[9:]])
def test_it_signs_no_fingerprint_of_what_its_disk_changed(silo, change):
    silo.to_submitted()
    path = silo.folder / "outbox" / silo.job.hex() / "1" / "residues"
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    silo.port.make_commit(ask=False)
    with pytest.raises(ConfigError, match="sealed update of round 1"):
        silo.advance()
    assert (silo.state, silo.port.fingerprints) == ("Submitted", [])
    path.write_bytes(whole)
    silo.advance()
    assert silo.state == "Fingerprinted"


def test_two_commits_with_one_number_are_refused(silo):
    answered(silo, members=("east", "north"))
    assert silo.state == "Refused"
    assert "has number 1, after another, number 1" in silo.runner.state(1).why
    assert len(silo.port.fingerprints) == 1


@pytest.mark.parametrize("certified", [False, True])
def test_an_earlier_commit_than_it_answered_is_refused_also_when_its_fingerprints_are_there(silo, certified):
    answered(silo, members=("east", "north"), attempt=2)
    silo.port.make_commit(members=("north", "west"), ask=False)
    silo.port.show_fingerprints()
    if certified:
        silo.port.certify("north", "west")
    refused(silo, "has number 1, after another, number 2")


def test_having_answered_it_is_not_left_out(silo):
    answered(silo, members=("north", "west"), attempt=2)
    assert silo.state == "Refused"
    assert "own update is not in it" in silo.runner.state(1).why


def test_its_answer_having_been_refused_it_may_be_left_out_and_consents_all_the_same(silo):
    silo.port.refuses["send_fingerprint"] = ProtocolError("fingerprint", "differs", "Go on.")
    answered(silo, members=("north", "west"), attempt=2)
    silo.port.show_fingerprints()
    silo.advance()
    assert silo.state == "Consented"


def test_what_the_members_did_not_sign_is_no_fingerprint(silo):
    silo.to_submitted()
    silo.port.make_commit()
    silo.port.shown_fingerprints = silo.port.shown_fingerprints[:2]
    refused(silo, "are not those of the sum's members")


@pytest.mark.parametrize("consenting", [(), (OWN,)])
def test_a_certificate_below_the_threshold_opens_nothing(silo, consenting):
    silo.to_consented()
    silo.port.certify(*consenting)
    silo.advance(opened=(1,))
    assert silo.state == "Refused"
    assert f"has {len(consenting)} consents of 2" in silo.runner.state(1).why
    assert not silo.port.applied


def test_a_certificate_for_another_transcript_than_consented_is_refused(silo):
    silo.to_consented()
    silo.port.make_commit(members=("north", "west"))
    silo.port.certify("north", "west")
    shutil.rmtree(silo.folder / "artifacts" / silo.job.hex() / "sum-1")
    silo.advance(opened=(1,))
    assert silo.state == "Refused"
    assert "another transcript than the one this silo consented to" in silo.runner.state(1).why


def test_consents_to_different_transcripts_are_no_certificate(silo):
    silo.to_consented()
    silo.port.certify(OWN, "north")
    other = silo.cohort.consent("west", b"t" * 32, silo.ctx)
    silo.port.given_consents = (*silo.port.given_consents[:1], other)
    silo.advance(opened=(1,))
    assert "another transcript of round 1" in silo.runner.state(1).why
    assert not silo.port.applied


def test_a_second_context_for_a_round_number_is_never_signed(silo):
    silo.advance()
    other = RoundContext(silo.job, 1, silo.ctx.adapter_digest, ("east", "north"))
    silo.port.ctx = other
    silo.start()
    silo.port.phase = RoundPhase.COLLECTING
    silo.advance()
    ((header, *_),) = silo.port.updates
    assert read(header, silo_header()).ctx == silo.ctx.digest().hex()
    assert all(read(join, RoundJoin).ctx == silo.ctx.digest().hex() for join in silo.port.joins)


def silo_header():
    from privacy.envelope import UpdateHeader

    return UpdateHeader


def test_a_round_on_another_adapter_is_not_joined(silo):
    silo.port.ctx = RoundContext(silo.job, 1, b"x" * 32, NAMES)
    with pytest.raises(Exception, match="another global adapter than this silo's"):
        silo.advance()
    assert silo.state == "Idle"
    assert not silo.port.joins


def test_a_round_that_was_missed_is_opened_later(silo):
    silo.port.ctx = silo.ctx = RoundContext(silo.job, 1, silo.ctx.adapter_digest, ("north", "west"))
    silo.params = silo.params.__class__(16, 2)
    silo.port.make_commit(members=("north", "west"), own=False)
    silo.port.certify("north", "west")
    silo.port.phase = RoundPhase.PUBLISHED
    silo.advance(opened=(1,))
    assert silo.state == "Applied"
    assert not silo.port.applied, "who was no participant reports nothing"


def test_an_aborted_round_is_burnt_and_goes_on_record(charged):
    charged.to_submitted()
    charged.port.phase = RoundPhase.ABORTED
    charged.advance(current=2)
    assert charged.state == "Burnt"
    assert charged.entries[-1].outcome == "aborted"
    assert charged.budget.spent_epsilon > 0, "what was sent stays spent"


def test_an_aborted_round_with_a_certificate_is_opened(silo):
    silo.to_consented()
    silo.port.certify(*NAMES)
    silo.port.phase = RoundPhase.ABORTED
    silo.advance(opened=(1,))
    assert silo.state == "Applied"


def test_one_consent_a_round(silo):
    silo.to_consented()
    silo.start()
    silo.advance()
    assert len(silo.port.consents) == 1
    assert consent_of(silo.port.consents[0]).silo == OWN
