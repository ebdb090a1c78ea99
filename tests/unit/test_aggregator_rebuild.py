"""After every step, a second runner on the same database stands exactly where the first does; deadlines; forgetting."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cloister.wire import JobPhase, RoundPhase
from sqlalchemy import text
from structlog.testing import capture_logs

from aggregator import job as jobs
from aggregator import round_states as states
from aggregator import statements
from aggregator.accumulate import Upload, passing_chunks
from aggregator.blobs import Blobs, storage_error
from aggregator.job_events import CoordinatorCancelled
from aggregator.live import LiveJob
from aggregator.metrics import AggregatorMetrics
from aggregator.presence import Stream
from aggregator.reading import ReadingDesk
from aggregator.record import round_record
from aggregator.runner import Runner
from aggregator.statements import StatementDesk
from aggregator.store import JobRow, Store
from aggregator.tables import METADATA
from certs.identity import Identity
from certs.names import PartyId, Role
from privacy.ckks.fingerprint import encode, fingerprint_of
from privacy.ckks.layout import Layout, add_into
from privacy.ckks.layouts import layout_of
from privacy.errors import ConfigError, ProtocolError, Unavailable
from privacy.plan import RoundContext
from privacy.roll import JobRefusal, KeyDeal, MailDigest, check_roll, dealer_of
from privacy.statement import Signed, read
from privacy.transcript import Applied, Fingerprint, RoundJoin, Withdrawal, commit_digest, transcript_digest
from tests.parties import KEY_COMMITMENT, Cohort
from tests.scripted import FakeUpdate, fake_update

NAMES = ("a", "b", "c")
Sums = tuple[int, ...]


class Office:
    """A runner without a network, a clock that is set by hand, and the silos' keys."""

    def __init__(self, folder: Path, cohort: Cohort | None = None) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.folder = folder
        self.cohort = cohort or Cohort(*NAMES)
        self.plan = self.cohort.plan
        self.job = self.plan.digest()
        self.runner = self.restarted()
        live = LiveJob(self.job, self.plan, self.now, jobs.submit(self.plan, self.now))
        row = JobRow(
            self.job, self.plan.name, self.plan.encode(), JobPhase.JOINING, "", None,
            live.deadline_utc, "coordinator", self.now, None, False,
        )  # fmt: skip
        self.runner.adopt(live, lambda tx: tx.add_job(row))
        self.desk = StatementDesk(self.runner)

    def restarted(self) -> Runner:
        """What a new process builds from the same folder."""
        store = Store.open(self.folder / "aggregator.db")
        identity = Identity(PartyId("test", Role.AGGREGATOR, "aggregator"), b"", self.cohort.keys["aggregator"])
        runner = Runner(store, Blobs(self.folder / "blobs"), identity, lambda: self.now, grace_s=0.0, keep_s=3600.0)
        runner.resume()
        return runner

    @property
    def live(self) -> LiveJob:
        return self.runner.live(self.job)

    def same_after_restart(self) -> None:
        again = self.restarted().live(self.job)
        mine = self.live
        for one, other in ((mine.state, again.state), (mine.round, again.round)):
            assert comparable(one) == comparable(other)
        assert mine.ctx == again.ctx

    def late(self) -> None:
        self.now += timedelta(hours=1)
        self.runner._pass_deadline(self.live)
        self.same_after_restart()

    def say(self, method: str, silo: str, signed: Signed, *more: object) -> None:
        getattr(self.desk, method)(silo, signed, *more)
        self.same_after_restart()

    # -- what silos say ------------------------------------------------------------------------------------------------

    def join(self, *names: str) -> None:
        for name in names:
            self.say("join_job", name, self.cohort.job_join(name))

    def refuse(self, name: str) -> None:
        refusal = JobRefusal(plan=self.job.hex(), silo=name, reason="policy")
        self.say("refuse_job", name, self.cohort.sign(refusal))

    def deal(self) -> None:
        roll = self.live.state.roll
        dealer = dealer_of(self.job, roll)
        mails = {name: b"mail for " + name.encode() for name in roll.members if name != dealer}
        digests = tuple(MailDigest(to=to, sha256=hashlib.sha256(sealed).hexdigest()) for to, sealed in mails.items())
        deal = KeyDeal(
            plan=self.job.hex(), silo=dealer, roll=roll.digest.hex(), key_commitment=KEY_COMMITMENT.hex(), mails=digests
        )
        with pytest.raises(ProtocolError, match="not every mail that was signed came"):
            self.desk.deal_key(dealer, self.cohort.sign(deal), {})
        self.say("deal_key", dealer, self.cohort.sign(deal), mails)

    def connect(self, *names: str) -> None:
        for name in names:
            self.runner.open_stream(Stream(name))

    def ctx(self) -> RoundContext:
        assert self.live.ctx is not None
        return self.live.ctx

    def join_round(self, *names: str) -> None:
        for name in names:
            self.say("join_round", name, self.round_join(name))

    def round_join(self, name: str) -> Signed:
        return self.cohort.sign(RoundJoin.model_validate(self.cohort.bound(name, self.ctx())))

    def withdraw(self, name: str) -> None:
        signed = self.cohort.sign(Withdrawal.model_validate(self.cohort.bound(name, self.ctx())))
        self.say("withdraw", name, signed)

    def update(self, name: str) -> FakeUpdate:
        return fake_update(self.plan.values, NAMES.index(name))

    def header(self, name: str) -> Signed:
        update = self.update(name)
        return self.cohort.header(name, self.ctx(), residues_root=update.root, seeds_sha256=update.seeds_sha256)

    def upload(self, name: str) -> Upload | None:
        return self.desk.open_upload(name, self.header(name))

    def submit(self, *names: str) -> None:
        for name in names:
            upload, update = self.upload(name), self.update(name)
            assert upload is not None
            with upload:
                upload.add_attached(*update.attached)
                for chunk in update.chunks:
                    upload.add_residues(chunk)
                self.desk.accept(upload.finish())
            self.same_after_restart()

    def fingerprint(self, *names: str, wrong: bool = False) -> None:
        for name in names:
            signed = self.signed_fingerprint(name, update=fake_update(self.plan.values, 99) if wrong else None)
            if wrong:
                with pytest.raises(ProtocolError, match="fingerprint: is not that of the update that was sent"):
                    self.desk.fingerprint(name, signed)
            else:
                self.say("fingerprint", name, signed)

    def committed(self) -> bytes:
        """H(tau1)."""
        found = ReadingDesk(self.runner).round("a", self.job, self.ctx().round_number)
        assert found.commit is not None
        return commit_digest(found.commit, found.headers)

    def transcript(self) -> bytes:
        """H(tau2)."""
        found = ReadingDesk(self.runner).round("a", self.job, self.ctx().round_number)
        return transcript_digest(self.committed(), found.fingerprints)

    def signed_fingerprint(
        self, name: str, *, update: FakeUpdate | None = None, unopened: tuple[str, ...] = ()
    ) -> Signed:
        commit = self.committed()
        value = encode(fingerprint_of(layout_of(self.plan), commit, (update or self.update(name)).chunks))
        fields = {"commit": commit.hex(), "value": value, "unopened": unopened}
        return self.cohort.sign(Fingerprint.model_validate({**self.cohort.bound(name, self.ctx()), **fields}))

    def consent(self, *names: str) -> None:
        for name in names:
            self.say("consent", name, self.cohort.consent(name, self.transcript(), self.ctx()))

    def certify(self, *consenting: str) -> None:
        """A round from the beginning, with everybody's update in its sum, as far as these consents."""
        self.join_round(*NAMES)
        self.submit(*NAMES)
        self.fingerprint(*NAMES)
        self.consent(*consenting)

    def applied(self, name: str, adapter: bytes, ctx: RoundContext | None = None, validation: Sums = ()) -> None:
        fields = {**self.cohort.bound(name, ctx or self.ctx()), "adapter": adapter.hex(), "validation": validation}
        self.say("applied", name, self.cohort.sign(Applied.model_validate(fields)))


def comparable(state: object) -> object:
    """Who is connected, and who was absent, is not stored: after a restart nobody is connected yet."""
    if isinstance(state, jobs.Gathering):
        return replace(state, connected=frozenset(), progress=replace(state.progress, absent=frozenset()))
    if isinstance(state, jobs.Running):
        return replace(state, progress=replace(state.progress, absent=frozenset()))
    if isinstance(state, states.Fingerprinting):  # neither is whose fingerprint was wrong: it is asked again
        return replace(state, wrong=frozenset())
    if isinstance(state, jobs.Joining):
        return replace(state, joins=dict(state.joins))
    return state


@pytest.fixture(name="office")
def _office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.fixture(name="running")
def _running(office: Office) -> Office:
    """Dealt, and round 1 announced to all three."""
    office.join(*NAMES)
    office.deal()
    office.connect(*NAMES)
    office.same_after_restart()
    return office


def test_every_step_of_a_job(running: Office) -> None:
    for number in (1, 2):
        running.join_round(*NAMES)
        running.submit("a")
        running.withdraw("b")
        running.submit("c")
        assert isinstance(running.live.round, states.Fingerprinting)
        running.fingerprint("c", "a")
        assert isinstance(running.live.round, states.Committed)
        running.consent("b", "a", "c")
        assert isinstance(running.live.round, states.Releasing)
        for name in NAMES:
            running.applied(name, b"%d" % number * 32)
    assert isinstance(running.live.state, jobs.Finished)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in AggregatorMetrics(running.runner).collect()
        for sample in metric.samples
    }
    assert samples["cloister_rounds", "PUBLISHED"] == 2
    assert samples["cloister_jobs", "FINISHED"] == 1
    assert samples["cloister_connected_silos",] == 3
    assert ReadingDesk(running.runner).job("a", running.job).opened_rounds == (1, 2)


def test_every_deadline(running: Office) -> None:
    running.join_round("a", "b")
    running.late()
    assert isinstance(running.live.round, states.Announced)  # round 2, with the two who had joined
    assert running.ctx().participants == ("a", "b")
    running.join_round("a", "b")
    running.submit("a")
    running.late()
    assert (running.live.number, type(running.live.round)) == (3, states.Announced)
    running.late()
    assert isinstance(running.live.round, states.Announced)
    running.late()
    assert isinstance(running.live.state, jobs.Stopped)
    assert "0 of 2 rounds were published in 4 attempts" in running.live.state.reason


def test_the_deadlines_after_the_commit(running: Office) -> None:
    running.join_round(*NAMES)
    running.submit("a", "b")
    running.late()
    assert running.live.round.members == ("a", "b")
    running.fingerprint("a", "b")
    running.consent("c")
    running.late()
    assert running.live.number == 2
    running.join_round("a", "c")
    assert running.live.round.terms.participants == ("a", "b", "c")
    running.join_round("b")
    running.submit(*NAMES)
    running.fingerprint(*NAMES)
    running.consent("a", "b")
    running.applied("a", b"1" * 32)
    running.late()
    assert running.live.state.progress.adapter == b"1" * 32
    running.applied("b", b"1" * 32, running.ctx() if running.live.number == 2 else context_of_round(running, 2))


def context_of_round(office: Office, number: int) -> RoundContext:
    found = ReadingDesk(office.runner).round("a", office.job, number)
    return RoundContext(office.job, number, found.adapter_digest, found.participants)


def test_a_late_disagreement_stops_the_job(running: Office) -> None:
    running.certify("a", "b")
    first = running.ctx()
    for name in ("a", "b"):
        running.applied(name, b"1" * 32)
    assert running.live.number == 2
    running.applied("c", b"2" * 32, first)
    assert "adapter digests differ after round 1: c" in running.live.state.reason
    assert running.live.round.reason == running.live.state.reason


def test_a_late_disagreement_about_the_validation_stops_the_job_and_leaves_the_record_to_the_others(
    running: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "require_validation", lambda plan, applied: None)  # this plan publishes none
    running.certify("b", "c")
    first = running.ctx()
    for name in ("b", "c"):
        running.applied(name, b"1" * 32, first, (4, 5, 6))
    assert running.live.number == 2
    running.applied("a", b"1" * 32, first, (9, 9, 9))
    assert "validation sums differ after round 1: a opened others" in running.live.state.reason
    with running.runner.store.reading() as tx:
        row = tx.job(running.job)
        assert row is not None
        record = round_record(tx, row, running.plan, 1)
    said = [read(signed.signed, Applied) for signed in record.applied]
    assert [(each.silo, each.validation) for each in said] == [("b", (4, 5, 6)), ("c", (4, 5, 6))]


def test_a_disagreement_after_the_end_of_a_job_is_logged(running: Office) -> None:
    number = 0
    while isinstance(running.live.state, jobs.Running):
        number += 1
        running.certify("b", "c")
        last = running.ctx()
        for name in ("b", "c"):
            running.applied(name, bytes([number]) * 32, last)
    assert isinstance(running.live.state, jobs.Finished)
    with capture_logs() as logs:
        running.applied("a", b"x" * 32, last)
    (said,) = [each for each in logs if each["log_level"] == "warning"]
    assert (said["event"], "a computed another adapter" in said["why"]) == (
        "silos disagree after the end of a job",
        True,
    )


def test_joining_and_dealing_deadlines(office: Office) -> None:
    office.join("a", "b", "c")
    first = office.live.state.dealer
    office.late()
    assert first not in office.live.state.roll.members
    office.late()
    assert isinstance(office.live.state, jobs.Stopped)


def test_another_dealer_is_news_to_those_who_follow(office: Office) -> None:
    reading, sent = ReadingDesk(office.runner), {}
    office.join(*NAMES)
    first = office.live.state.dealer
    assert [notice.job_phase for notice in reading.notices("a", sent)] == [JobPhase.DEALING]
    office.late()
    assert office.live.state.dealer != first
    assert [notice.job_phase for notice in reading.notices("a", sent)] == [JobPhase.DEALING]


def test_a_refusal_and_too_few(office: Office) -> None:
    office.join("a")
    office.refuse("b")
    office.refuse("c")
    assert "1 silos are in; of 3 it takes 2" in office.live.state.reason


def test_an_update_after_the_deadline_is_dropped_and_changes_nothing(running: Office) -> None:
    running.join_round(*NAMES)
    late = running.upload("c")
    assert late is not None
    running.submit("a", "b")
    with late:
        update = fake_update(running.plan.values, NAMES.index("c"))
        late.add_attached(*update.attached)
        for chunk in update.chunks:
            late.add_residues(chunk)
        staged = late.finish()
    running.late()
    with pytest.raises(ProtocolError, match="round 1: is FINGERPRINTING and takes no update"):
        running.desk.accept(staged)
    assert not staged.residues.exists()
    assert running.live.round.members == ("a", "b")
    with pytest.raises(ProtocolError, match="it is FINGERPRINTING and takes no update"):
        running.upload("c")


def test_a_commit_that_cannot_be_written_happens_later(running: Office) -> None:
    running.join_round(*NAMES)
    running.submit("a", "b")
    folder = running.runner.blobs.round(running.job, 1)
    (folder / "sum-1").mkdir()  # the sum cannot be put there
    with pytest.raises(ConfigError, match=r"blob .*sum"):
        running.submit("c")
    running.same_after_restart()
    assert running.live.round.submitted == {"a", "b"}
    (folder / "sum-1").rmdir()
    assert not (folder / "sum-1.part").exists()
    running.submit("c")
    assert running.live.round.members == NAMES


def total(*names: str) -> bytes:
    plan = Cohort("a", "b", "c").plan
    layout = Layout(plan.values)
    sums = layout.empty_sum()
    for name in names:
        add_into(sums, np.frombuffer(b"".join(fake_update(plan.values, NAMES.index(name)).chunks), np.uint64))
    return sums.tobytes()


def test_whose_fingerprint_does_not_come_is_left_out_of_a_second_commit(running: Office) -> None:
    running.join_round(*NAMES)
    running.submit(*NAMES)
    running.fingerprint("a", "c")
    running.late()
    assert (running.live.round.members, running.live.round.attempt) == (("a", "c"), 2)
    running.same_after_restart()
    folder = running.runner.blobs.round(running.job, 1)
    assert [path.name for path in folder.glob("sum*")] == ["sum-2"]
    assert (folder / "sum-2").read_bytes() == total("a", "c")
    with pytest.raises(ProtocolError, match="round 1: its sum is without the update of b"):
        running.fingerprint("b")
    assert running.live.state.progress.absent == {"b"}, "the next round does not wait for it"
    running.fingerprint("a", "c")
    running.consent("a", "b")
    for name in ("a", "b"):
        running.applied(name, b"1" * 32)
    assert running.live.number == 2


def test_a_second_commit_is_news_to_those_who_follow(running: Office) -> None:
    """Nothing else tells an agent that it has to answer once more: it looks at a job when it is told to."""
    reading, sent = ReadingDesk(running.runner), {}
    running.join_round(*NAMES)
    running.submit(*NAMES)
    running.fingerprint("a", "c")
    assert [notice.round_phase for notice in reading.notices("a", sent)] == [RoundPhase.FINGERPRINTING]
    assert reading.notices("a", sent) == ()
    running.late()
    assert [notice.round_phase for notice in reading.notices("a", sent)] == [RoundPhase.FINGERPRINTING]
    assert reading.notices("a", sent) == ()


def test_a_second_commit_costs_what_it_costs_beside_the_first(running: Office) -> None:
    running.join_round(*NAMES)
    running.submit(*NAMES)
    spent_ns = 10**15
    with running.runner.turn(running.job) as turn:
        turn.tx.add_aggregation(running.job, 1, spent_ns)
    running.fingerprint("a", "c")
    running.late()
    with running.runner.store.reading() as tx:
        assert tx.round(running.job, 1).aggregation_ns > spent_ns


def test_whose_fingerprint_is_wrong_is_left_out_at_once(running: Office) -> None:
    running.join_round(*NAMES)
    running.submit(*NAMES)
    running.fingerprint("b", wrong=True)
    running.fingerprint("a", "c")
    assert (running.live.round.members, running.live.round.attempt) == (("a", "c"), 2)
    assert not running.live.state.progress.absent


def test_a_silo_that_asks_again_and_again_costs_one_pass_over_its_update(
    running: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    counted = lambda path, size: passes.append(path) or passing_chunks(path, size)  # noqa: E731
    monkeypatch.setattr(statements, "passing_chunks", counted)
    running.join_round(*NAMES)
    running.submit(*NAMES)
    for _ in range(3):
        running.fingerprint("b", wrong=True)
    assert len(passes) == 1
    running.fingerprint("a", "c")  # the second commit draws another rho
    running.fingerprint("a")
    assert len(passes) == 4


def test_a_wrong_fingerprint_may_be_corrected_while_others_are_waited_for(running: Office) -> None:
    running.join_round(*NAMES)
    running.submit(*NAMES)
    running.fingerprint("b", wrong=True)
    running.fingerprint(*NAMES)
    assert isinstance(running.live.round, states.Committed)


def test_too_few_fingerprints_abort(running: Office) -> None:
    running.join_round(*NAMES)
    running.submit(*NAMES)
    running.fingerprint("a")
    running.late()
    row = running.runner.store.reading
    with row() as tx:
        assert tx.round(running.job, 1).reason == "1 fingerprints hold, fewer than the minimum of 2; none of b, c"


def test_a_fingerprint_under_a_replaced_commit_is_refused(running: Office) -> None:
    running.join_round(*NAMES)
    running.submit(*NAMES)
    found = ReadingDesk(running.runner).round("a", running.job, 1)
    old = running.cohort.fingerprint("a", commit_digest(found.commit, found.headers), ctx=running.ctx())
    running.fingerprint("a", "c")
    running.late()
    with pytest.raises(ProtocolError, match="is under another commit of round 1"):
        running.desk.fingerprint("a", old)


def test_nothing_is_read_for_a_fingerprint_under_another_commit(running: Office) -> None:
    running.join_round(*NAMES)
    running.submit(*NAMES)
    for path in running.runner.blobs.round(running.job, 1).glob("*.residues"):
        path.unlink()
    with pytest.raises(ProtocolError, match="is under another commit of round 1"):
        running.desk.fingerprint("a", running.cohort.fingerprint("a", b"x" * 32, ctx=running.ctx()))


def test_blobs_of_a_closed_job_go_after_a_while(running: Office) -> None:
    running.certify("a", "b")
    sums = running.runner.blobs.sum(running.job, 1, 1)
    for name in ("a", "b"):
        running.applied(name, b"1" * 32)
    assert sorted(path.suffix for path in sums.parent.iterdir()) == ["", ".seeds", ".seeds", ".seeds"]
    with running.runner.turn(running.job) as turn:
        turn.tell_job(CoordinatorCancelled())
    assert sums.exists()
    running.now += timedelta(minutes=59)
    running.runner._pass_deadline(running.live)
    assert sums.exists()
    running.now += timedelta(minutes=2)
    running.runner._pass_deadline(running.live)
    assert not sums.exists()
    assert running.restarted().live(running.job).forgotten
    with pytest.raises(ProtocolError, match="was removed when the job was over for long"):
        ReadingDesk(running.runner).sum("a", running.job, 1)


def test_roll_and_dealer_are_those_of_the_joins(office: Office) -> None:
    office.join(*NAMES)
    roll = check_roll(office.plan, [office.cohort.job_join(name) for name in NAMES])
    assert office.live.state.dealer == dealer_of(office.job, roll)


def test_the_migration_makes_the_tables_the_code_uses(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "aggregator.db")
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_a_database_from_the_future_is_refused(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "aggregator.db")
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'aggregator_9999'"))
    store.close()
    with pytest.raises(ConfigError, match=r"newer version of Cloister \(schema aggregator_9999\)"):
        Store.open(tmp_path / "aggregator.db")


def test_unavailable_is_what_a_full_disk_is() -> None:
    assert isinstance(storage_error(Path("x/y"), OSError(28, "No space left on device")), Unavailable)
    assert isinstance(storage_error(Path("x/y"), OSError(13, "Permission denied")), ConfigError)
