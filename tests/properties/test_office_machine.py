"""Budgets in silo.db, whatever is tried in whatever order: jobs, crashes, retries, restored backups, changes.

What left the silo was paid for, and never more than the cap, in the ledger that goes on; no round is admitted beyond a
sub-cap; an auditor's verifier agrees at the end. Jobs are approved, and rounds go on, by the agent's own functions.
"""

import shutil
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from privacy.accounting import ZERO, Vector, add, rdp_epsilon
from privacy.budget import BudgetState, RoundKey
from privacy.errors import Refused
from privacy.ledger.checkpoint import Checkpoint, open_checkpoint
from privacy.ledger.codec import decode_entry
from privacy.ledger.verify import verify_log
from privacy.ledger.witness import RewrittenError, check_own
from privacy.plan import JobPlan, RoundContext
from privacy.two_person import AdminChange, Proposal, SubCapChange
from runtime.ledger_store import Ledger
from silo_agent import approval, datasets, office
from silo_agent.accounts import find_budget
from silo_agent.entries import Charged
from silo_agent.home import Home
from silo_agent.jobs import JobState, add_job, set_job_state
from silo_agent.membership import Membership
from silo_agent.register import RegisteredDataset, add_dataset
from silo_agent.round import TABLE, step
from silo_agent.round_events import (
    CollectingOpened,
    Event,
    ReservationDenied,
    Restarted,
    RoundAnnounced,
    TrainingFailed,
    TrainingFinished,
    UpdateSealed,
)
from silo_agent.round_log import Denied, RoundLog
from silo_agent.statements import round_state
from silo_agent.tables import LEDGER
from tests.lone_silo import NAMES, NOW, STEPS, STEWARD, LoneSilo
from tests.tiny import tiny_dataset

PEOPLE = {person: Ed25519PrivateKey.generate() for person in ("dr-weber", "ms-okoro")}
JOBS, ROUNDS = st.integers(0, 1), st.integers(1, 6)
PEOPLE_ASKED = st.sampled_from([(), ("dr-weber",), ("dr-weber", "ms-okoro")])
SOON = NOW + timedelta(days=30)
CAPS = st.sampled_from([0.2, 0.3, 0.5, 0.7, 1.0, None])  # of which 0.5 lets a job have one round
EPSILONS = st.sampled_from([0.2, 0.5, 1.0, 1.5, 2.0, 3.0])


class Crash(Exception):
    """The process dies inside of a transaction."""


def crash(*_: object) -> None:
    raise Crash


def signed(proposal: Proposal, *people: str) -> Proposal:
    for person in people:
        proposal = proposal.signed(person, PEOPLE[person].sign)
    return proposal


@pytest.fixture(scope="module", autouse=True)
def founded(tmp_path_factory):
    """A silo with a budget, two jobs and two administrators; each example starts from a copy of it.

    Data and model are as they must be.
    """
    silo = LoneSilo(tmp_path_factory.mktemp("office") / "silo", charged=True, epsilon=1.5, approved=False)
    Office.plans = (silo.plan, silo.plan.model_copy(update={"nonce": "2" * 64, "purpose": "readmission"}))
    with silo.home.store.writing() as tx:
        add_dataset(tx.connection, RegisteredDataset("visits", "patients", silo.folder, "{}"), (), NOW)
        add_job(tx.connection, Office.plans[1], NOW)
    silo.stand(JobState.SEEN)
    for person, key in PEOPLE.items():
        raw = key.public_key().public_bytes_raw().hex()
        change = AdminChange(action="add", person=person, public_key=raw)
        office.record(silo.home, signed(office.propose_admin(silo.home, change, "first two", SOON), person), STEWARD)
    silo.home.store.close()
    Office.silo = silo
    records = tiny_dataset(public_size=20)
    with pytest.MonkeyPatch.context() as patched:
        for place, name in ((approval, "check_weights"), (approval, "model_folder"), (datasets, "require_fit")):
            patched.setattr(place, name, lambda *_: None)
        patched.setattr(approval, "loaded", lambda *_: records)
        yield


class Office(RuleBasedStateMachine):
    silo: LoneSilo
    plans: tuple[JobPlan, JobPlan]

    @initialize()
    def begin(self) -> None:
        self.place = TemporaryDirectory()
        self.folder = Path(self.place.name) / "silo"
        shutil.copytree(self.silo.folder, self.folder)
        self.home = Home.open(self.folder, {})
        self.shown: Checkpoint | None = None
        self.backups: list[Path] = []
        self.left: dict[RoundKey, Vector] = {}
        for job in range(2):
            self.approving(job, 0)

    def teardown(self) -> None:
        if hasattr(self, "home"):
            self.home.store.check()
            self.verify()
            self.home.store.close()
            self.place.cleanup()

    # -- what a job does -----------------------------------------------------------------------------------------------

    def member(self, job: int) -> Membership:
        plan, lone = self.plans[job], self.silo.runner._member
        assert plan.dp is not None
        charged = Charged(plan, plan.dp, "patients", "visits")
        return Membership(plan.digest(), plan, lone.silo, lone.roll, lone.deal, lone.key_commitment, charged)

    @property
    def budget(self) -> BudgetState:
        with self.home.store.reading() as connection:
            found = find_budget(connection, "patients", whole=True)
        assert found is not None
        return found

    def key(self, job: int, number: int) -> RoundKey:
        return RoundKey(self.plans[job].digest().hex(), number)

    def ctx(self, job: int, number: int) -> RoundContext:
        return RoundContext(self.plans[job].digest(), number, self.silo.ctx.adapter_digest, NAMES)

    @rule(job=JOBS, extra=st.integers(0, 2))
    def approving(self, job: int, extra: int) -> None:
        before, plan = self.budget, self.plans[job]
        try:
            approval.approve(self.home, plan, "visits", STEWARD, approval.Terms(extra_rounds=extra))
        except Refused:
            assert self.budget == before
        else:
            digest = plan.digest().hex()
            held = sum(key.job == digest for key in before.reserved)  # since before it was refused
            assert self.budget.rounds_left(digest) == plan.rounds + extra - held
            assert self.within_sub_caps(self.key(job, 0), plan.rounds + extra)

    @rule(job=JOBS)
    def refusing(self, job: int) -> None:
        """Refused; then the job waits for a decision again, so that it can be approved anew."""
        plan = self.plans[job]
        approval.refuse(self.home, plan, "steward", None, STEWARD)
        assert plan.digest().hex() not in self.budget.grants
        with self.home.store.writing() as tx:
            set_job_state(tx.connection, plan.digest(), JobState.SEEN, NOW, expected=JobState)

    def happen(self, job: int, number: int, event: Event, *, dies: bool = False) -> None:
        """An event in a round, as the runner writes it; nothing if the round is not at a state that knows it."""
        member = self.member(job)
        log = RoundLog(self.home, member, lambda: NOW, None)
        if dies:
            log._note_end = crash  # type: ignore[method-assign]
        with self.home.store.reading() as connection:
            state = round_state(connection, member.job, number)
        if (type(state).__name__, type(event).__name__) not in TABLE:
            return
        before = self.budget
        try:
            following, actions = step(state, event, NOW)
            written = log.write(number, state, event, following, actions, None)
        except Crash:
            assert self.budget == before
            return
        if isinstance(written, Denied):
            assert self.budget == before
            self.happen(job, number, ReservationDenied(written.why))

    @rule(job=JOBS, number=ROUNDS, dies=st.booleans())
    def reserving(self, job: int, number: int, *, dies: bool) -> None:
        before, key = self.budget, self.key(job, number)
        if key.job not in before.grants and number > 1:
            return  # a number that is denied is lost for good: to deny one is enough
        self.happen(job, number, RoundAnnounced(self.ctx(job, number)))
        self.happen(job, number, CollectingOpened(), dies=dies)
        if key in self.budget.reserved and key not in before.reserved:
            assert before.rounds_left(key.job) > 0
            assert self.within_sub_caps(key)

    def drawn(self, data: st.DataObject) -> tuple[int, int]:
        """The job and the number of a round that is reserved."""
        key = data.draw(st.sampled_from(sorted(self.budget.reserved)))
        return [plan.digest().hex() for plan in self.plans].index(key.job), key.round_number

    @precondition(lambda self: self.budget.reserved)
    @rule(data=st.data(), dies=st.booleans())
    def charging(self, data: st.DataObject, *, dies: bool) -> None:
        job, number = self.drawn(data)
        self.happen(job, number, TrainingFinished(STEPS, STEPS, STEPS))
        digest, key = f"{job}{number}" * 32, self.silo.commitment.hex()
        parts = {"key_commitment": key, "residues_root": digest, "seeds_sha256": digest}
        self.happen(job, number, UpdateSealed(parts), dies=dies)

    @precondition(lambda self: self.budget.reserved)
    @rule(data=st.data(), steps=st.integers(0, STEPS), dies=st.booleans())
    def failing(self, data: st.DataObject, steps: int, *, dies: bool) -> None:
        """Given back if nothing ran, else charged in full."""
        before, (job, number) = self.budget, self.drawn(data)
        self.happen(job, number, TrainingFailed(steps, "the test says so"), dies=dies)
        if self.key(job, number) not in self.budget.reserved:
            assert (self.budget.committed == before.committed) == (steps == 0)

    @precondition(lambda self: self.budget.reserved)
    @rule(data=st.data())
    def restarting(self, data: st.DataObject) -> None:
        job, number = self.drawn(data)
        self.happen(job, number, Restarted())
        assert self.key(job, number) in self.budget.closed

    @precondition(lambda self: self.commits())
    @rule(data=st.data())
    def sending(self, data: st.DataObject) -> None:
        """The ledger is shown, then the update leaves: only one that is charged, as the round machine has it."""
        commit = data.draw(st.sampled_from(self.commits()))
        if commit.outcome == "executed":
            self.showing()
            self.left[commit.key] = commit.charge.rdp

    def entries(self):
        with self.home.store.reading() as connection:
            return [decode_entry(body) for body in Ledger(connection, LEDGER).entries()]

    def commits(self):
        return [entry for entry in self.entries() if entry.kind == "commit"]

    def within_sub_caps(self, key: RoundKey, more: int = 0) -> bool:
        """What the ledger charged to the job of this round and to its purpose, and what is reserved, is within the caps
        as they are now; so it is with so many more rounds of the job's.
        """
        budget, plan = self.budget, next(plan for plan in self.plans if plan.digest().hex() == key.job)
        of_purpose = {other.digest().hex() for other in self.plans if other.purpose == plan.purpose}
        held = [(entry.job, entry.charge.rdp) for entry in self.commits()]
        held += [(reserved.job, vector) for reserved, vector in budget.reserved.items()]
        asked = [budget.grants[key.job].vector] * more
        own = self.epsilon([*(vector for job, vector in held if job == key.job), *asked])
        all_ = self.epsilon([*(vector for job, vector in held if job in of_purpose), *asked])
        limits = ((budget.sub_caps.per_job, own), (budget.sub_caps.of(plan.purpose), all_))
        return all(cap is None or epsilon <= cap for cap, epsilon in limits)

    def epsilon(self, vectors: Iterable[Vector]) -> float:
        total = ZERO
        for vector in vectors:
            total = add(total, vector)
        return rdp_epsilon(total, self.budget.policy.delta)

    def verify(self) -> None:
        with self.home.store.writing() as tx:
            tx.ledger.checkpoint(self.home.identity.sign, NOW)
        with self.home.store.reading() as connection:
            ledger = Ledger(connection, LEDGER)
            log, leaves = ledger.identity, ledger.leaf_hashes(ledger.size)
            verify_log(ledger.entries(), ledger.notes(), log.origin, log.public_key, leaves)

    # -- what people do ------------------------------------------------------------------------------------------------

    def recorded(self, proposal: Proposal, people: tuple[str, ...]) -> bool:
        before = self.budget
        try:
            office.record(self.home, signed(proposal, *people), STEWARD)
        except Refused:
            assert self.budget == before
            return False
        return True

    @rule(epsilon=EPSILONS, people=PEOPLE_ASKED)
    def changing_the_cap(self, epsilon: float, people: tuple[str, ...]) -> None:
        try:
            proposal = office.propose_budget(self.home, "patients", epsilon, "study", SOON)
        except Refused:
            return
        assert self.recorded(proposal, people) == (len(people) == 2)

    @rule(epsilon=CAPS, purpose=st.sampled_from([None, "readmission"]), people=PEOPLE_ASKED)
    def capping(self, epsilon: float | None, purpose: str | None, people: tuple[str, ...]) -> None:
        try:
            proposal = office.propose_sub_cap(self.home, "patients", purpose, epsilon, "board", SOON)
        except Refused:
            return
        change = proposal.statement.change
        assert isinstance(change, SubCapChange)
        alone = change.tightens and not people
        assert self.recorded(proposal, people) == (alone or len(people) == 2)

    # -- what happens to the machine -----------------------------------------------------------------------------------

    @rule()
    def showing(self) -> None:
        with self.home.store.writing() as tx:
            note = tx.ledger.checkpoint(self.home.identity.sign, STEWARD.now)
            identity = tx.ledger.identity
        self.shown = open_checkpoint(note, identity.origin, identity.public_key)

    @rule()
    def backing_up(self) -> None:
        self.home.store.close()
        backup = self.folder.with_name(f"backup-{len(self.backups)}")
        shutil.copytree(self.folder, backup)
        self.backups.append(backup)
        self.home = Home.open(self.folder, {})

    @rule(data=st.data())
    def restoring(self, data: st.DataObject) -> None:
        """The agent of a restored folder compares itself with what was shown; what was shown after it stops it."""
        if not self.backups:
            return
        restored = Home.open(data.draw(st.sampled_from(self.backups)), {})
        restored.store.check()
        with restored.store.writing() as tx:
            size, root_at, shown = tx.ledger.size, tx.ledger.root_at, self.shown
            try:
                check_own(shown, size, root_at)
            except RewrittenError:
                assert shown is not None
                stopped = True
            else:
                stopped = False
        restored.store.close()
        if not stopped:  # nobody saw anything that it forgot: it goes on, and the other folder does not
            self.home.store.close()
            shutil.rmtree(self.folder)
            shutil.copytree(restored.folder, self.folder)
            self.home = Home.open(self.folder, {})

    # -- what holds ----------------------------------------------------------------------------------------------------

    @invariant()
    def what_left_was_within_the_cap(self) -> None:
        if not hasattr(self, "left"):
            return
        total, budget = ZERO, self.budget
        for vector in self.left.values():
            total = add(total, vector)
        assert self.epsilon(self.left.values()) <= budget.policy.epsilon
        assert all(a <= b for a, b in zip(total, budget.committed, strict=True)), "all that left is charged"
        assert set(self.left) <= set(budget.closed)

    @invariant()
    def no_purpose_has_had_more_than_its_cap(self) -> None:
        """A job may have: its cap can be set below what it has had, and then it gets nothing more."""
        if not hasattr(self, "left"):
            return
        cap, job = self.budget.sub_caps.of("readmission"), self.plans[1].digest().hex()
        spent = [entry.charge.rdp for entry in self.commits() if entry.job == job]
        held = [vector for key, vector in self.budget.reserved.items() if key.job == job]
        assert cap is None or self.epsilon([*spent, *held]) <= cap


TestOffice = Office.TestCase
TestOffice.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
