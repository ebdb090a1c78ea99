"""One silo's agent, real to its disk, against an aggregator and peers that the test plays and can make lie."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cloister import wire
from cloister.wire import JobPhase, RoundPhase

from certs.identity import fingerprint
from certs.names import PartyId, Role
from certs.wallet import Wallet
from privacy.budget import BudgetPolicy, BudgetState, RoundKey, grant, refund, reserve
from privacy.ckks.fingerprint import encode, fingerprint_of
from privacy.ckks.group import GroupKey
from privacy.ckks.layout import Layout, chunk_leaf, chunks_root
from privacy.ckks.params import GroupParams
from privacy.envelope import UpdateHeader, header_digest
from privacy.errors import CloisterError, Unavailable
from privacy.flatten import adapter_digest
from privacy.ledger.checkpoint import log_origin
from privacy.ledger.codec import decode_entry
from privacy.ledger.openings import readable
from privacy.ledger.verify import Report, verify_log
from privacy.plan import JobPlan, RoundContext
from privacy.roll import KeyDeal, MailDigest, check_roll, dealer_of
from privacy.statement import Signed, read
from privacy.transcript import CommitMember, RoundCommit, RoundJoin, commit_digest, transcript_digest
from runtime.ledger_store import Ledger
from silo_agent.accounts import change_budget, open_budget, require_budget
from silo_agent.archive import Archive
from silo_agent.entries import Author, Charged, approval_entry, policy_entry, refund_entry, reserve_entry
from silo_agent.home import Home
from silo_agent.jobs import OPEN, JobState, accept_roll, accepted_roll, add_job, require_job_record, set_job_state
from silo_agent.membership import Membership
from silo_agent.participation import Participation
from silo_agent.peers import trust_peer
from silo_agent.runner import RoundRunner, nothing_more
from silo_agent.source import SelfTest, SourcedUpdate
from silo_agent.status import StatusBoard
from silo_agent.tables import LEDGER
from silo_agent.vault import Secret
from tests.cohort import SealedUpdate, add_updates, seal_update
from tests.parties import Cohort
from tests.pki import make_ca
from tests.showing import TO_NOBODY

NOTHING_WITNESSED = wire.ExchangedCheckpoints(newest=b"", wanted=(), shown=(), witnesses=())
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
NAMES = ("east", "north", "west")
OWN = "east"
VALUES = 40
STEPS = 3
STEWARD = Author(OWN, "steward", "steward", NOW)


def dp_fields(cohort: Cohort, **changes: Any) -> dict[str, Any]:
    """The cohort's plan, as a job on data: one tensor of VALUES trained values."""
    tensor = {"name": "head", "shape": [VALUES], "update_range": 1.0, "learning_rate": 1.0}
    task = {
        "kind": "sequence-classification", "labels": ["no", "yes"], "max_tokens": 16,
        "model": {"source": "tiny", "revision": None, "weights_sha256": "a" * 64},
        "adapter": {"method": "head", "rank": 0, "alpha": 0.0, "target_modules": [], "layers": [],
                    "head": "mean-pooled-normalised", "initial_sha256": "b" * 64, "tensors": [tensor]},
    }  # fmt: skip
    dp = {"clip_l2": 1.0, "noise_multiplier": 4.0, "sampling_rate": 0.5, "steps_per_round": STEPS,
          "expected_batch_size": 10.0, "unit": "record", "delta": 1e-3}  # fmt: skip
    return {**cohort.plan_fields(*NAMES), "task": task, "dp": {**dp, **changes}}


class FixedSource:
    """Training that takes known steps and gives a known update; fails where a test says so."""

    def __init__(self) -> None:
        self.runs = 0
        self.fail_after: int | None = None
        self.on_run: Callable[[], None] = lambda: None
        self.error: Exception = MemoryError()
        self.counted = (STEPS, STEPS)  # steps and noise additions, as the engine says
        self.self_test: SelfTest | None = None

    def prepare(self) -> SelfTest | None:
        return self.self_test

    def update(self, ctx: RoundContext, adapter: np.ndarray, on_step: Callable[[int, int], None]) -> SourcedUpdate:
        self.runs += 1
        self.on_run()
        for step in range(1, STEPS + 1):
            if self.fail_after == step - 1:
                raise self.error
            on_step(step, STEPS)
        return SourcedUpdate(np.full(len(adapter), 0.5, np.float32), *self.counted)

    def evaluate(self, adapter: np.ndarray, path: Path) -> None:
        path.write_text("{}")


class PlayedAggregator:
    """AggregatorPort whose answers are what the test set."""

    def __init__(self, silo: "LoneSilo") -> None:
        self.silo = silo
        self.phase = RoundPhase.ANNOUNCED
        self.ctx = silo.ctx
        self.calls: list[str] = []
        self.away: set[str] = set()
        self.updates: list[tuple[Signed, bytes, tuple[bytes, ...]]] = []
        self.joins: list[Signed] = []
        self.consents: list[Signed] = []
        self.applied: list[Signed] = []
        self.commit: Signed | None = None
        self.fingerprints: list[Signed] = []  # what this silo sent
        self.shown_fingerprints: tuple[Signed, ...] = ()
        self.sealed: dict[str, SealedUpdate] = {}
        self.headers: tuple[Signed, ...] = ()
        self.given_consents: tuple[Signed, ...] = ()
        self.sum_chunks: list[bytes] = []
        self.sum_seeds: dict[str, bytes] = {}
        self.job = silo.job_view()
        self.refuses: dict[str, CloisterError] = {}
        self.on_submit: Callable[[], None] = lambda: None
        self.change_joins: Callable[..., tuple[Signed, ...]] = lambda *joins: joins
        self.lies: dict[int, RoundContext] = {}

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_: self._called(name)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.away:
            raise Unavailable(name, "the aggregator is away", "Wait.")
        if name in self.refuses:
            raise self.refuses[name]

    def exchange_checkpoints(self, request: wire.ExchangeCheckpointsRequest) -> wire.ExchangedCheckpoints:
        return NOTHING_WITNESSED

    def get_job(self, job: bytes) -> wire.Job:
        self._called("get_job")
        return self.job

    def get_round(self, job: bytes, number: int) -> wire.Round:
        self._called("get_round")
        ctx = self.lies.get(number, self.ctx)
        joins = [self.silo.peer_join(name) for name in NAMES if name != OWN]
        own = [join for join in self.joins if read(join, RoundJoin).round == self.ctx.round_number]
        return wire.Round(
            phase=self.phase, participants=ctx.participants, adapter_digest=ctx.adapter_digest,
            joins=self.change_joins(*joins, *own),
            commit=self.commit, headers=self.headers, fingerprints=self.shown_fingerprints,
            consents=self.given_consents, releases=(), applied=(),
        )  # fmt: skip

    def join_round(self, join: Signed) -> None:
        self._called("join_round")
        self.joins.append(join)

    def submit_update(self, header: Signed, parts: Any) -> None:
        sent = tuple(parts())
        seeds = b"".join(part.seeds for part in sent if part.seeds is not None)
        self.updates.append((header, seeds, tuple(part.residues for part in sent if part.residues is not None)))
        self.on_submit()
        self._called("submit_update")

    def send_fingerprint(self, fingerprint: Signed) -> None:
        self._called("send_fingerprint")
        self.fingerprints.append(fingerprint)

    def consent_round(self, consent: Signed) -> None:
        self._called("consent_round")
        self.consents.append(consent)

    def report_applied(self, applied: Signed) -> None:
        self._called("report_applied")
        self.applied.append(applied)

    def fetch_sum(self, job: bytes, number: int) -> Iterator[wire.SumPart]:
        self._called("fetch_sum")
        for name, seeds in self.sum_seeds.items():
            yield wire.SumPart(seeds=wire.MemberSeeds(silo=name, part=seeds))
        for chunk in self.sum_chunks:
            yield wire.SumPart(residues=chunk)

    def make_commit(
        self,
        *,
        members: tuple[str, ...] = NAMES,
        own: bool = True,
        attempt: int = 1,
        ask: bool = True,
        change: Callable[[list[bytes]], list[bytes]] = lambda chunks: chunks,
    ) -> None:
        """Steps 2 and 3: the sum over `members` (honest unless `change` alters it), its commit and headers.

        `own` takes what this silo submitted; with `ask` it is asked for its fingerprint, and all are shown.
        """
        silo, sealed, headers = self.silo, {}, {}
        for name in members:
            if name == OWN and own:
                headers[name], seeds, chunks = self.updates[-1]
                sealed[name] = SealedUpdate(chunks, seeds)
            else:
                sealed[name] = silo.peer_update()
                headers[name] = silo.peer_header(name, sealed[name])
        self.headers = tuple(headers[name] for name in members)
        self.sum_chunks = change(add_updates(silo.layout, list(sealed.values())))
        self.sum_seeds = {name: update.seeds for name, update in sealed.items()}
        self.sealed = sealed
        self.sign_commit(members, attempt)
        self.phase = RoundPhase.FINGERPRINTING
        if ask:
            if OWN in members and own and silo.state in ("Submitted", "Fingerprinted"):
                silo.advance()
            self.show_fingerprints()

    def show_fingerprints(self) -> None:
        """Step 3, its end: every member's fingerprint under the commit as it stands."""
        assert self.commit is not None
        digest = commit_digest(self.commit, self.headers)
        self.shown_fingerprints = tuple(self._fingerprint(name, digest) for name in self.sealed)
        self.phase = RoundPhase.COMMITTED

    def _fingerprint(self, name: str, digest: bytes) -> Signed:
        if name == OWN and self.fingerprints:
            return self.fingerprints[-1]
        value = encode(fingerprint_of(self.silo.layout, digest, self.sealed[name].chunks))
        return self.silo.cohort.fingerprint(name, digest, value, self.ctx)

    def sign_commit(self, members: tuple[str, ...] = NAMES, attempt: int = 1) -> None:
        root = chunks_root([chunk_leaf(chunk) for chunk in self.sum_chunks])
        pairs = zip(members, self.headers, strict=True)
        commit = RoundCommit(
            plan=self.ctx.plan_digest.hex(), aggregator="aggregator", round=self.ctx.round_number,
            ctx=self.ctx.digest().hex(), attempt=attempt, sum_root=root.hex(),
            members=tuple(CommitMember(silo=name, header=header_digest(header).hex()) for name, header in pairs),
        )  # fmt: skip
        self.commit = self.silo.cohort.sign(commit)

    def certify(self, *names: str) -> None:
        """Consents of these silos to the commit as it stands; this silo's own, if named, is the one it sent."""
        assert self.commit is not None
        transcript = transcript_digest(commit_digest(self.commit, self.headers), self.shown_fingerprints)
        peers = [self.silo.cohort.consent(name, transcript, self.ctx) for name in names if name != OWN]
        self.given_consents = (*(self.consents[-1:] if OWN in names else ()), *peers)
        self.phase = RoundPhase.RELEASING


class LoneSilo:
    """`east` of three. `charged`: the job is on data, with a budget of `epsilon` for its population, and `approved`.

    `dp` changes what the plan says of its mechanism.
    """

    def __init__(
        self, folder: Path, *, charged: bool = False, epsilon: float = 8.0, approved: bool = True, **dp: Any
    ) -> None:
        self.cohort = Cohort(*NAMES)
        wallet = self._wallet(folder)
        plain = self.cohort.plan_fields(*NAMES)
        plain["task"] = {"kind": "rehearsal", "values": VALUES, "update_range": 1.0}
        fields = dp_fields(self.cohort, **dp) if charged else plain
        self.zeros = np.zeros(VALUES, np.float32)
        fields["initial_adapter"] = adapter_digest(self.zeros).hex()
        self.plan = self.cohort.plan = JobPlan.model_validate(fields)
        self.job = self.plan.digest()
        self.layout = Layout(VALUES)
        self.params = GroupParams(16, len(NAMES))
        self.key = GroupKey.generate()
        self.ctx = self.cohort.ctx = RoundContext(self.job, 1, adapter_digest(self.zeros), NAMES)
        (folder / "silo.toml").write_text(f'name = "{OWN}"\nfederation = "test"\naggregator = "127.0.0.1:1"\n')
        self.folder, self.wallet = folder, wallet
        self.source = FixedSource()
        if not charged:
            self.source.counted = (0, 0)
        self.charged = Charged(self.plan, self.plan.dp, "patients", "visits") if self.plan.dp else None
        self.home = Home.open(folder, {})
        self._found_job(epsilon)
        if charged and approved:
            self.approve(self.plan)
        self.port = PlayedAggregator(self)
        self.interruption: str | None = None
        self.show_ledger: Callable[[], None] = lambda: None
        self.start()

    def _wallet(self, folder: Path) -> Wallet:
        """A real wallet, whose identity key stands in the roster."""
        ca = self.ca = make_ca(folder / "pki", NOW, "test")
        wallet = Wallet.create(folder / "wallet", ca.ca_pem, PartyId("test", Role.SILO, OWN))
        requests = wallet.requests()
        wallet.install(ca.issue(PartyId("test", Role.SILO, OWN), requests.tls, requests.identity, NOW, ()), NOW)
        self.cohort.keys[OWN] = wallet.identity()._key
        return wallet

    def _found_job(self, epsilon: float) -> None:
        plan, home = self.plan, self.home
        joins = [self.cohort.job_join(name) for name in NAMES]
        roll = check_roll(plan, joins)
        dealer = dealer_of(self.job, roll)
        digests = tuple(MailDigest(to=n, sha256=hashlib.sha256(n.encode()).hexdigest()) for n in NAMES if n != dealer)
        commitment = self.key.commitment(roll.digest)
        deal = self.cohort.sign(
            KeyDeal(
                plan=self.job.hex(),
                silo=dealer,
                roll=roll.digest.hex(),
                key_commitment=commitment.hex(),
                mails=digests,
            )
        )
        home.vault.put(self.job, Secret.COHORT_KEY, self.key.to_bytes())
        self.commitment = commitment
        with home.store.writing() as tx:
            add_job(tx.connection, plan, NOW)
            dataset = "visits" if plan.dp else None
            set_job_state(tx.connection, self.job, JobState.READY, NOW, expected=OPEN, dataset=dataset)
            accept_roll(tx.connection, self.job, roll.joins, deal, commitment)
            pinned = [(Role.SILO, member) for member in plan.cohort.roster] + [(Role.AGGREGATOR, plan.aggregator)]
            for role, member in pinned:
                trust_peer(tx.connection, role, member.name, fingerprint(bytes.fromhex(member.identity_key)), NOW)
            if plan.dp:
                policy = BudgetPolicy("patients", epsilon, 1e-3, "record")
                open_budget(tx.connection, policy)
                tx.record(policy_entry(STEWARD, policy, "first"))

    def approve(self, plan: JobPlan, rounds: int | None = None) -> None:
        """What an approval leaves on record for a job on data: its rounds are granted."""
        assert plan.dp is not None
        charged, rounds = Charged(plan, plan.dp, "patients", "visits"), rounds or plan.rounds
        with self.home.store.writing() as tx:
            before = require_budget(tx.connection, "patients")
            vector = charged.charge(before.policy).rdp
            job, purpose = plan.digest().hex(), plan.purpose
            change_budget(tx.connection, "patients", lambda b: grant(b, job, vector, rounds, purpose))
            tx.record(approval_entry(STEWARD, plan, rounds, (charged, before)))

    def reserve_elsewhere(self, plan: JobPlan) -> None:
        """Another job's rounds take what this one's would have had."""
        assert plan.dp is not None
        charged = Charged(plan, plan.dp, "patients", "visits")
        for number in range(1, plan.rounds + 1):
            ctx = RoundContext(plan.digest(), number, self.ctx.adapter_digest, NAMES)
            with self.home.store.writing() as tx:
                after = change_budget(tx.connection, "patients", lambda b, c=ctx: reserve(b, *_round(b, charged, c)))
                tx.record(reserve_entry(STEWARD, charged, ctx, after))

    def refund_elsewhere(self, plan: JobPlan) -> None:
        """And give it back."""
        assert plan.dp is not None
        charged = Charged(plan, plan.dp, "patients", "visits")
        for number in range(1, plan.rounds + 1):
            ctx = RoundContext(plan.digest(), number, self.ctx.adapter_digest, NAMES)
            with self.home.store.writing() as tx:
                after = change_budget(tx.connection, "patients", lambda b, c=ctx: refund(b, _round(b, charged, c)[0]))
                tx.record(refund_entry(STEWARD, charged, ctx, after))

    def go_to(self, number: int) -> None:
        """The aggregator announces another round."""
        self.ctx = self.port.ctx = RoundContext(self.job, number, self.ctx.adapter_digest, NAMES)
        self.cohort.ctx = self.ctx
        self.port.phase = RoundPhase.ANNOUNCED

    def start(self, durably: Callable[[str], None] = nothing_more) -> None:
        """A fresh agent on the same disk, as after a restart."""
        self.home.store.close()
        self.home = Home.open(self.folder, {})
        with self.home.store.reading() as connection:
            accepted = accepted_roll(connection, self.job)
        assert accepted is not None
        membership = Membership.of(self.plan, OWN, accepted, self.charged)
        board = StatusBoard(self.folder, OWN, lambda: NOW).of_job(self.job)
        self.runner = RoundRunner(
            self.home, self.port, membership, self.source, board,
            clock=lambda: NOW, interrupted=lambda _: self.interruption, durably=durably,
            show_ledger=lambda: self.show_ledger(),
        )  # fmt: skip
        if self.plan.dp:
            shelf = self.runner._work.shelf
            shelf._initial = lambda: self.zeros.copy()  # type: ignore[method-assign]

    def job_view(
        self, phase: JobPhase = JobPhase.RUNNING, opened: tuple[int, ...] = (), current: int = 1, **more: Any
    ) -> wire.Job:
        """The job as the aggregator shows it."""
        shown: dict[str, Any] = {"joins": (), "deal": None, "mail": b"", **more}
        return wire.Job(plan=self.plan.encode(), phase=phase, opened_rounds=opened, current_round=current, **shown)

    def advance(self, opened: tuple[int, ...] = (), current: int = 1) -> None:
        self.runner.advance(self.job_view(opened=opened, current=current))

    def stand(self, state: JobState) -> None:
        """The job stands so at this silo."""
        with self.home.store.writing() as tx:
            set_job_state(tx.connection, self.job, state, NOW, expected=JobState)

    @property
    def job_state(self) -> JobState:
        with self.home.store.reading() as connection:
            return require_job_record(connection, self.job).state

    def take_part(self, durably: Callable[[str], None] = nothing_more) -> Participation:
        """An agent for the whole job, whose source is this silo's."""
        board = StatusBoard(self.folder, OWN, lambda: NOW)
        return Participation(
            self.home, self.port, self.job, board,
            clock=lambda: NOW, sources=lambda *_: self.source, durably=durably, showing=TO_NOBODY,
        )  # fmt: skip

    def to_submitted(self) -> None:
        self.advance()
        self.port.phase = RoundPhase.COLLECTING
        self.advance()

    def to_consented(self) -> None:
        self.to_submitted()
        self.port.make_commit()
        self.advance()

    def interrupt(self, why: str) -> None:
        """Training shall stop."""
        self.interruption = why

    @property
    def state(self) -> str:
        return self.state_of(1)

    def state_of(self, number: int) -> str:
        return type(self.runner.state(number)).__name__

    @property
    def budget(self):
        with self.home.store.reading() as connection:
            return require_budget(connection, "patients")

    def verify(self) -> Report:
        """The ledger so far, as an auditor checks it."""
        with self.home.store.writing() as tx:
            tx.ledger.checkpoint(self.home.identity.sign, NOW)
        with self.home.store.reading() as connection:
            ledger = Ledger(connection, LEDGER)
            bodies, notes, leaves = list(ledger.entries()), ledger.notes(), ledger.leaf_hashes(ledger.size)
        return verify_log(bodies, notes, log_origin("test", OWN), self.home.identity.public_key, leaves)

    @property
    def entries(self) -> list[Any]:
        """As somebody reads them who has all openings."""
        with self.home.store.reading() as connection:
            openings = Archive(connection, None).openings()
            return [readable(decode_entry(body), openings) for body in Ledger(connection, LEDGER).entries()]

    @property
    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries]

    def peer_join(self, name: str) -> Signed:
        return self.cohort.sign(RoundJoin.model_validate(self.cohort.bound(name, self.ctx)))

    def peer_update(self) -> SealedUpdate:
        grid = np.full(VALUES, 49_151, np.uint16)  # 0.5 on the grid of 16 bits
        return seal_update(self.key, self.params, grid)

    def peer_header(self, name: str, update: SealedUpdate) -> Signed:
        fields = {
            "values": VALUES, "key_commitment": self.commitment.hex(),
            "residues_root": chunks_root([chunk_leaf(chunk) for chunk in update.chunks]).hex(),
            "seeds_sha256": hashlib.sha256(update.seeds).hexdigest(),
        }  # fmt: skip
        return self.cohort.sign(UpdateHeader.model_validate({**self.cohort.bound(name, self.ctx), **fields}))


def _round(budget: BudgetState, charged: Charged, ctx: RoundContext) -> tuple[RoundKey, tuple[float, ...]]:
    return RoundKey(ctx.plan_digest.hex(), ctx.round_number), charged.charge(budget.policy).rdp


def consent_of(signed: Signed):
    from privacy.transcript import Consent

    return read(signed, Consent)
