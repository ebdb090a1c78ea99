"""Made-up ledgers with real keys and real figures: what verification and store tests are written with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import dp_sgd_event
from privacy.budget import BudgetPolicy, BudgetState, RoundKey, commit, first_budget, grant, refund, reserve, what_if
from privacy.budget_change import change_epsilon
from privacy.key_rotation import KeyRotation
from privacy.ledger.checkpoint import Checkpoint, log_origin, sign_checkpoint
from privacy.ledger.codec import encode_entry
from privacy.ledger.entry import (
    AdminEntry,
    AutoPolicyEntry,
    BudgetChangeEntry,
    CommitEntry,
    Entry,
    JobApprovalEntry,
    KeyEntry,
    KeyRotationEntry,
    PolicyEntry,
    RefundEntry,
    RefuseEntry,
    ReleaseEntry,
    ReserveEntry,
    ReviewEntry,
    RoundEntry,
    SelfTestEntry,
    SubCapEntry,
    statement_of,
)
from privacy.ledger.merkle import Growth, leaf_hash, root
from privacy.ledger.parts import Asked, Balance, Charge, mechanism_of
from privacy.ledger.verify import Report, verify_log
from privacy.mechanism import DpSgd
from privacy.review import Review
from privacy.two_person import Approval

JOB = "ab" * 32
PURPOSE = "heart disease"
OWN = Ed25519PrivateKey.generate()
AUDITOR = Ed25519PrivateKey.generate()
PEOPLE = {person: Ed25519PrivateKey.generate() for person in ("dr-weber", "ms-okoro", "mr-diaz")}
G = TypeVar("G", BudgetChangeEntry, SubCapEntry, AdminEntry)
ORIGIN = log_origin("heart", "hospital-a")
SOFTWARE = "cloister 0.1.0"
DP = DpSgd(
    clip_l2=1.0,
    noise_multiplier=6.5,
    sampling_rate=0.5,
    steps_per_round=2,
    expected_batch_size=50.0,
    unit="patient",
    delta=1e-3,
)


def by(**more: object) -> dict[str, object]:
    return {
        "institution": "hospital-a",
        "actor": "cloister-agent",
        "role": "agent",
        "utc": "2026-03-01T09:00:00Z",
        **more,
    }


def key_entry() -> KeyEntry:
    return KeyEntry(
        **by(), action="own", party="cloister://heart/silo/hospital-a", fingerprint="0c" * 32, reason="enrolled"
    )


def policy_entry(epsilon: float = 2.0, population: str = "cardiology") -> PolicyEntry:
    who = by(actor="dr-weber", role="steward")
    return PolicyEntry(
        **who,
        population=population,
        unit="patient",
        contribution_bound=1,
        epsilon=epsilon,
        delta=1e-3,
        legal_basis="GDPR Art. 6(1)(e), 9(2)(j)",
        dpia="DPIA-2026-014",
        reason="first budget",
    )


def charge(dp: DpSgd = DP) -> Charge:
    return Charge.of(dp_sgd_event(dp, dp.steps_per_round), 1e-3)


def approval_entry(before: BudgetState, rounds: int = 4, *, job: str = JOB, dp: DpSgd = DP) -> JobApprovalEntry:
    return JobApprovalEntry(
        **by(actor="dr-weber", role="steward"),
        job=job,
        automatic=False,
        purpose=PURPOSE,
        population="cardiology",
        rounds=rounds,
        charge=charge(dp),
        epsilon_after=what_if(before, charge(dp).rdp, rounds).epsilon_after,
        legal_basis=None,
        dpia="DPIA-2026-014",
        reason="within the DPIA",
    )


def reserve_entry(number: int, state: BudgetState, dp: DpSgd = DP) -> ReserveEntry:
    return ReserveEntry(
        **by(),
        job=JOB,
        round=number,
        purpose="heart disease",
        population="cardiology",
        dataset="cleveland",
        unit="patient",
        contribution_bound=1,
        mechanism=mechanism_of(dp),
        charge=charge(dp),
        balance=Balance.of(state),
        model_sha256="11" * 32,
        adapter_sha256="22" * 32,
        software=SOFTWARE,
    )


def commit_entry(number: int, state: BudgetState, *, presumed: bool = False, dp: DpSgd = DP) -> CommitEntry:
    ran: dict[str, object] = {
        "steps_executed": dp.steps_per_round,
        "sampler": "poisson-chacha20",
        "precision": "float32",
        "rng": "os-entropy chacha20",
        "ciphertext_sha256": f"{number:064x}",
    }
    return CommitEntry(
        **by(),
        job=JOB,
        round=number,
        population="cardiology",
        outcome="presumed" if presumed else "executed",
        mechanism=mechanism_of(dp),
        charge=charge(dp),
        balance=Balance.of(state),
        software=SOFTWARE,
        **(dict.fromkeys(ran) if presumed else ran),
    )


def release_entry(number: int, population: str | None = "cardiology") -> ReleaseEntry:
    digest = f"{number:064x}"
    return ReleaseEntry(
        **by(), job=JOB, round=number, population=population, ciphertext_sha256=digest, recipient="aggregator"
    )


def round_entry(number: int) -> RoundEntry:
    return RoundEntry(
        **by(),
        job=JOB,
        round=number,
        outcome="published",
        members=("hospital-a", "hospital-b"),
        transcript_sha256="33" * 32,
        sum_sha256="44" * 32,
        adapter_before_sha256="22" * 32,
        adapter_after_sha256="22" * 32,
        reason=None,
    )


def rotation_entry(
    old: Ed25519PrivateKey,
    new: Ed25519PrivateKey,
    size: int,
    *,
    utc: str = "2026-03-01T09:00:00Z",
    old_certificate: str | None = None,
    new_certificate: str | None = None,
    log: str = ORIGIN,
) -> KeyRotationEntry:
    old_key, new_key = (key.public_key().public_bytes_raw().hex() for key in (old, new))
    said = KeyRotation(log=log, size=size, old_key=old_key, new_key=new_key, reason="every two years")
    return KeyRotationEntry(
        **by(actor="dr-weber", role="steward", utc=utc),
        old_key=old_key,
        new_key=new_key,
        old_certificate=old_certificate,
        new_certificate=new_certificate,
        old_signature=old.sign(said.message()).hex(),
        new_signature=new.sign(said.message()).hex(),
        reason=said.reason,
    )


@dataclass
class Log:
    """Entries as they are appended, with a checkpoint wherever `sign` is called."""

    key: Ed25519PrivateKey = OWN
    entries: list[bytes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    earlier: list[Ed25519PrivateKey] = field(default_factory=list)

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    @property
    def leaves(self) -> list[bytes]:
        return [leaf_hash(entry) for entry in self.entries]

    def add(self, *entries: Entry) -> None:
        for entry in entries:
            self.entries.append(encode_entry(entry.model_copy(update={"sequence": len(self.entries)})))

    def sign(self) -> None:
        tree = Growth()
        tree.extend(self.leaves)
        checkpoint = Checkpoint(ORIGIN, tree.size, tree.root())
        self.notes.append(sign_checkpoint(checkpoint, self.public_key, self.key.sign))

    def rotate(self, utc: str = "2026-03-01T09:00:00Z", **certificates: str | None) -> None:
        """The log goes on under a fresh key, which signs for the entry that says so."""
        old, new = self.key, Ed25519PrivateKey.generate()
        self.add(rotation_entry(old, new, len(self.entries), utc=utc, **certificates))
        self.earlier.append(old)
        self.key = new
        self.sign()

    def verify(self, leaves: Iterable[bytes] | None = None) -> Report:
        listed = None if leaves is None else list(leaves)
        earlier = [key.public_key().public_bytes_raw() for key in self.earlier]
        return verify_log(self.entries, self.notes, ORIGIN, self.public_key, listed, earlier_keys=earlier)

    def changed(self, sequence: int, change: Callable[[bytes], bytes]) -> "Log":
        """A copy in which one entry was altered after it was signed for."""
        altered = list(self.entries)
        altered[sequence] = change(altered[sequence])
        return Log(self.key, altered, list(self.notes), list(self.earlier))


def review_entry(
    of: "Log", follow_up: str | None = None, due: str | None = None, closes: int | None = None, **changes: object
) -> ReviewEntry:
    """Of the whole log as it stands."""
    facts: dict[str, object] = {
        "log": ORIGIN,
        "log_size": len(of.entries),
        "log_root": root(of.leaves).hex(),
        "party": "cloister://heart/auditor/ms-audit",
        "public_key": AUDITOR.public_key().public_bytes_raw().hex(),
        "first_sequence": 0,
        "last_sequence": len(of.entries) - 1,
        "subject": "first quarter",
        "finding": "observation" if follow_up else "in-order",
        "remark": "Budgets and approvals read with the steward.",
        "follow_up": follow_up,
        "due": due,
        "closes": closes,
    }
    review = Review.model_validate(facts | changes)
    signature = AUDITOR.sign(review.message()).hex()
    who = by(actor=review.party, role="auditor")
    return ReviewEntry(**who, review=review, signature=signature, certificate="")


def approved(entry: G, *people: str) -> G:
    """The entry with these people's signatures."""
    message = statement_of(entry, ORIGIN).message()
    signed = (Approval(person=person, signature=PEOPLE[person].sign(message).hex()) for person in people)
    return entry.model_copy(update={"approvals": tuple(signed)})


def governed(number: int, reason: str) -> dict[str, object]:
    """A change that was proposed while OWN signed the log, and is recorded in time."""
    said = {"number": number, "key": OWN.public_key().public_bytes_raw().hex(), "expires": "2026-03-31T09:00:00Z"}
    return {**by(actor="dr-weber", role="steward"), **said, "reason": reason, "approvals": ()}


def admin_entry(number: int, person: str, *others: str, action: str = "add") -> AdminEntry:
    key = PEOPLE[person].public_key().public_bytes_raw().hex()
    entry = AdminEntry(**governed(number, "first two"), action=action, person=person, public_key=key)
    return approved(entry, *((person, *others) if action == "add" else others))


def sub_cap_entry(
    number: int, purpose: str | None, before: float | None, epsilon: float | None, *people: str
) -> SubCapEntry:
    caps = {"population": "cardiology", "purpose": purpose, "epsilon_before": before, "epsilon": epsilon}
    return approved(SubCapEntry(**governed(number, "as the board decided"), **caps), *people)


def budget_change_entry(
    number: int, after: BudgetState, before: float, people: tuple[str, ...] = ("dr-weber", "ms-okoro")
) -> BudgetChangeEntry:
    entry = BudgetChangeEntry(
        **governed(number, "a second study"),
        population="cardiology",
        epsilon_before=before,
        epsilon=after.policy.epsilon,
        balance=Balance.of(after),
    )
    return approved(entry, *people)


def auto_policy_entry(**changes: object) -> AutoPolicyEntry:
    policy: dict[str, object] = {
        "rehearsals": False,
        "auto_approve": True,
        "dataset": "cleveland",
        "max_epsilon_per_job": 1.0,
        "extra_rounds": 1,
        "purposes": (PURPOSE,),
        "shared_noise": False,
    }
    return AutoPolicyEntry(**by(), **(policy | changes))


def sample_log() -> Log:
    """Every kind of entry but a change of key; four checkpoints.

    Three rounds are charged (one presumed), one is refunded, one refused.
    """
    log, state = Log(), first_budget(None, BudgetPolicy("cardiology", 2.0, 1e-3, "patient"))
    vector = charge().rdp
    log.add(key_entry(), policy_entry())
    log.add(
        approval_entry(state),
        SelfTestEntry(
            **by(),
            job=JOB,
            passed=True,
            checks=("clipped sum",),
            report_sha256="22" * 32,
            model_sha256="11" * 32,
            software=SOFTWARE,
            reason=None,
        ),
    )
    state = grant(state, JOB, vector, 4, PURPOSE)
    log.sign()
    for number in (0, 1):
        key = RoundKey(JOB, number)
        state = reserve(state, key, vector)
        log.add(reserve_entry(number, state))
        state = commit(state, key, vector)
        log.add(commit_entry(number, state), release_entry(number), round_entry(number))
        log.sign()
    state = reserve(state, RoundKey(JOB, 2), vector)
    log.add(reserve_entry(2, state))
    state = refund(state, RoundKey(JOB, 2))
    log.add(
        RefundEntry(
            **by(),
            job=JOB,
            round=2,
            population="cardiology",
            reason="nothing-trained",
            balance=Balance.of(state),
        )
    )
    state = reserve(state, RoundKey(JOB, 3), vector)
    log.add(reserve_entry(3, state))
    state = commit(state, RoundKey(JOB, 3), vector)
    log.add(commit_entry(3, state, presumed=True))
    log.add(
        RefuseEntry(
            **by(),
            job="cd" * 32,
            round=None,
            decision="budget",
            population="cardiology",
            asked=Asked(purpose=PURPOSE, rounds=10_000, charge=charge()),
            balance=Balance.of(state),
            reason="over-cap",
        ),
    )
    log.sign()
    log.add(review_entry(log, follow_up="name the second administrator", due="2026-06-30"))
    log.add(admin_entry(1, "dr-weber"), admin_entry(2, "ms-okoro"), sub_cap_entry(3, PURPOSE, None, 1.5))
    log.add(budget_change_entry(4, change_epsilon(state, 2.5), 2.0), auto_policy_entry())
    log.sign()
    return log


def rotated_log() -> Log:
    """As `sample_log`, and then under another key: the kind that a log has which changed its key."""
    log = sample_log()
    log.rotate()
    log.add(policy_entry(population="neurology"))
    log.sign()
    return log
