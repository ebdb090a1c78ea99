"""What entries say beside the plan they are about, one entry at a time."""

import pytest

from privacy.errors import VerificationError
from privacy.ledger.entry import RefuseEntry, ReleaseEntry, SelfTestEntry
from privacy.ledger.evidence import Evidence, EvidenceBook, Scope
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
