"""One job at a silo, from its approval to what is left of it: what stewards decide, what the aggregator refuses."""

import pytest
from cloister.wire import JobPhase, RoundPhase

from privacy.errors import ConfigError, InternalError, ProtocolError, Refused, Unavailable, VerificationError
from privacy.plan import RoundContext
from privacy.roll import JobJoin, JobRefusal, KeyDeal
from runtime.console import run
from silo_agent import approval
from silo_agent.agent import Agent
from silo_agent.cli import app
from silo_agent.entries import Author
from silo_agent.jobs import JobState
from silo_agent.round_states import Applied, Burnt, Idle, Joined, Reserved, Trained
from silo_agent.statements import put_round_state, said, say, undelivered
from silo_agent.status import StatusBoard, read_status
from silo_agent.vault import Secret
from tests.lone_silo import NOW, OWN, LoneSilo

STEWARD = Author(OWN, "a steward", "steward", NOW)


@pytest.fixture
def silo(tmp_path):
    return LoneSilo(tmp_path)


def spoken(silo, kind):
    with silo.home.store.reading() as connection:
        return said(connection, silo.job, 0, kind.label())


# -- who decides -----------------------------------------------------------------------------------------------------


def test_a_refusal_during_the_preflight_stands(silo):
    silo.stand(JobState.APPROVED)
    silo.port.job = silo.job_view(JobPhase.JOINING)

    def prepare():
        assert run(app, ["refuse", silo.job.hex(), "--state", str(silo.folder)]) == 0

    silo.source.prepare = prepare
    assert silo.take_part().advance() is JobState.REFUSED
    assert spoken(silo, JobJoin) is None
    assert spoken(silo, JobRefusal) is not None
    assert "refuse_job" in silo.port.calls
    assert "join_job" not in silo.port.calls


@pytest.mark.parametrize("state", [JobState.REFUSED, JobState.JOINED, JobState.READY])
def test_an_approval_that_comes_too_late_changes_nothing(silo, state):
    silo.stand(state)
    with pytest.raises(Refused, match=r"by now|meanwhile"):
        approval.approve(silo.home, silo.plan, None, STEWARD)
    assert silo.job_state is state
    assert silo.kinds == []


@pytest.mark.parametrize("error", [None, Refused("dataset", "is too small", "Add records.")])
def test_a_stewards_approval_is_not_undone_by_the_policy(silo, monkeypatch, error):
    """The steward approves while the agent examines the job by the policy file, whatever comes of that."""
    with (silo.folder / "silo.toml").open("a") as config:
        config.write("[policy]\nrehearsals = true\n")
    silo.start()
    silo.stand(JobState.SEEN)
    silo.port.job = silo.job_view(JobPhase.JOINING)
    examine = approval.examine

    def slowly(*asked):
        silo.stand(JobState.APPROVED)
        if error is not None:
            raise error
        return examine(*asked)

    monkeypatch.setattr(approval, "examine", slowly)
    assert silo.take_part().advance() is JobState.JOINED
    assert spoken(silo, JobRefusal) is None


def test_nobody_who_refused_joins_nor_the_other_way_round(silo):
    statements = [
        JobJoin(plan=silo.job.hex(), silo=OWN, mail_key=silo.cohort.mail_keys[OWN].public_bytes.hex()),
        JobRefusal(plan=silo.job.hex(), silo=OWN, reason="steward"),
    ]
    for number, (first, second) in enumerate((statements, statements[::-1])):
        with silo.home.store.writing() as tx:
            say(tx.connection, number, first, silo.home.identity.sign)
        with pytest.raises(InternalError, match=f"this silo said {first.type}"), silo.home.store.writing() as tx:
            say(tx.connection, number, second, silo.home.identity.sign)


def test_a_round_that_moved_meanwhile_is_not_overwritten(silo):
    joined = Joined(silo.ctx, NOW)
    with silo.home.store.writing() as tx:
        put_round_state(tx.connection, silo.job, 1, Idle(), joined)
    with pytest.raises(InternalError, match="is Joined, and was Idle"), silo.home.store.writing() as tx:
        put_round_state(tx.connection, silo.job, 1, Idle(), Burnt(NOW))
    assert silo.runner.state(1) == joined


# -- what the status says ---------------------------------------------------------------------------------------------


def message(silo):
    return read_status(silo.folder)["message"]


@pytest.mark.parametrize("ends", [True, False])
def test_what_was_waited_for_is_no_longer_shown(silo, ends):
    silo.stand(JobState.SEEN)
    silo.port.job = silo.job_view(JobPhase.JOINING)
    participation = silo.take_part()
    assert participation.advance() is JobState.SEEN
    assert "waits for a steward" in message(silo)
    if ends:
        silo.port.job = silo.job_view(JobPhase.CANCELLED)
    else:
        approval.approve(silo.home, silo.plan, None, STEWARD)
    assert participation.advance() is (JobState.CANCELLED if ends else JobState.JOINED)
    assert message(silo) == ""


def test_why_a_job_was_left_stays_shown(silo):
    other = silo.cohort.sign(KeyDeal(plan=silo.job.hex(), silo=OWN, roll="0" * 64, key_commitment="1" * 64, mails=()))
    silo.port.job = silo.job_view(deal=other)
    assert silo.take_part().advance() is JobState.OUT
    assert message(silo) == "the cohort uses another key than the one this silo accepted"


def test_a_trouble_is_shown_until_it_is_over(silo):
    silo.stand(JobState.APPROVED)
    silo.port.job = silo.job_view(JobPhase.JOINING)
    participation, trouble = silo.take_part(), ConfigError("writing artifacts", "the disk is full", "Free space.")
    participation.complain(trouble)
    assert message(silo) == str(trouble)
    silo.port.refuses["get_job"] = trouble
    with pytest.raises(ConfigError):
        participation.advance()
    assert message(silo) == str(trouble)
    silo.port.refuses.clear()
    participation.advance()
    assert message(silo) == ""


# -- what is for good, and what is tried again -----------------------------------------------------------------------

ANSWERS = [
    Unavailable("the caller's certificate", "is not valid yet", "Compare the clocks."),
    ConfigError("joining the job", "the server answered UNIMPLEMENTED", "Compare the versions."),
    Refused("job rehearsal", "east is not in its roster", "Ask the coordinator."),
    VerificationError("certificate", "says the server", "Look."),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
@pytest.mark.parametrize(
    ("state", "call", "kind"),
    [(JobState.APPROVED, "join_job", JobJoin), (JobState.SEEN, "refuse_job", JobRefusal)],
)
def test_what_was_said_of_a_job_is_said_until_the_desk_has_it(silo, answer, state, call, kind):
    silo.stand(state)
    silo.port.job = silo.job_view(JobPhase.JOINING)
    if kind is JobRefusal:
        assert run(app, ["refuse", silo.job.hex(), "--state", str(silo.folder)]) == 0
    silo.port.refuses[call] = answer
    with pytest.raises(type(answer)):
        silo.take_part().advance()
    with silo.home.store.reading() as connection:
        assert undelivered(connection, silo.job, 0, kind.label()) is not None
    silo.port.refuses.clear()
    silo.take_part().advance()
    assert silo.port.calls.count(call) == 2
    silo.take_part().advance()
    assert silo.port.calls.count(call) == 2, "it arrived"


def test_a_fault_of_this_machine_is_no_refusal(silo):
    silo.stand(JobState.APPROVED)
    silo.port.job = silo.job_view(JobPhase.JOINING)
    silo.source.prepare = raising(ConfigError("writing artifacts", "the disk is full", "Free space."))
    with pytest.raises(ConfigError, match="the disk is full"):
        silo.take_part().advance()
    assert silo.job_state is JobState.APPROVED
    assert spoken(silo, JobRefusal) is None
    silo.source.prepare = lambda: None
    assert silo.take_part().advance() is JobState.JOINED


def raising(error):
    def act(*_):
        raise error

    return act


@pytest.mark.parametrize("answer", [*ANSWERS, ProtocolError("artifact", "says the server", "Look.")])
def test_what_the_aggregator_answers_about_the_starting_adapter_is_no_reason_to_refuse(tmp_path, answer):
    silo = LoneSilo(tmp_path, charged=True)
    silo.stand(JobState.APPROVED)
    silo.port.job = silo.job_view(JobPhase.JOINING)
    silo.port.fetch_artifact = raising(answer)
    participation = silo.take_part()
    participation._show = lambda _record: None  # the dataset is made up
    with pytest.raises((type(answer), Unavailable)):
        participation.advance()
    assert silo.job_state is JobState.APPROVED
    assert spoken(silo, JobRefusal) is None


@pytest.mark.parametrize("parts", [(b"another file",), (bytes(9 << 20), bytes(9 << 20))])
def test_a_starting_adapter_that_is_not_the_plans_is_a_reason(tmp_path, parts):
    silo = LoneSilo(tmp_path, charged=True)
    silo.stand(JobState.APPROVED)
    silo.port.job = silo.job_view(JobPhase.JOINING)
    silo.port.fetch_artifact = lambda _job: iter(parts)
    participation = silo.take_part()
    participation._show = lambda _record: None
    assert participation.advance() is JobState.REFUSED
    assert not list((silo.folder / "artifacts" / silo.job.hex()).iterdir())


# -- what is left of it ----------------------------------------------------------------------------------------------

PHASES = (JobPhase.FINISHED, JobPhase.STOPPED, JobPhase.CANCELLED)
LEFT = pytest.mark.parametrize("state", [Reserved, Trained])


def reserve(silo, kind):
    """Die in the middle of round 1's training, as far as the disk knows."""

    def durably(name):
        if name == kind.__name__:
            raise KeyboardInterrupt

    silo.advance()
    silo.start(durably)
    silo.port.phase = RoundPhase.COLLECTING
    with pytest.raises(KeyboardInterrupt):
        silo.advance()
    silo.start()
    assert silo.state == kind.__name__
    assert silo.budget.reserved


def leave_files(silo, number=1):
    """What a round keeps on the disk while it runs."""
    kept = [
        silo.folder / "outbox" / silo.job.hex() / str(number),
        silo.folder / "artifacts" / silo.job.hex() / f"sum-{number}",
        silo.folder / "artifacts" / silo.job.hex() / f"sum-{number}.part",
    ]
    for folder in kept:
        folder.mkdir(parents=True)
        (folder / "residues").write_bytes(b"r")
    return kept


def secrets_of(silo):
    return [secret for secret in Secret if silo.home.vault.has(silo.job, secret)]


def taking_part(silo):
    participation = silo.take_part()
    participation._show = lambda _record: None  # the dataset is made up
    participation._preparation.charged = lambda _record: silo.charged
    return participation


@pytest.mark.parametrize("phase", PHASES)
def test_of_a_job_that_is_over_no_key_and_no_ciphertext_stays(silo, phase):
    kept = leave_files(silo)
    silo.port.job = silo.job_view(phase, current=0)
    assert secrets_of(silo)
    assert silo.take_part().advance().over
    assert secrets_of(silo) == []
    assert [folder for folder in kept if folder.exists()] == []


def test_of_a_job_that_was_left_no_key_stays_either(silo):
    kept = leave_files(silo)
    other = silo.cohort.sign(KeyDeal(plan=silo.job.hex(), silo=OWN, roll="0" * 64, key_commitment="1" * 64, mails=()))
    silo.port.job = silo.job_view(deal=other)
    assert silo.take_part().advance() is JobState.OUT
    assert secrets_of(silo) == []
    assert [folder for folder in kept if folder.exists()] == []


@LEFT
@pytest.mark.parametrize(
    "answer",
    [ProtocolError("round 1", "was never announced", "Ask."), InternalError("the other side", "met a bug", "Ask.")],
    ids=lambda answer: type(answer).__name__,
)
def test_a_job_that_ends_leaves_no_reservation_open(tmp_path, state, answer):
    silo = LoneSilo(tmp_path, charged=True)
    reserve(silo, state)
    silo.port.job = silo.job_view(JobPhase.CANCELLED)
    silo.port.refuses["get_round"] = answer
    assert taking_part(silo).advance() is JobState.CANCELLED
    assert not silo.budget.reserved
    assert (silo.entries[-1].kind, silo.entries[-1].outcome) == ("commit", "presumed")
    silo.home.store.check()


@LEFT
def test_a_job_that_is_left_leaves_no_reservation_open(tmp_path, state):
    silo = LoneSilo(tmp_path, charged=True)
    reserve(silo, state)
    other = silo.cohort.sign(KeyDeal(plan=silo.job.hex(), silo=OWN, roll="0" * 64, key_commitment="1" * 64, mails=()))
    silo.port.job = silo.job_view(deal=other)
    assert taking_part(silo).advance() is JobState.OUT
    assert not silo.budget.reserved
    assert silo.entries[-1].outcome == "presumed"


@pytest.mark.parametrize("state", [state for state in JobState if state.over])
def test_what_a_crash_left_of_a_job_that_is_over_goes_at_the_next_start(silo, state):
    kept = leave_files(silo)
    silo.stand(state)
    start_agent(silo)
    assert secrets_of(silo) == []
    assert [folder for folder in kept if folder.exists()] == []


def test_what_a_crash_left_of_a_round_that_is_over_goes_at_the_next_start(silo):
    ended, running = leave_files(silo, 1), leave_files(silo, 2)
    ctx = RoundContext(silo.job, 2, silo.ctx.adapter_digest, silo.ctx.participants)
    with silo.home.store.writing() as tx:
        put_round_state(tx.connection, silo.job, 1, Idle(), Applied(silo.ctx, NOW, b"a" * 32))
        put_round_state(tx.connection, silo.job, 2, Idle(), Joined(ctx, NOW))
    start_agent(silo)
    assert [folder for folder in ended if folder.exists()] == []
    assert [folder for folder in running if not folder.exists()] == []
    assert secrets_of(silo)


def start_agent(silo):
    """As far as the daemon gets before it dials."""
    board = StatusBoard(silo.folder, OWN, lambda: NOW)
    agent = Agent(silo.home, silo.port, lambda: None, lambda: NOW, board)
    agent._thread = lambda _job: None
    agent._take_up()
