"""A ledger that was altered after the fact, or that lies: the verifier names the first entry that is wrong.

Flaw class: audit logs whose rows can be edited, dropped or reordered by whoever runs the database.
"""

import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import ZERO, sampled_gaussian
from privacy.budget import BudgetPolicy, RoundKey, commit, first_budget, grant, reserve, withdraw
from privacy.canonical import canonical_json
from privacy.ledger.checkpoint import Checkpoint, sign_checkpoint
from privacy.ledger.entry import RefuseEntry, ReserveEntry
from privacy.ledger.merkle import EMPTY_ROOT
from privacy.ledger.parts import Asked, Balance, Charge, mechanism_of
from privacy.ledger.verify import LedgerFault, verify_log
from tests.ledger_logs import (
    DP,
    JOB,
    ORIGIN,
    PURPOSE,
    Log,
    approval_entry,
    by,
    charge,
    commit_entry,
    key_entry,
    policy_entry,
    release_entry,
    reserve_entry,
    round_entry,
    sample_log,
)

SOUND = sample_log()
FRESH = first_budget(None, BudgetPolicy("cardiology", 2.0, 1e-3, "patient"))
GRANTED = grant(FRESH, JOB, charge().rdp, 4, PURPOSE)
HELD = reserve(GRANTED, RoundKey(JOB, 0), charge().rdp)
SPENT = commit(HELD, RoundKey(JOB, 0), charge().rdp)


def fault(log: Log, leaves: list[bytes] | None = None) -> LedgerFault:
    with pytest.raises(LedgerFault) as found:
        log.verify(leaves)
    return found.value


def test_a_sound_log_adds_up() -> None:
    report = SOUND.verify(SOUND.leaves)
    assert report.entries == len(SOUND.entries)
    assert report.checkpoints == 5
    assert sum(report.kinds.values()) == report.entries
    (population,) = report.populations
    assert (population.rounds_committed, population.rounds_reserved) == (3, 0)
    assert 0 < population.spent_epsilon < 2.0
    assert population.spent_pld_epsilon is not None
    assert population.spent_pld_epsilon < population.spent_epsilon
    assert SOUND.verify() == report


def test_a_sound_log_of_shared_noise_adds_up_and_has_no_pld_figure() -> None:
    spent = commit(SHARED_HELD, RoundKey(JOB, 0), charge(SHARED).rdp)
    held, done = reserve_entry(0, SHARED_HELD, SHARED), commit_entry(0, spent, dp=SHARED)
    (population,) = lying(policy_entry(), approval_entry(FRESH, dp=SHARED), held, done).verify().populations
    assert population.spent_pld_epsilon is None
    assert population.spent_epsilon == pytest.approx(charge(SHARED).epsilon)


@pytest.mark.parametrize("sequence", range(len(SOUND.entries)))
def test_one_flipped_character_names_the_entry(sequence: int) -> None:
    altered = SOUND.changed(sequence, lambda body: body.replace(b"hospital-a", b"hospital-b", 1))
    found = fault(altered, SOUND.leaves)
    assert found.sequence == sequence
    assert f"entry {sequence}: it is of hospital-b" in str(found)
    assert fault(altered).sequence == sequence


@pytest.mark.parametrize("sequence", range(len(SOUND.entries)))
def test_a_plausible_edit_names_the_entry_with_the_list_and_the_range_without(sequence: int) -> None:
    altered = SOUND.changed(sequence, lambda body: body.replace(b"2026-03-01T09:00:00", b"2026-03-01T09:00:01"))
    found = fault(altered, SOUND.leaves)
    assert (found.sequence, found.why) == (sequence, "it is not the entry that was signed for: its hash differs")
    start = max(size for size in (0, 4, 8, 12, 17) if size <= sequence)
    without = fault(altered)
    assert without.sequence == start
    assert f"one of the entries {start} to " in str(without)


@pytest.mark.parametrize("sequence", range(len(SOUND.entries) - 1))
def test_a_dropped_entry_names_its_place(sequence: int) -> None:
    entries = SOUND.entries[:sequence] + SOUND.entries[sequence + 1 :]
    log = Log(SOUND.key, entries, SOUND.notes)
    found = fault(log, SOUND.leaves)
    assert found.sequence == sequence
    assert f"it carries number {sequence + 1}: an entry before it was dropped, doubled or moved" in str(found)


@pytest.mark.parametrize("sequence", [0, 4, 9])
def test_swapped_doubled_and_renumbered_entries_name_the_first(sequence: int) -> None:
    entries = SOUND.entries
    swapped = [*entries[:sequence], entries[sequence + 1], entries[sequence], *entries[sequence + 2 :]]
    doubled = [*entries[: sequence + 1], entries[sequence], *entries[sequence + 1 :]]
    assert fault(Log(SOUND.key, swapped, SOUND.notes)).sequence == sequence
    assert fault(Log(SOUND.key, doubled, SOUND.notes)).sequence == sequence + 1
    renumbered = [
        canonical_json({**json.loads(body), "sequence": place})
        for place, body in enumerate(entries[:sequence] + entries[sequence + 1 :])
    ]
    log = Log(SOUND.key, renumbered, SOUND.notes)
    assert fault(log, SOUND.leaves).sequence == sequence
    assert fault(log).sequence is not None


def test_a_truncated_log_is_missed() -> None:
    short = Log(SOUND.key, SOUND.entries[:-1], SOUND.notes)
    found = fault(short)
    assert found.sequence == len(SOUND.entries) - 1
    assert "the log ends before this one" in str(found)


def test_entries_that_nobody_signed_for_are_named() -> None:
    log = Log(SOUND.key, list(SOUND.entries), list(SOUND.notes[:-1]))
    found = fault(log)
    assert found.sequence == 17
    assert "no signed checkpoint covers it" in str(found)
    assert "no signed checkpoint" in str(fault(Log(SOUND.key, [], [])))


def test_a_log_signed_by_another_key_is_refused_whole() -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(LedgerFault, match=r"checkpoint 0.*the log's key did not sign it") as found:
        verify_log(SOUND.entries, SOUND.notes, ORIGIN, other)
    assert found.value.sequence is None
    with pytest.raises(LedgerFault, match="is of 'cloister/heart/hospital-a'"):
        verify_log(SOUND.entries, SOUND.notes, "cloister/heart/hospital-b", SOUND.public_key)


def test_checkpoints_out_of_order_or_twice_are_refused() -> None:
    for notes in ([SOUND.notes[1], SOUND.notes[0]], [SOUND.notes[0], SOUND.notes[0]]):
        assert "its size does not rise" in str(fault(Log(SOUND.key, SOUND.entries, notes)))


def test_a_checkpoint_over_nothing_has_the_root_of_nothing() -> None:
    for root, complaint in ((EMPTY_ROOT, None), (bytes(32), "it is over no entries, and has the root of some")):
        note = sign_checkpoint(Checkpoint(ORIGIN, 0, root), SOUND.public_key, SOUND.key.sign)
        log = Log(SOUND.key, SOUND.entries, [note, *SOUND.notes])
        if complaint is None:
            assert log.verify(log.leaves).entries == len(SOUND.entries)
        else:
            assert complaint in str(fault(log))
    empty = Log(SOUND.key, [], [sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), SOUND.public_key, SOUND.key.sign)])
    assert (empty.verify().root, empty.verify([]).entries) == (EMPTY_ROOT, 0)


def test_two_histories_under_one_key_do_not_both_verify() -> None:
    fork = Log(SOUND.key, list(SOUND.entries[:5]), [])
    fork.add(*[release_entry(0)])
    fork.sign()
    mixed = Log(SOUND.key, SOUND.entries, [SOUND.notes[0], fork.notes[0], *SOUND.notes[1:]])
    assert "one of the entries 4 to 5" in str(fault(mixed))


def test_a_forged_list_of_hashes_is_not_believed() -> None:
    leaves = SOUND.leaves
    leaves[3] = b"\x00" * 32
    assert "list of leaf hashes: it does not lead to the signed roots" in str(fault(SOUND, leaves))
    altered = SOUND.changed(5, lambda body: body.replace(b"2026-03-01T09:00:00", b"2026-03-01T09:00:01"))
    assert fault(altered, altered.leaves).sequence == 4


def lying(*entries: object) -> Log:
    """A log whose owner signs whatever is in it."""
    log = Log()
    log.add(*entries)  # type: ignore[arg-type]
    log.sign()
    return log


def approved(*entries: object) -> Log:
    """The same, once there is a budget and the job was approved for four rounds."""
    return lying(policy_entry(), approval_entry(FRESH), *entries)


def free() -> Charge:
    """What the smallest event costs, said to be nothing: that is within the tolerance of figures."""
    least = Charge.of(sampled_gaussian(1e6, 1e-6, 1), 1e-3)
    return least.model_copy(update={"rdp": ZERO})


ASKED = Asked(purpose=PURPOSE, rounds=1, charge=charge())
TIMELESS = key_entry().model_copy(update={"utc": "2026-02-30T09:00:00Z"})


def refusal(**changes: object) -> RefuseEntry:
    said: dict[str, object] = {
        "job": JOB,
        "round": 0,
        "decision": "budget",
        "population": "cardiology",
        "asked": ASKED,
        "balance": Balance.of(GRANTED),
        "reason": "over-cap",
    }
    return RefuseEntry.model_validate({**by(), **said, **changes})


def declined(**changes: object) -> RefuseEntry:
    """A steward takes no part, or no more."""
    said = {"decision": "steward", "reason": "declined", "round": None}
    return refusal(**{**said, "population": None, "asked": None, "balance": None, **changes})


LIE = charge().model_copy(update={"epsilon": 0.01})
OTHER = "ef" * 32
TIGHT = first_budget(None, BudgetPolicy("cardiology", 0.5, 1e-3, "patient"))  # two such rounds fit
TIGHTER = reserve(grant(TIGHT, JOB, charge().rdp, 2, PURPOSE), RoundKey(JOB, 0), charge().rdp)
TIGHTEST = reserve(TIGHTER, RoundKey(JOB, 1), charge().rdp)
STRONGER = DP.model_copy(update={"noise_multiplier": 60.0})
SHARED = DP.model_copy(update={"steps_per_round": 1, "noise": "shared", "noise_shares": 3})
SHARED_HELD = reserve(grant(FRESH, JOB, charge(SHARED).rdp, 4, PURPOSE), RoundKey(JOB, 0), charge(SHARED).rdp)


def sharing(entry: ReserveEntry) -> Log:
    return lying(policy_entry(), approval_entry(FRESH, dp=SHARED), entry)


def shared_reserve(**mechanism: object) -> ReserveEntry:
    """A reservation of a job with shared noise, with something else said of its mechanism."""
    entry = reserve_entry(0, SHARED_HELD, SHARED)
    return entry.model_copy(update={"mechanism": entry.mechanism.model_copy(update=mechanism)})


LIES = {
    "a round that ended twice": (
        3,
        f"round: how round 1 of job {JOB[:12]} ended was said before",
        lying(policy_entry(), round_entry(0), round_entry(1), round_entry(1)),
    ),
    "more honest members than the event counts on": (
        2,
        "event: not what q, noise multiplier and steps say",
        sharing(shared_reserve(noise_shares=4)),
    ),
    "local noise where it was shared": (
        2,
        "event: not what q, noise multiplier and steps say",
        sharing(reserve_entry(0, SHARED_HELD, SHARED).model_copy(update={"mechanism": mechanism_of(DP)})),
    ),
    "validation figures that are not paid for": (
        2,
        "event: not what q, noise multiplier and steps say",
        sharing(shared_reserve(validation_noise_multiplier=20.0)),
    ),
    "a mechanism without a price": (
        2,
        "mechanism: noise_multiplier: Input should be greater than or equal to 0.01",
        sharing(shared_reserve(noise_multiplier=1e-9)),
    ),
    "a PLD epsilon that nobody can work out": (
        2,
        "epsilon_pld",
        sharing(
            reserve_entry(0, SHARED_HELD, SHARED).model_copy(
                update={"charge": charge(SHARED).model_copy(update={"epsilon_pld": 0.01})}
            )
        ),
    ),
    "a smaller epsilon": (
        2,
        "epsilon: 0.010000 is stated",
        approved(reserve_entry(0, HELD).model_copy(update={"charge": LIE})),
    ),
    "a smaller Renyi vector": (
        2,
        "rdp: the Renyi vector is not that of the event",
        approved(
            reserve_entry(0, HELD).model_copy(
                update={"charge": charge().model_copy(update={"rdp": charge(STRONGER).rdp})}
            ),
        ),
    ),
    "a smaller PLD epsilon": (
        2,
        "epsilon_pld",
        approved(
            reserve_entry(0, HELD).model_copy(update={"charge": charge().model_copy(update={"epsilon_pld": 0.01})}),
        ),
    ),
    "the event of more noise": (
        2,
        "event: not what q, noise multiplier and steps say",
        approved(reserve_entry(0, HELD).model_copy(update={"charge": charge(STRONGER)})),
    ),
    "another delta": (
        2,
        "delta: 0.01, but the policy's is 0.001",
        approved(
            reserve_entry(0, HELD).model_copy(update={"charge": type(charge()).of(charge().event, 1e-2)}),
        ),
    ),
    "an accountant nobody knows": (
        2,
        "accountant: 'ours' cannot be replayed here",
        approved(
            reserve_entry(0, HELD).model_copy(update={"charge": charge().model_copy(update={"accountant": "ours"})}),
        ),
    ),
    "a wrong balance": (
        2,
        "remaining_epsilon",
        approved(
            reserve_entry(0, HELD).model_copy(
                update={"balance": Balance.of(HELD).model_copy(update={"remaining_epsilon": 1.99})}
            ),
        ),
    ),
    "another order of the filter": (
        2,
        "filter_order",
        approved(
            reserve_entry(0, HELD).model_copy(
                update={"balance": Balance.of(HELD).model_copy(update={"filter_order": 32.0})}
            ),
        ),
    ),
    "an approval over the cap": (
        1,
        "4 rounds would bring epsilon",
        lying(policy_entry(epsilon=0.3), approval_entry(FRESH)),
    ),
    "a round over the cap": (
        5,
        "would bring epsilon",
        lying(
            policy_entry(epsilon=0.5),
            approval_entry(TIGHT, 2),
            approval_entry(TIGHT, 2, job=OTHER),
            reserve_entry(0, TIGHTER),
            reserve_entry(1, TIGHTEST),
            reserve_entry(0, TIGHTEST).model_copy(update={"job": OTHER}),
        ),
    ),
    "a job that nobody approved": (1, "is not approved", lying(policy_entry(), reserve_entry(0, HELD))),
    "a round of more than was approved": (
        3,
        "was approved for rounds of another cost",
        lying(
            policy_entry(),
            approval_entry(FRESH, dp=STRONGER),
            key_entry(),
            reserve_entry(0, HELD),
        ),
    ),
    "more rounds than were approved": (
        4,
        "has used the 1 rounds it was approved for",
        lying(
            policy_entry(),
            approval_entry(FRESH, 1),
            reserve_entry(0, reserve(grant(FRESH, JOB, charge().rdp, 1, PURPOSE), RoundKey(JOB, 0), charge().rdp)),
            commit_entry(0, SPENT),
            reserve_entry(1, SPENT),
        ),
    ),
    "a job approved twice": (2, "is approved already", approved(approval_entry(GRANTED))),
    "an approval that hides what it comes to": (
        1,
        "epsilon_after: 0.010000 is stated",
        lying(policy_entry(), approval_entry(FRESH).model_copy(update={"epsilon_after": 0.01})),
    ),
    "an approval without a price": (
        1,
        "not what a round costs it",
        lying(policy_entry(), approval_entry(FRESH).model_copy(update={"charge": None})),
    ),
    "an approval at another delta": (
        1,
        "delta: 0.01, but the policy's is 0.001",
        lying(
            policy_entry(),
            approval_entry(FRESH).model_copy(update={"charge": type(charge()).of(charge().event, 1e-2)}),
        ),
    ),
    "a charge of nothing": (
        3,
        "charge.rdp: must be one multiple of 2^-32 per order, from that up to 2^20",
        approved(
            reserve_entry(0, HELD),
            approval_entry(HELD, job="cd" * 32).model_copy(update={"charge": free()}),
        ),
    ),
    "a refusal of what costs nothing": (
        3,
        "must be one multiple of 2^-32 per order",
        approved(
            reserve_entry(0, HELD),
            refusal().model_copy(update={"asked": ASKED.model_copy(update={"charge": free()})}),
        ),
    ),
    "another unit than the budget protects": (
        2,
        "each record is protected, but the policy protects each patient",
        approved(reserve_entry(0, HELD).model_copy(update={"unit": "record"})),
    ),
    "a unit that may be in a sample twice": (
        2,
        "contribution_bound",
        approved(reserve_entry(0, HELD).model_copy(update={"contribution_bound": 2})),
    ),
    "an entry from long before": (
        2,
        "2026-03-01T07:59:59Z is stated, but an entry before it is of 2026-03-01T09:00:00Z",
        approved(reserve_entry(0, HELD).model_copy(update={"utc": "2026-03-01T07:59:59Z"})),
    ),
    "an entry of no time": (2, "is no time", approved(TIMELESS)),
    "a first entry of no time": (0, "is no time", lying(TIMELESS)),
    "no budget at all": (0, "no earlier entry sets one", lying(reserve_entry(0, HELD))),
    "a second first budget": (
        1,
        "one person alone cannot change a budget",
        lying(policy_entry(), policy_entry(epsilon=5.0)),
    ),
    "one reservation twice": (
        3,
        "reserved by an earlier entry",
        approved(reserve_entry(0, HELD), reserve_entry(0, HELD)),
    ),
    "a commit without a reservation": (2, "nothing was reserved", approved(commit_entry(0, SPENT))),
    "fewer steps than ran": (
        3,
        "1 steps ran, 2 were planned",
        approved(
            reserve_entry(0, HELD),
            commit_entry(0, SPENT).model_copy(update={"steps_executed": 1}),
        ),
    ),
    "a commit of something cheaper": (
        3,
        "mechanism or charge is not the one that was reserved",
        approved(reserve_entry(0, HELD), commit_entry(0, SPENT, dp=STRONGER)),
    ),
    "presumed, but detailed": (
        3,
        "presumed, yet it says what ran",
        approved(reserve_entry(0, HELD), commit_entry(0, SPENT).model_copy(update={"outcome": "presumed"})),
    ),
    "executed, but silent": (
        3,
        "executed, yet it does not say what ran",
        approved(reserve_entry(0, HELD), commit_entry(0, SPENT).model_copy(update={"rng": None})),
    ),
    "a round charged twice": (
        4,
        "nothing was reserved",
        approved(reserve_entry(0, HELD), commit_entry(0, SPENT), commit_entry(0, SPENT)),
    ),
    "a burnt number used again": (
        4,
        "charged or refunded before",
        approved(reserve_entry(0, HELD), commit_entry(0, SPENT), reserve_entry(0, HELD)),
    ),
    "an update that left before it was charged": (
        3,
        "was not charged before its update left",
        approved(reserve_entry(0, HELD), release_entry(0)),
    ),
    "another ciphertext than was charged": (
        4,
        "not the ciphertext that was charged",
        approved(
            reserve_entry(0, HELD),
            commit_entry(0, SPENT),
            release_entry(0).model_copy(update={"ciphertext_sha256": "ee" * 32}),
        ),
    ),
    "two updates for one round": (
        5,
        "was released before",
        approved(reserve_entry(0, HELD), commit_entry(0, SPENT), release_entry(0), release_entry(0)),
    ),
    "a round of a job that was refused": (
        3,
        "reserve: job abababababab was refused by entry 2, and not approved since",
        approved(declined(), reserve_entry(0, HELD)),
    ),
    "data passed off as a rehearsal": (
        2,
        "this job was approved for one",
        approved(release_entry(0, population=None)),
    ),
    "a refusal the budget did not mean": (2, "would have admitted it", approved(refusal())),
    "an approval that was not used up": (2, "would have admitted it", approved(refusal(reason="grant-used-up"))),
    "an approval that was there": (2, "would have admitted it", approved(refusal(reason="not-approved"))),
    "a round number that was not used": (2, "would have admitted it", approved(refusal(reason="number-used"))),
    "a refusal of nothing": (2, "must say what was asked", approved(refusal(asked=None))),
    "a budget's reason for somebody else's decision": (
        2,
        "over-cap is no reason for a decision by steward",
        approved(refusal().model_copy(update={"decision": "steward"})),
    ),
}


def test_every_refusal_that_was_meant_verifies() -> None:
    one = grant(FRESH, JOB, charge().rdp, 1, PURPOSE)
    held = reserve(one, RoundKey(JOB, 0), charge().rdp)
    balance = Balance.of(held)
    log = lying(
        policy_entry(),
        approval_entry(FRESH, 1),
        reserve_entry(0, held),
        refusal(round=1, reason="grant-used-up", balance=balance),
        refusal(round=0, reason="number-used", balance=balance),
        refusal(job=OTHER, reason="not-approved", balance=balance),
        refusal(job=OTHER, round=None, reason="unit", balance=balance),
        refusal(job=OTHER, round=None, asked=Asked(purpose=PURPOSE, rounds=10_000, charge=charge()), balance=balance),
    )
    assert log.verify().kinds["refuse"] == 5


def test_a_refusal_ends_what_was_approved_and_not_what_was_reserved_or_is_approved_anew() -> None:
    again = reserve(grant(withdraw(SPENT, JOB), JOB, charge().rdp, 2, PURPOSE), RoundKey(JOB, 1), charge().rdp)
    ended = commit(withdraw(HELD, JOB), RoundKey(JOB, 0), charge().rdp)
    log = approved(
        reserve_entry(0, HELD),
        declined(round=0, decision="protocol", reason="bad-evidence"),  # of a round: the job goes on
        declined(),
        commit_entry(0, ended),
        release_entry(0),
        approval_entry(ended, 2),
        reserve_entry(1, again),
    )
    assert log.verify().kinds["refuse"] == 2


def test_a_clock_that_was_set_back_a_little_is_no_lie() -> None:
    log = approved(key_entry().model_copy(update={"utc": "2026-03-01T08:00:00Z"}))
    report = log.verify()
    assert (report.first_utc, report.last_utc) == ("2026-03-01T08:00:00Z", "2026-03-01T09:00:00Z")


def test_a_clock_is_set_back_once_and_not_by_an_hour_with_every_entry() -> None:
    log = Log()
    for hour in (23, 22, 21):
        log.add(key_entry().model_copy(update={"utc": f"2026-03-01T{hour}:00:00Z"}))
    log.sign()
    found = fault(log, log.leaves)
    assert found.sequence == 2
    assert "2026-03-01T21:00:00Z is stated, but an entry before it is of 2026-03-01T23:00:00Z" in str(found)


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_its_owner_signed_is_named(lie: str) -> None:
    sequence, complaint, log = LIES[lie]
    found = fault(log, log.leaves)
    assert found.sequence == sequence
    assert complaint in str(found)


def test_the_verifier_needs_neither_torch_nor_tenseal_nor_grpc() -> None:
    code = (
        "import sys, privacy.ledger.verify, federation.ledger_cli, runtime.ledger_store, runtime.bundle\n"
        "banned = ('torch', 'tenseal', 'grpc', 'opacus', 'transformers', 'privacy.dp')\n"
        "print([m for m in banned if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
