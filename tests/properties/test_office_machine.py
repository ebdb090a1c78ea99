"""Budgets in silo.db, whatever is tried in whatever order: jobs, crashes, retries, restored backups, changes.

What left the silo was paid for, and never more than the cap, in the ledger that goes on; it verifies at the end.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from privacy.accounting import ZERO, add, rdp_epsilon
from privacy.budget import BudgetRefusal, BudgetState, RoundKey, commit, grant, refund, reserve, withdraw
from privacy.errors import Refused
from privacy.ledger.checkpoint import Checkpoint, open_checkpoint
from privacy.ledger.codec import decode_entry
from privacy.ledger.witness import RewrittenError, check_own
from privacy.plan import JobPlan, RoundContext
from privacy.two_person import AdminChange, Proposal
from runtime.ledger_store import Ledger
from silo_agent import entries, office
from silo_agent.accounts import change_budget, find_budget, require_budget
from silo_agent.home import Home
from silo_agent.store import Transaction
from silo_agent.tables import LEDGER
from tests.lone_silo import NAMES, NOW, STEWARD, LoneSilo

PEOPLE = {person: Ed25519PrivateKey.generate() for person in ("dr-weber", "ms-okoro")}
JOBS, ROUNDS = st.integers(0, 1), st.integers(1, 4)
EPSILONS = st.sampled_from([0.2, 0.5, 1.0, 1.5, 2.0, 3.0])


class Crash(Exception):
    """The process dies inside of a transaction."""


def signed(proposal: Proposal, *people: str) -> Proposal:
    for person in people:
        proposal = proposal.signed(person, PEOPLE[person].sign)
    return proposal


@pytest.fixture(scope="module", autouse=True)
def founded(tmp_path_factory):
    """A silo with a budget, two jobs and two administrators; each example starts from a copy of it."""
    silo = LoneSilo(tmp_path_factory.mktemp("office") / "silo", charged=True, epsilon=1.5, approved=False)
    for person, key in PEOPLE.items():
        raw = key.public_key().public_bytes_raw().hex()
        change = AdminChange(action="add", person=person, public_key=raw)
        office.record(silo.home, signed(office.propose_admin(silo.home, change, "first two", NOW), person), STEWARD)
    silo.home.store.close()
    Office.silo = silo
    Office.plans = (silo.plan, silo.plan.model_copy(update={"nonce": "2" * 64, "purpose": "readmission"}))
    return silo


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
        self.left: dict[RoundKey, tuple[float, ...]] = {}

    def teardown(self) -> None:
        if hasattr(self, "home"):
            self.home.store.check()
            self.home.store.close()
            self.place.cleanup()

    # -- what a job does -----------------------------------------------------------------------------------------------

    def charged(self, job: int) -> entries.Charged:
        plan = self.plans[job]
        assert plan.dp is not None
        return entries.Charged(plan, plan.dp, "patients", "visits")

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

    @rule(job=JOBS, rounds=st.integers(1, 3))
    def approving(self, job: int, rounds: int) -> None:
        charged = self.charged(job)
        with self.home.store.writing() as tx:
            before = require_budget(tx.connection, "patients")
            vector, digest = charged.charge(before.policy).rdp, charged.plan.digest().hex()
            try:
                change_budget(
                    tx.connection, "patients", lambda b: grant(b, digest, vector, rounds, charged.plan.purpose)
                )
            except Refused:
                return
            tx.record(entries.approval_entry(STEWARD, charged.plan, rounds, (charged, before)))

    @rule(job=JOBS)
    def refusing(self, job: int) -> None:
        digest = self.plans[job].digest().hex()
        with self.home.store.writing() as tx:
            change_budget(tx.connection, "patients", lambda b: withdraw(b, digest))
            tx.record(entries.refuse_entry(STEWARD, self.plans[job], "steward", "declined"))

    def _reserve(self, tx: Transaction, job: int, number: int) -> None:
        charged, key = self.charged(job), self.key(job, number)
        before = require_budget(tx.connection, "patients")
        if key in before.reserved:
            return  # a retry
        try:
            after = reserve(before, key, charged.charge(before.policy).rdp)
        except BudgetRefusal as refusal:
            by, ctx = STEWARD, number
            tx.record(entries.budget_refusal_entry(by, charged, before, 1, refusal.code, ctx))
            return
        change_budget(tx.connection, "patients", lambda _: after)
        tx.record(entries.reserve_entry(STEWARD, charged, self.ctx(job, number), after))

    @rule(job=JOBS, number=ROUNDS, dies=st.booleans())
    def reserving(self, job: int, number: int, *, dies: bool) -> None:
        before = self.budget
        try:
            with self.home.store.writing() as tx:
                self._reserve(tx, job, number)
                if dies:
                    raise Crash
        except Crash:
            assert self.budget == before

    @rule(job=JOBS, number=ROUNDS, dies=st.booleans())
    def charging(self, job: int, number: int, *, dies: bool) -> None:
        before, key, charged = self.budget, self.key(job, number), self.charged(job)
        if key not in before.reserved:
            return
        try:
            with self.home.store.writing() as tx:
                after = change_budget(tx.connection, "patients", lambda b: commit(b, key, b.reserved[key]))
                sealed = entries.Sealed(charged.dp.steps_per_round, bytes([job, number]) * 16)
                tx.record(entries.commit_entry(STEWARD, charged, self.ctx(job, number), after, sealed))
                if dies:
                    raise Crash
        except Crash:
            assert self.budget == before

    @rule(job=JOBS, number=ROUNDS)
    def giving_back(self, job: int, number: int) -> None:
        key, charged = self.key(job, number), self.charged(job)
        if key in self.budget.reserved:
            with self.home.store.writing() as tx:
                after = change_budget(tx.connection, "patients", lambda b: refund(b, key))
                tx.record(entries.refund_entry(STEWARD, charged, self.ctx(job, number), after))

    @rule(job=JOBS, number=ROUNDS)
    def sending(self, job: int, number: int) -> None:
        """The ledger is shown, then the update leaves: only one that is charged, as the round machine has it."""
        key = self.key(job, number)
        charges = [e for e in self.entries() if e.kind == "commit" and (e.job, e.round) == (key.job, number)]
        if not charges:
            return
        self.showing()
        self.left[key] = charges[0].charge.rdp

    def entries(self):
        with self.home.store.reading() as connection:
            return [decode_entry(body) for body in Ledger(connection, LEDGER).entries()]

    # -- what people do ------------------------------------------------------------------------------------------------

    @rule(epsilon=EPSILONS, people=st.sampled_from([(), ("dr-weber",), ("dr-weber", "ms-okoro")]))
    def changing_the_cap(self, epsilon: float, people: tuple[str, ...]) -> None:
        before = self.budget
        try:
            office.record(
                self.home, signed(office.propose_budget(self.home, "patients", epsilon, "study", NOW), *people), STEWARD
            )
        except Refused:
            assert self.budget == before
        else:
            assert len(people) == 2

    @rule(epsilon=EPSILONS, purpose=st.sampled_from([None, "readmission"]))
    def tightening(self, epsilon: float, purpose: str | None) -> None:
        before = self.budget
        try:
            proposal = office.propose_sub_cap(self.home, "patients", purpose, epsilon, "board", NOW)
            office.record(self.home, proposal, STEWARD)
        except Refused:
            assert self.budget == before
        else:
            assert (cap := before.sub_caps.of(purpose)) is None or epsilon < cap

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
        assert rdp_epsilon(total, budget.policy.delta) <= budget.policy.epsilon
        assert all(a <= b for a, b in zip(total, budget.committed, strict=True)), "all that left is charged"
        assert set(self.left) <= set(budget.closed)


TestOffice = Office.TestCase
TestOffice.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
