"""Tables of the page: a caption, column heads, and rows of plain text."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from federation.ledger_report import words
from federation.ledger_report.jobs import Job
from federation.ledger_report.reviews import ReviewRow
from privacy.ledger.entry import (
    AdminEntry,
    AnyEntry,
    AutoPolicyEntry,
    BudgetChangeEntry,
    CommitEntry,
    JobApprovalEntry,
    KeyEntry,
    KeyRotationEntry,
    PolicyEntry,
    RefuseEntry,
    ReserveEntry,
    SelfTestEntry,
    SubCapEntry,
)
from privacy.ledger.evidence import EvidenceReport
from privacy.ledger.verify import Report

DECISIONS = ("policy", "job-approval", "reserve", "commit", "refund", "refuse", "budget-change", "sub-cap")
CHANGES = ("budget-change", "sub-cap", "admin")
CERTIFIED = ", whom this federation's CA certified as one"
NOT_CERTIFIED = "; whether the signer is one was not checked, since no CA was given"
KEY_ACTIONS = {"own": "its own, signs this ledger", "pinned": "pinned: the only one for this party from then on"}


@dataclass(frozen=True)
class Table:
    """`marked` are rows that need attention, by their place; `codes` columns of digests, by theirs."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    codes: frozenset[int] = frozenset()


def refusals_table(entries: Sequence[RefuseEntry], jobs: Iterable[Job]) -> Table:
    """When which job was refused, by whom and why."""
    names = {job.digest: job.name for job in jobs}
    rows = tuple(
        (
            words.moment(entry.utc),
            _job(entry.job, names) + ("" if entry.round is None else f", round {entry.round}"),
            f"{words.DECIDERS[entry.decision]} ({entry.actor}, {entry.role})",
            f"{words.REFUSALS[entry.reason]} [{entry.reason}]{_asked(entry)}",
            str(entry.sequence),
        )
        for entry in entries
    )
    return Table("Every decision not to take part", ("When (UTC)", "Job", "By", "Why", "Entry"), rows)


def _asked(entry: RefuseEntry) -> str:
    if entry.asked is None:
        return ""
    asked, epsilon = words.count(entry.asked.rounds, "round"), entry.asked.charge.epsilon
    purpose = "" if entry.asked.purpose is None else f", for the purpose {entry.asked.purpose!r}"
    of = f"of {entry.population or 'no population'}{purpose}"
    return f" Asked for: {asked}, each of epsilon {epsilon:.3f} alone, {of}."


def reviews_table(rows: Sequence[ReviewRow], today: date) -> Table:
    """Who examined what, what they found, and what is still to be done."""
    return Table(
        "Reviews of this ledger, the most urgent first",
        ("When (UTC)", "Auditor", "Examined", "Finding", "To do", "State", "Entry"),
        tuple(
            (
                words.moment(row.utc),
                row.auditor,
                row.subject,
                f"{words.FINDINGS.get(row.finding, row.finding)}: {row.remark}",
                (row.follow_up or "nothing") + ("" if row.closes is None else f"; settles entry {row.closes}"),
                _state(row, today),
                str(row.sequence),
            )
            for row in rows
        ),
        marked=frozenset(i for i, row in enumerate(rows) if row.overdue(today)),
    )


def _state(row: ReviewRow, today: date) -> str:
    if row.settled:
        return "settled"
    if row.due is None:
        return "open"
    if not row.overdue(today):
        return f"open, due {row.due}"
    return f"OVERDUE by {words.count((today - date.fromisoformat(row.due)).days, 'day')}: was due {row.due}"


def keys_table(entries: Iterable[AnyEntry]) -> Table:
    """Identity keys: the institution's own, and those it holds others to."""
    rows = tuple(
        (words.moment(e.utc), *_key(e), str(e.sequence)) for e in entries if isinstance(e, KeyEntry | KeyRotationEntry)
    )
    heads = ("When (UTC)", "Party", "What", "By, and why", "Fingerprint (SHA-256)", "Entry")
    return Table("Identity keys, its own and those pinned", heads, rows, codes=frozenset({4}))


def _key(entry: KeyEntry | KeyRotationEntry) -> tuple[str, str, str, str]:
    why = f"{entry.actor}: {entry.reason}"
    if isinstance(entry, KeyEntry):
        return entry.party, KEY_ACTIONS[entry.action], why, entry.fingerprint
    fingerprint = hashlib.sha256(bytes.fromhex(entry.new_key)).hexdigest()
    return entry.institution, "signs this ledger from here on; the key before it agreed", why, fingerprint


def self_tests_table(entries: Iterable[AnyEntry], jobs: Iterable[Job]) -> Table:
    """What each model and mechanism was tried for on made-up examples, before any budget was touched."""
    names = {job.digest: job.name for job in jobs}
    tests = [entry for entry in entries if isinstance(entry, SelfTestEntry)]
    rows = tuple(
        (
            words.moment(entry.utc),
            "no job" if entry.job is None else _job(entry.job, names),
            "passed" if entry.passed else f"FAILED: {entry.reason or 'no reason given'}",
            "; ".join(entry.checks) or "none named",
            entry.software,
            str(entry.sequence),
        )
        for entry in tests
    )
    heads = ("When (UTC)", "Job", "Result", "Checked", "Software", "Entry")
    marked = frozenset(i for i, entry in enumerate(tests) if not entry.passed)
    return Table("Self-tests before training, on made-up examples", heads, rows, marked)


def rules_table(entries: Iterable[AnyEntry]) -> Table:
    """Every setting of a budget or a sub-cap, and of who may change them: the old beside the new, and who signed."""
    rows = []
    for entry in entries:
        rule = _rule(entry)
        if rule is not None:
            rows.append((words.moment(entry.utc), *rule, str(entry.sequence)))
    heads = ("When (UTC)", "What", "Before", "After", "Signed by", "Why", "Entry")
    return Table("Budgets, sub-caps, and who may change them", heads, tuple(rows))


def _rule(entry: AnyEntry) -> tuple[str, str, str, str, str] | None:
    match entry:
        case PolicyEntry(population=population):
            budget = f"{entry.epsilon:g} at delta {entry.delta:g}"
            return f"lifetime cap of {population}", "none", budget, f"{entry.actor} alone, the first", entry.reason
        case BudgetChangeEntry(population=population):
            before, after = f"{entry.epsilon_before:g}", f"{entry.epsilon:g}"
            return f"lifetime cap of {population}", before, after, _signed(entry), entry.reason
        case SubCapEntry(population=population, purpose=purpose):
            whose = "any one job" if purpose is None else f"the purpose {purpose!r}"
            before, after = _cap(entry.epsilon_before), _cap(entry.epsilon)
            return f"sub-cap of {population} for {whose}", before, after, _signed(entry), entry.reason
        case AutoPolicyEntry():
            return "what the agent approves without asking", "as before", _automatic(entry), "nobody: silo.toml", ""
        case AdminEntry(action=action, person=person):
            before, after = ("no", "yes") if action == "add" else ("yes", "no")
            return (
                f"{person} is an administrator, key {entry.public_key[:16]}...",
                before,
                after,
                _signed(entry),
                entry.reason,
            )
        case _:
            return None


def _automatic(entry: AutoPolicyEntry) -> str:
    if not entry.auto_approve or entry.max_epsilon_per_job is None:
        return "rehearsals alone" if entry.rehearsals else "nothing"
    purposes = f"for {' or '.join(map(repr, entry.purposes))}" if entry.purposes else "for any purpose"
    noise = ", also with shared noise" if entry.shared_noise else ""
    return f"jobs on dataset {entry.dataset} of at most epsilon {entry.max_epsilon_per_job:g} each, {purposes}{noise}"


def _signed(entry: BudgetChangeEntry | SubCapEntry | AdminEntry) -> str:
    return ", ".join(each.person for each in entry.approvals) or f"{entry.actor} ({entry.role}), no other needed"


def _cap(epsilon: float | None) -> str:
    return "none" if epsilon is None else f"{epsilon:g}"


def checks_table(report: Report, entries: Sequence[AnyEntry], *, by_ca: bool) -> Table:
    """What the verifier did with this bundle; every line of it held, or there would be no page."""
    kinds, found = report.kinds, report.evidence
    charges = sum(_states_a_charge(entry) for entry in entries)
    decisions = sum(kinds.get(kind, 0) for kind in DECISIONS)
    rows = [
        (
            f"Signatures: each checkpoint is signed by the key above{_earlier(report)}",
            words.count(report.checkpoints, "checkpoint"),
        ),
        ("Tree: each entry is the one signed for, in its place", words.count(report.entries, "entry", "entries")),
        ("Figures: each stated cost computed again from what ran, by two accountants", words.count(charges, "charge")),
        ("Decisions: each step of a budget replayed under its rule, each balance again", f"{decisions} entries"),
    ]
    changes = sum(kinds.get(kind, 0) for kind in CHANGES)
    rows.append(("Changes of rules: those who had to sign did, for this log and this change", f"{changes} entries"))
    rows.append((f"Reviews: signed by the auditor{CERTIFIED if by_ca else NOT_CERTIFIED}", f"{len(report.reviews)}"))
    alone = report.automatic_without_policy
    if alone:
        check = "Approvals by the agent alone: held against the policy that was on record"
        rows.append((check, f"{words.count(alone, 'approval')} had none: not checked"))
    rows.append(_witnesses(report))
    if found is not None:
        absent = f"; {found.reports_absent} not kept by the institution" if found.reports_absent else ""
        outside = f"; {found.rounds_out_of_scope} left out of this export" if found.rounds_out_of_scope else ""
        rows += [
            ("Plans: purpose, unit, mechanism and model of the entries are the plan's", f"{found.plans} compared"),
            (
                "Rounds: members, sum and the adapter before are those that all members of the round signed, the next "
                "adapter is what this institution signed; its update in the sum is the one it had charged",
                f"{words.count(found.transcripts, 'transcript')} compared{outside}",
            ),
            ("Members: the keys that plans name are those pinned in this ledger", _members(found)),
            ("Texts: those that entries commit to are the ones committed to", _texts(found)),
            ("Self-tests: the report is the one the entry names", f"{found.reports} compared{absent}"),
        ]
    return Table("What was checked for this page, and held", ("Check", "How much"), tuple(rows))


def _earlier(report: Report) -> str:
    changes = words.count(len(report.rotations), "change")
    return f", or the one before it: both keys signed each of {changes} of key" if report.rotations else ""


def _members(found: EvidenceReport) -> str:
    pinned = f"{words.count(len(found.pins), 'party', 'parties')} pinned"
    return pinned + (f"; {found.members_unpinned} keys rest on plans alone" if found.members_unpinned else "")


def _texts(found: EvidenceReport) -> str:
    left_out = "; ".join(
        f"{name} of {words.count(n, 'entry', 'entries')} left out" for name, n in found.texts_left_out.items()
    )
    return f"{found.texts_opened} open" + (f"; {left_out}, as the institution chose" if left_out else "")


def _witnesses(report: Report) -> tuple[str, str]:
    check = "Witnesses: those who say that this log continues what they saw of it before"
    if report.witnesses is None:
        return check, "not checked, since no CA was given"
    named = "; ".join(f"{each.witness} up to entry {each.entries - 1}, {each.utc}" for each in report.witnesses)
    later = report.entries - (report.covered_by[0] if report.covered_by else 0)
    unseen = f"; nobody has seen the last {words.count(later, 'entry', 'entries')}" if later else ""
    return check, f"{named}{unseen}" if named else "none: an older or another state of this log would verify as well"


def _states_a_charge(entry: AnyEntry) -> bool:
    match entry:
        case ReserveEntry() | CommitEntry():
            return True
        case JobApprovalEntry():
            return entry.charge is not None
        case RefuseEntry():
            return entry.asked is not None
        case _:
            return False


def _job(digest: str, names: dict[str, str]) -> str:
    name = names.get(digest)
    return digest[:12] if name is None or name == digest[:12] else f"{name} ({digest[:12]})"
