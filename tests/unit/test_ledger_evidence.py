"""What entries say beside the plan they are about, one entry at a time."""

import hashlib

import pytest

from privacy.errors import CloisterError, VerificationError
from privacy.ledger.adapters import AdapterBook
from privacy.ledger.entry import KeyEntry, RefuseEntry, ReleaseEntry, RoundEntry, SelfTestEntry
from privacy.ledger.evidence import Evidence, EvidenceBook, Scope
from privacy.self_test import Measured, Parameter, SelfTestReport
from tests.tiny import tiny_folder, tiny_job, tiny_plan

SELF_TEST = {"passed": False, "checks": (), "model_sha256": None, "software": "cloister 0.1.0", "reason": "not-fit"}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return tiny_plan(tiny_job(), tiny_folder(tmp_path_factory.mktemp("model")))[0]


@pytest.fixture
def silo(plan):
    return next(iter(plan.identity_keys))


def by(silo, utc="2026-03-01T09:00:00Z"):
    return {"institution": silo, "actor": "agent", "role": "agent", "utc": utc}


def book_of(plan, silo, scope=Scope(), plans=True, key=None):  # noqa: B008 - frozen
    held = {plan.digest().hex(): plan.encode()} if plans else {}
    return EvidenceBook(Evidence(plans=held, scope=scope), silo, key or plan.identity_keys[silo])


def release(plan, silo, population):
    job = plan.digest().hex()
    return ReleaseEntry(
        **by(silo), job=job, round=1, population=population, ciphertext_sha256="ab" * 32, recipient="aggregator"
    )


def test_a_self_test_that_failed_before_it_measured_has_a_plan_and_no_report(plan, silo):
    book = book_of(plan, silo)
    book.read(SelfTestEntry(**by(silo), job=plan.digest().hex(), report_sha256=None, **SELF_TEST))
    assert book.finish().plans == 1


def test_a_report_that_was_not_kept_is_counted(plan, silo):
    book = book_of(plan, silo)
    book.read(SelfTestEntry(**by(silo), job=plan.digest().hex(), report_sha256="ab" * 32, **SELF_TEST))
    found = book.finish()
    assert (found.reports, found.reports_absent) == (0, 1)


def test_a_refused_job_needs_no_plan(plan, silo):
    book = book_of(plan, silo, plans=False)
    book.read(
        RefuseEntry(
            **by(silo), job=plan.digest().hex(), round=None, decision="steward", population=None, asked=None,
            balance=None, reason="declined",
        )
    )  # fmt: skip
    assert book.finish().plans == 0


def test_a_release_of_a_job_that_trains_names_who_was_charged(plan, silo):
    book_of(plan, silo).read(release(plan, silo, "patients"))
    with pytest.raises(VerificationError, match="the plan trains, yet no population is charged"):
        book_of(plan, silo).read(release(plan, silo, None))


def test_a_plan_is_missed_in_scope_and_not_outside(plan, silo):
    entry = release(plan, silo, "patients")
    for scope in (Scope(), Scope(job=entry.job), Scope(since_utc=entry.utc)):
        with pytest.raises(VerificationError, match="is not in the export"):
            book_of(plan, silo, scope, plans=False).read(entry)
    for scope in (Scope(job="cd" * 32), Scope(since_utc="2026-03-01T09:00:01Z")):
        book_of(plan, silo, scope, plans=False).read(entry)


def test_a_plan_that_knows_the_institution_by_another_key_is_not_its_own(plan, silo):
    with pytest.raises(VerificationError, match="by another identity key than signed this log"):
        book_of(plan, silo, key=bytes(32)).read(release(plan, silo, "patients"))
    stranger = release(plan, silo, "patients").model_copy(update={"institution": "nobody"})
    with pytest.raises(VerificationError, match="by another identity key"):
        book_of(plan, "nobody", key=bytes(32)).read(stranger)


def pinned(silo, party, key, action="pinned"):
    fingerprint = hashlib.sha256(key).hexdigest()
    return KeyEntry(**by(silo), action=action, party=party, fingerprint=fingerprint, reason="compared")


def test_a_plan_names_the_keys_that_are_pinned(plan, silo):
    other = next(name for name in plan.identity_keys if name != silo)
    party, key = f"cloister://{plan.federation}/silo/{other}", plan.identity_keys[other]
    book = book_of(plan, silo)
    book.read(pinned(silo, party, bytes(32)))
    book.read(pinned(silo, party, key))
    book.read(release(plan, silo, "patients"))
    found = book.finish()
    assert found.members_unpinned == len(plan.identity_keys) - 1  # the other silos but one, and the aggregator
    assert found.pins == {party: tuple(hashlib.sha256(each).hexdigest() for each in (bytes(32), key))}
    book = book_of(plan, silo)
    book.read(pinned(silo, party, key))
    book.read(pinned(silo, party, bytes(32)))
    with pytest.raises(VerificationError, match=f"names {party} with key .* was pinned"):
        book.read(release(plan, silo, "patients"))


def ended(plan, silo, number, before, after):
    return RoundEntry(
        **by(silo), job=plan.digest().hex(), round=number, outcome="published", members=(), transcript_sha256="ab" * 32,
        sum_sha256="ab" * 32, adapter_before_sha256=before, adapter_after_sha256=after, reason=None,
    )  # fmt: skip


FIRST, SECOND = "11" * 32, "22" * 32


def test_each_round_starts_from_the_adapter_that_the_one_before_gave(plan, silo):
    initial = plan.initial_adapter
    sound = [ended(plan, silo, 1, initial, FIRST), ended(plan, silo, 3, FIRST, SECOND)]
    book = AdapterBook()
    for entry in sound:
        book.read(entry, initial)
    for (*before, wrong), why in (
        ([ended(plan, silo, 1, FIRST, SECOND)], "the rounds before it gave"),
        ([sound[0], ended(plan, silo, 2, initial, SECOND)], "the rounds before it gave"),
        ([ended(plan, silo, 1, initial, None)], "is missing, and the round was published"),
    ):
        book = AdapterBook()
        for entry in before:
            book.read(entry, initial)
        with pytest.raises(VerificationError, match=why):
            book.read(wrong, initial)


def self_test(plan, silo, **changes):
    return SelfTestEntry(
        **by(silo), job=plan.digest().hex(), **{**SELF_TEST, "reason": None, "passed": True, **changes}
    )


def report_of(measured=1e-5):
    finding = Measured(check="clipped sum", measured=measured, bound=1e-4)
    parameter = Parameter(name="a", kind="matrix")
    return SelfTestReport(clipping="hooks", parameters=(parameter,), values=3, findings=(finding,)).encode()


@pytest.mark.parametrize(
    ("report", "changes", "why"),
    [
        (report_of(), {}, None),
        (report_of(), {"passed": False}, "has other checks than the ledger, or another result"),
        (report_of(), {"checks": ("another",)}, "has other checks"),
        (report_of(measured=2e-4), {}, "another result"),
        (b'{"anything":1}', {}, "self-test report"),
    ],
)
def test_a_self_test_s_report_says_what_the_entry_says(plan, silo, report, changes, why):
    digest = hashlib.sha256(report).hexdigest()
    held = Evidence(plans={plan.digest().hex(): plan.encode()}, reports={digest: report})
    book = EvidenceBook(held, silo, plan.identity_keys[silo])
    entry = self_test(plan, silo, report_sha256=digest, **{"checks": ("clipped sum",), **changes})
    if why is None:
        book.read(entry)
        assert book.finish().reports == 1
    else:
        with pytest.raises(CloisterError, match=why):
            book.read(entry)
