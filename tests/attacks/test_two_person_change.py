"""A budget that one person raises: everything a log's owner can write down and sign as its own is found."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from privacy.budget import BudgetPolicy, RoundKey, commit, first_budget, grant, reserve
from privacy.budget_change import change_epsilon
from privacy.ledger.entry import Entry
from privacy.ledger.verify import LedgerFault
from tests.ledger_logs import (
    JOB,
    ORIGIN,
    OWN,
    PEOPLE,
    PURPOSE,
    Log,
    admin_entry,
    approval_entry,
    approved,
    auto_policy_entry,
    budget_change_entry,
    by,
    charge,
    commit_entry,
    key_entry,
    policy_entry,
    reserve_entry,
    review_entry,
    sub_cap_entry,
)

FRESH = first_budget(None, BudgetPolicy("cardiology", 2.0, 1e-3, "patient"))
WIDER = change_epsilon(FRESH, 3.0)
WEBER, OKORO, DIAZ = "dr-weber", "ms-okoro", "mr-diaz"


def log_of(*entries: Entry) -> Log:
    """Both administrators are on record, then these."""
    log = Log()
    log.add(key_entry(), policy_entry(), admin_entry(1, WEBER), admin_entry(2, OKORO), *entries)
    log.sign()
    return log


def fault(log: Log) -> LedgerFault:
    with pytest.raises(LedgerFault) as found:
        log.verify(log.leaves)
    return found.value


def test_what_two_people_sign_verifies() -> None:
    wider = grant(WIDER, JOB, charge().rdp, 4, PURPOSE)
    log = log_of(
        budget_change_entry(3, WIDER, 2.0),
        sub_cap_entry(4, PURPOSE, None, 1.0),
        sub_cap_entry(5, PURPOSE, 1.0, 2.0, WEBER, OKORO),
        sub_cap_entry(6, None, None, 0.9),
        sub_cap_entry(7, None, 0.9, None, WEBER, OKORO),
        admin_entry(8, DIAZ, WEBER, OKORO),
        admin_entry(9, OKORO, WEBER, DIAZ, action="remove"),
        budget_change_entry(10, change_epsilon(FRESH, 2.5), 3.0, (WEBER, DIAZ)),
        approval_entry(change_epsilon(wider, 2.5)),
    )
    report = log.verify(log.leaves)
    assert report.administrators == (WEBER, DIAZ) or report.administrators == (DIAZ, WEBER)
    assert [row.epsilon for row in report.populations] == [2.5]


def twice(entry: Entry) -> Entry:
    first = entry.approvals[0]  # type: ignore[attr-defined]
    return entry.model_copy(update={"approvals": (first, first)})


def other_key() -> Entry:
    """The log's owner signs for a person with a key that it made."""
    keys = dict(PEOPLE)
    PEOPLE[OKORO] = PEOPLE[DIAZ]
    try:
        return budget_change_entry(3, WIDER, 2.0)
    finally:
        PEOPLE.update(keys)


def moved(**changes: object) -> Entry:
    """Signatures of one change under another."""
    return budget_change_entry(3, WIDER, 2.0).model_copy(update=changes)


def proposed(key: Ed25519PrivateKey = OWN, expires: str = "2026-03-31T09:00:00Z", number: int = 3) -> Entry:
    """A change that both have signed, for a log of this key and until this time."""
    said = {"key": key.public_key().public_bytes_raw().hex(), "expires": expires}
    return approved(budget_change_entry(number, WIDER, 2.0).model_copy(update=said), WEBER, OKORO)


def rotated(key: Callable[[Log], Ed25519PrivateKey]) -> Log:
    """The log changes its key, and then a change is recorded that was proposed under this one."""
    log = log_of()
    log.rotate()
    log.add(proposed(key(log)))
    log.sign()
    return log


def test_changes_of_before_and_after_a_change_of_key_verify() -> None:
    assert [row.epsilon for row in rotated(lambda log: log.key).verify().populations] == [3.0]


def test_a_change_is_good_until_it_expires() -> None:
    at_the_end = log_of(proposed(expires=by()["utc"]))  # type: ignore[arg-type]
    assert [row.epsilon for row in at_the_end.verify().populations] == [3.0]


SPENT = commit(
    reserve(grant(FRESH, JOB, charge().rdp, 1, PURPOSE), RoundKey(JOB, 0), charge().rdp), RoundKey(JOB, 0), charge().rdp
)
YEARS = "2027-03-03T09:00:00Z"  # 367 days later
LIES: dict[str, tuple[int, str, Callable[[], Log]]] = {
    "one signature": (4, "1 of the 2", lambda: log_of(budget_change_entry(3, WIDER, 2.0, (WEBER,)))),
    "none": (4, "0 of the 2", lambda: log_of(budget_change_entry(3, WIDER, 2.0, ()))),
    "one person twice": (4, "dr-weber signed it twice", lambda: log_of(twice(budget_change_entry(3, WIDER, 2.0)))),
    "somebody else": (
        4,
        "mr-diaz, who signed it, is no administrator",
        lambda: log_of(budget_change_entry(3, WIDER, 2.0, (WEBER, DIAZ))),
    ),
    "a key the owner made": (4, "ms-okoro's signature is not of this change", lambda: log_of(other_key())),
    "another epsilon than was signed": (4, "is not of this change", lambda: log_of(moved(epsilon=300.0))),
    "another reason than was signed": (4, "is not of this change", lambda: log_of(moved(reason="urgent"))),
    "signatures used again": (
        6,
        "when there had been 3 changes, and there were 5",
        lambda: log_of(
            budget_change_entry(3, WIDER, 2.0),
            budget_change_entry(4, FRESH, 3.0),
            budget_change_entry(3, WIDER, 2.0),
        ),
    ),
    "signatures for an earlier log of this name": (
        4,
        "it was proposed when key",
        lambda: log_of(proposed(Ed25519PrivateKey.generate())),
    ),
    "the key of this log under signatures for an earlier one": (
        4,
        "is not of this change",
        lambda: log_of(proposed(PEOPLE[DIAZ]).model_copy(update={"key": budget_change_entry(3, WIDER, 2.0).key})),
    ),
    "signatures from before the log changed its key": (5, "it was proposed when key", lambda: rotated(lambda _: OWN)),
    "signatures that have expired": (
        4,
        "it was good until 2026-03-01T08:59:59Z, and it is 2026-03-01T09:00:00Z",
        lambda: log_of(proposed(expires="2026-03-01T08:59:59Z")),
    ),
    "signatures that are good for years": (
        4,
        "no change is for more than 366",
        lambda: log_of(proposed(expires=YEARS)),
    ),
    "signatures until no day of any calendar": (
        4,
        "is no time",
        lambda: log_of(proposed(expires="9999-99-99T99:99:99Z")),
    ),
    "a longer time than was signed": (
        4,
        "is not of this change",
        lambda: log_of(moved(expires="2027-01-01T00:00:00Z")),
    ),
    "an old value that was not so": (
        4,
        "1.0 is stated, 2.0 was so",
        lambda: log_of(budget_change_entry(3, WIDER, 1.0)),
    ),
    "a balance that does not follow": (
        4,
        "remaining_epsilon",
        lambda: log_of(moved(balance=budget_change_entry(3, FRESH, 2.0).balance)),
    ),
    "less than is spent": (
        7,
        "does not cover what is spent",
        lambda: log_of(
            approval_entry(FRESH, 1),
            reserve_entry(0, reserve(grant(FRESH, JOB, charge().rdp, 1, PURPOSE), RoundKey(JOB, 0), charge().rdp)),
            commit_entry(0, SPENT),
            budget_change_entry(3, first_budget(None, BudgetPolicy("cardiology", 0.1, 1e-3, "patient")), 2.0),
        ),
    ),
    "a sub-cap widened by a steward": (
        5,
        "0 of the 2",
        lambda: log_of(sub_cap_entry(3, PURPOSE, None, 1.0), sub_cap_entry(4, PURPOSE, 1.0, 1.5)),
    ),
    "a sub-cap taken away by a steward": (
        5,
        "0 of the 2",
        lambda: log_of(sub_cap_entry(3, None, None, 1.0), sub_cap_entry(4, None, 1.0, None)),
    ),
    "an approval beyond a sub-cap": (
        5,
        "may spend epsilon 0.1",
        lambda: log_of(sub_cap_entry(3, PURPOSE, None, 0.1), approval_entry(FRESH)),
    ),
    "a round beyond a sub-cap that was set after its approval": (
        6,
        "one job may spend epsilon 0.1",
        lambda: log_of(
            approval_entry(FRESH),
            sub_cap_entry(3, None, None, 0.1),
            reserve_entry(0, reserve(grant(FRESH, JOB, charge().rdp, 4, PURPOSE), RoundKey(JOB, 0), charge().rdp)),
        ),
    ),
    "a third administrator added by one": (4, "1 of the 2", lambda: log_of(admin_entry(3, DIAZ, WEBER))),
    "a third administrator added by none": (4, "0 of the 2", lambda: log_of(admin_entry(3, DIAZ))),
    "a new administrator who has not signed": (
        4,
        "mr-diaz has not signed it with the new key",
        lambda: log_of(approved(admin_entry(3, DIAZ), WEBER, OKORO)),
    ),
    "a second key for one person": (4, "is an administrator already", lambda: log_of(admin_entry(3, WEBER, OKORO))),
    "one key for two people": (
        4,
        "this key was an administrator's before",
        lambda: log_of(admin_entry(3, DIAZ).model_copy(update={"public_key": raw(WEBER)})),
    ),
    "all but one removed": (
        4,
        "fewer than two would be left",
        lambda: log_of(admin_entry(3, OKORO, WEBER, OKORO, action="remove")),
    ),
}


def raw(person: str) -> str:
    return PEOPLE[person].public_key().public_bytes_raw().hex()


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_a_change_is_named(lie: str) -> None:
    sequence, complaint, log = LIES[lie]
    found = fault(log())
    assert found.sequence == sequence
    assert complaint in str(found)


def reviewed(**changes: object) -> Log:
    """A review of the log as it stood, with changes that its auditor did not sign unless they are of the review."""
    log = log_of()
    log.add(review_entry(log).model_copy(update=changes))
    log.sign()
    return log


def signed_review(**changes: object) -> Log:
    log = log_of()
    log.add(review_entry(log, **changes))  # type: ignore[arg-type]
    log.sign()
    return log


REVIEWS: dict[str, tuple[str, Callable[[], Log]]] = {
    "another's signature": ("did not sign it", lambda: reviewed(signature="00" * 64)),
    "another author": ("and cloister://heart/auditor/ms-audit signed it", lambda: reviewed(actor="dr-weber")),
    "another role": ("signed it", lambda: reviewed(role="steward")),
    "another log": ("is of cloister/heart/b, not of " + ORIGIN, lambda: signed_review(log="cloister/heart/b")),
    "another state": ("signed no checkpoint of 4 entries", lambda: signed_review(log_root="00" * 32)),
    "a state nobody signed": ("signed no checkpoint of 3 entries", lambda: signed_review(log_size=3, last_sequence=1)),
    "closing what is not open": ("entry 1 is no review with an open", lambda: signed_review(closes=1)),
}


@pytest.mark.parametrize("lie", REVIEWS)
def test_a_lie_about_a_review_is_named(lie: str) -> None:
    complaint, log = REVIEWS[lie]
    found = fault(log())
    assert found.sequence == 4
    assert complaint in str(found)


def test_a_review_is_closed_once() -> None:
    log = log_of()
    log.add(review_entry(log, follow_up="name a third", due="2026-06-30"))
    log.sign()
    log.add(review_entry(log, closes=4))
    log.sign()
    assert [entry.review.closes for entry in log.verify().reviews] == [None, 4]
    log.add(review_entry(log, closes=4))
    log.sign()
    assert "entry 4 is no review with an open follow-up" in str(fault(log))
    assert by()["role"] == "agent"


# -- approvals that name no person -------------------------------------------------------------------------------------


def automatic(*before: Entry, rounds: int = 4, **changes: object) -> Log:
    """An approval by the agent after these entries."""
    entry = approval_entry(FRESH, rounds).model_copy(update={"automatic": True, "role": "agent", **changes})
    return log_of(*before, entry)


def test_an_automatic_approval_within_the_policy_verifies() -> None:
    assert automatic(auto_policy_entry()).verify().kinds["job-approval"] == 1


@pytest.mark.parametrize(("automatic_", "role"), [(True, "steward"), (False, "agent")])
def test_an_approval_is_automatic_if_the_agent_alone_made_it(automatic_: bool, role: str) -> None:
    with pytest.raises(LedgerFault, match=f"automatic: {role} dr-weber made an approval that is"):
        automatic(auto_policy_entry(), automatic=automatic_, role=role).verify()


def test_an_automatic_approval_from_before_policies_went_on_record_is_counted() -> None:
    report = automatic().verify()
    assert (report.kinds["job-approval"], report.automatic_without_policy) == (1, 1)
    assert automatic(auto_policy_entry()).verify().automatic_without_policy == 0


BEYOND: dict[str, tuple[str, Callable[[], Log]]] = {
    "switched off": ("approves no jobs on data", lambda: automatic(auto_policy_entry(auto_approve=False))),
    "the newest counts": (
        "approves no jobs on data",
        lambda: automatic(auto_policy_entry(), auto_policy_entry(auto_approve=False)),
    ),
    "another purpose": ("none of the policy's purposes", lambda: automatic(auto_policy_entry(purposes=("billing",)))),
    "dearer": ("and the policy approves 0.1", lambda: automatic(auto_policy_entry(max_epsilon_per_job=0.1))),
    "a rehearsal": (
        "approves no rehearsals",
        lambda: automatic(auto_policy_entry(), population=None, charge=None, epsilon_after=None),
    ),
}


@pytest.mark.parametrize("lie", BEYOND)
def test_an_automatic_approval_beyond_the_policy_is_named(lie: str) -> None:
    complaint, log = BEYOND[lie]
    made = log()
    found = fault(made)
    assert found.sequence == len(made.entries) - 1
    assert complaint in str(found)


def test_a_time_in_other_digits_is_none() -> None:
    """Full-width ones look like a date, and sort after every one."""
    with pytest.raises(ValidationError, match="expires"):
        proposed(expires="\uff12\uff10\uff12\uff16-03-01T08:59:59Z")
