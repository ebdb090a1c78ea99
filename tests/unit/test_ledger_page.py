"""The page about a verified ledger: its facts are the entries', and nothing in an entry can be more than text."""

import hashlib
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import get_args

import pytest

from federation.ledger_report.chart import HIGH, WIDE, step_chart
from federation.ledger_report.jobs import jobs_of
from federation.ledger_report.page import VerifiedBundle, page
from federation.ledger_report.registry import deployments
from federation.ledger_report.reviews import ReviewRow, urgent_first
from federation.ledger_report.spending import Level, by_day, levels_of
from federation.ledger_report.words import DECIDERS, REFUSALS, meaning, percent
from privacy.accounting import add, rdp_epsilon, round_event, times
from privacy.budget import BudgetPolicy, first_budget, grant, reserve
from privacy.ledger.codec import decode_entry
from privacy.ledger.entry import RefuseEntry, ReviewEntry
from privacy.ledger.evidence import EvidenceReport, Scope
from privacy.ledger.parts import Charge, RefusalReason
from tests.ledger_logs import (
    DP,
    JOB,
    PEOPLE,
    PURPOSE,
    Log,
    RoundKey,
    approval_entry,
    auto_policy_entry,
    by,
    charge,
    key_entry,
    policy_entry,
    release_entry,
    reserve_entry,
    review_entry,
    rotated_log,
    round_entry,
    sample_log,
)
from tests.reading_pages import Element, read_page

NOW = datetime(2026, 5, 1, 10, tzinfo=UTC)  # before the sample's review is due
HOSTILE = '</td><script>alert(1)</script><img src=x onerror="alert(2)">\u202egpj.exe{{ 7*7 }}'
OPEN = ReviewRow(
    sequence=7,
    utc="2026-06-30T14:00:00Z",
    auditor="ms-audit",
    subject="quarter",
    finding="deficiency",
    remark="no DPIA",
    follow_up="name it",
    due="2026-08-30",
    closes=None,
    settled=False,
)


def bundle_of(log: Log, **changes: object) -> VerifiedBundle:
    entries = tuple(decode_entry(body) for body in log.entries)
    return replace(VerifiedBundle(log.verify(), log.public_key, "key", Scope(), entries, {}), **changes)


@pytest.fixture(scope="module")
def sample() -> VerifiedBundle:
    return bundle_of(sample_log())


@pytest.fixture(scope="module")
def shown(sample) -> Element:
    return read_page(page(sample, NOW))


def section(shown: Element, name: str) -> Element:
    return shown.find("section", id=name)[0]


def facts(shown: Element, name: str) -> dict[str, str]:
    within = section(shown, name)
    names, values = within.find("dt"), within.find("dd")
    return {term.text: value.text for term, value in zip(names, values, strict=True)}


def rows(shown: Element, caption: str) -> list[list[str]]:
    table = next(t for t in shown.find("table") if t.find("caption")[0].text.startswith(caption))
    return [[cell.text for cell in row.find("td")] for row in table.find("tbody")[0].find("tr")]


def test_the_budget_is_what_the_verifier_reports(sample, shown):
    row = sample.report.populations[0]
    said = facts(shown, "glance")
    assert said["Epsilon spent"].startswith(f"{row.spent_epsilon:.3f} ")
    assert f"{row.spent_pld_epsilon:.3f}" in said["Epsilon spent"]
    assert (said["Left"], said["Rounds charged"]) == (f"{row.left_epsilon:.3f}", "3")
    assert said["Lifetime cap"] == "2.5 (it was changed: by whom)"
    assert said["Limits within it"] == "1.5 for the purpose heart disease"
    glance = section(shown, "glance").text
    assert f"Of the lifetime budget, {percent(row.spent_epsilon, 2.5)} is spent and" in glance
    assert "protects each patient, delta 0.001" in glance
    assert f"{sample.report.entries} entries, 5 signed checkpoints" in said["Verification"]
    assert sample.public_key.hex() in said["Whose key"]
    (bar,) = shown.find("svg", class_="bar")
    widths = [float(rect.attributes["width"]) for rect in bar.find("rect")]
    assert widths == pytest.approx([100, 40 * row.charged_epsilon, 40 * row.spent_epsilon], abs=1e-3)


def test_who_vouched_for_the_key_is_said(sample, shown):
    assert facts(shown, "glance")["Whose key"].startswith("The key that was given for this page")
    vouched = read_page(page(replace(sample, trust="ca"), NOW))
    assert facts(vouched, "glance")["Whose key"].startswith("Vouched for by the federation's CA")


def test_a_job_has_its_purpose_approval_rounds_and_its_own_epsilon(shown):
    said = facts(shown, "jobs")
    assert said["Purpose"] == "heart disease"
    assert said["Data"] == "population cardiology, dataset cleveland"
    rounds = "4 granted, 3 charged, 1 refunded, 2 published, 0 aborted (1 charged in full after a crash)"
    assert said["Rounds"] == rounds
    epsilon = rdp_epsilon(times(charge().rdp, 3), 1e-3)
    assert said["Epsilon of this job alone"].startswith(f"{epsilon:.3f} at delta 0.001, for each patient of cardiology")
    assert said["Approved by"].startswith("dr-weber (steward), 2026-03-01 09:00 UTC, for 4 rounds: within the DPIA")
    both = "GDPR Art. 6(1)(e), 9(2)(j) (of the budget's policy); DPIA-2026-014"
    assert said["Legal basis and impact assessment"] == both
    assert "sealed updates went to aggregator; in the published sums were hospital-a, hospital-b" in said["Recipients"]
    assert said["Model"] == "11" * 32
    assert said["Job (digest of its plan)"] == f"{JOB} its plan is not in this export"


def test_refusals_reviews_keys_and_self_tests_stand_in_tables(shown):
    (refusal,) = rows(shown, "Every decision")
    assert refusal[1] == "cd" * 6
    assert refusal[2] == "the budget's rule (cloister-agent, agent)"
    assert refusal[3].startswith(f"{REFUSALS['over-cap']} [over-cap] Asked for: 10000 rounds, each of epsilon")
    (review,) = rows(shown, "Reviews of this ledger")
    assert review[1:6] == [
        "cloister://heart/auditor/ms-audit",
        "first quarter (entries 0 to 16)",
        "observation: Budgets and approvals read with the steward.",
        "name the second administrator",
        "open, due 2026-06-30",
    ]
    (key,) = rows(shown, "Identity keys")
    assert (key[1], key[4]) == ("cloister://heart/silo/hospital-a", "0c" * 32)
    (test,) = rows(shown, "Self-tests")
    assert test[1:4] == ["ab" * 6, "passed", "clipped sum"]
    checks = dict(rows(shown, "What was checked"))
    assert {"5 checkpoints", "23 entries", "9 charges", "13 entries", "4 entries"} <= set(checks.values())
    assert "1 review; 1 follow-up open, 0 overdue on 2026-05-01." in section(shown, "reviews").text
    assert not shown.find("div", class_="alert")


def test_a_change_of_key_is_shown():
    log = rotated_log()
    shown = read_page(page(bundle_of(log), NOW))
    own, changed = rows(shown, "Identity keys")
    assert own[2] == "its own, signs this ledger"
    assert changed[1:4] == [
        "hospital-a", "signs this ledger from here on; the key before it agreed", "dr-weber: every two years"
    ]  # fmt: skip
    assert changed[4] == hashlib.sha256(log.public_key).hexdigest()
    checks = dict(rows(shown, "What was checked"))
    assert [name for name in checks if name.endswith("both keys signed each of 1 change of key")]


def test_every_code_of_a_refusal_has_words():
    codes = {code for part in get_args(RefusalReason) for code in get_args(part)}
    assert set(REFUSALS) == codes
    assert set(DECIDERS) == set(get_args(RefuseEntry.model_fields["decision"].annotation))


def key_of(person: str) -> str:
    return PEOPLE[person].public_key().public_bytes_raw().hex()[:16]


def test_changes_of_the_rules_stand_old_beside_new_with_who_signed(shown):
    found = [row[1:5] for row in rows(shown, "Budgets, sub-caps")]
    assert found == [
        ["lifetime cap of cardiology", "none", "2 at delta 0.001", "dr-weber alone, the first"],
        [f"dr-weber is an administrator, key {key_of('dr-weber')}...", "no", "yes", "dr-weber"],
        [f"ms-okoro is an administrator, key {key_of('ms-okoro')}...", "no", "yes", "ms-okoro"],
        ["sub-cap of cardiology for the purpose 'heart disease'", "none", "1.5", "dr-weber (steward), no other needed"],
        ["lifetime cap of cardiology", "2", "2.5", "dr-weber, ms-okoro"],
        [
            "what the agent approves without asking",
            "as before",
            "jobs on dataset cleveland of at most epsilon 1 each, for 'heart disease'",
            "nobody: silo.toml",
        ],
    ]
    assert "Two of dr-weber, ms-okoro together may change a budget." in section(shown, "time").text


def test_who_certified_a_reviewer_is_said(sample, shown):
    assert "Whether the signer is an auditor of this federation was not checked" in section(shown, "reviews").text
    by_ca = section(read_page(page(replace(sample, trust="ca"), NOW)), "reviews").text
    assert "was not checked" not in by_ca


def test_hostile_texts_stay_text(sample):
    nasty = {
        "actor": HOSTILE,
        "purpose": HOSTILE,
        "reason": HOSTILE,
        "party": HOSTILE,
        "legal_basis": HOSTILE,
        "dpia": HOSTILE,
        "software": HOSTILE,
        "checks": (HOSTILE,),
    }
    entries = tuple(
        entry.model_copy(update={name: value for name, value in nasty.items() if name in type(entry).model_fields})
        for entry in sample.entries
        if not isinstance(entry, RefuseEntry | ReviewEntry)
    )
    (said,) = [entry for entry in sample.entries if isinstance(entry, ReviewEntry)]
    texts = dict.fromkeys(("subject", "remark", "follow_up", "party"), HOSTILE)
    entries += (said.model_copy(update={"review": said.review.model_copy(update=texts)}),)
    html = page(replace(sample, entries=entries), NOW)
    shown = read_page(html)
    assert "<script" not in html
    assert "<img" not in html
    assert "\u202e" not in html
    assert not [name for element in shown.all() for name in element.attributes if name.startswith("on")]
    safe = HOSTILE.replace("\u202e", "\ufffd")
    assert facts(shown, "jobs")["Purpose"] == safe
    assert rows(shown, "Identity keys")[0][1] == safe
    assert rows(shown, "Reviews of this ledger")[0][4] == safe
    assert shown.text.count("{{ 7*7 }}") >= 12


def test_the_page_needs_nothing_else(sample, shown):
    html = page(sample, NOW)
    (policy,) = [m for m in shown.find("meta") if "http-equiv" in m.attributes]
    assert policy.attributes["http-equiv"] == "Content-Security-Policy"
    assert policy.attributes["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not shown.find("script")
    assert not shown.find("link")
    assert not [e for e in shown.all() if {"src", "srcset", "data", "action"} & e.attributes.keys()]
    targets = [e.attributes["href"] for e in shown.all() if "href" in e.attributes]
    assert targets
    assert {target.removeprefix("#") for target in targets} <= {e.attributes.get("id") for e in shown.all()}
    assert not re.search(r"url\(|@import|https?:", html)


def test_it_can_be_read_by_ear(shown):
    levels = [int(e.tag[1]) for e in shown.all() if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for table in shown.find("table"):
        assert table.find("caption")[0].text
        heads = [head.text for head in table.find("th", scope="col")]
        assert all([cell.attributes["data-head"] for cell in row.find("td")] == heads for row in table.find("tr")[1:])
    pictures = shown.find("svg") + shown.find("div", class_="chart")
    named = [e for e in pictures if e.attributes.get("role") == "img"]
    assert all(e.attributes["aria-label"] for e in named)
    assert all("aria-hidden" in e.attributes for e in pictures if e not in named)
    assert shown.find("html", lang="en")


def test_each_section_says_what_it_answers_to(shown):
    said = [e.find("p", class_="answers")[0].text for e in shown.find("section")]
    assert len(said) == 7
    for source in ("NIST SP 800-226", "HIPAA 45 CFR 164.312(b)", "GDPR Art. 30(1)", "EU AI Act Art. 12"):
        assert any(source in text for text in said), source


def test_an_overdue_follow_up_stands_first(sample):
    shown = read_page(page(sample, datetime(2026, 7, 2, tzinfo=UTC)))
    (alert,) = shown.find("div", class_="alert")
    said = "1 follow-up of reviews overdue: name the second administrator, due 2026-06-30"
    assert f"{said} (cloister://heart/auditor/ms-audit, entry 17)" in alert.text
    (marked,) = shown.find("tr", class_="marked")
    (review,) = rows(shown, "Reviews of this ledger")
    assert marked.text.startswith("".join(review))
    assert review[5] == "OVERDUE by 2 days: was due 2026-06-30"
    assert "1 review; 1 follow-up open, 1 overdue on 2026-07-02." in section(shown, "reviews").text


def test_a_later_review_settles_a_follow_up():
    log = sample_log()
    log.add(review_entry(log, closes=17))
    log.sign()
    shown = read_page(page(bundle_of(log), datetime(2026, 7, 2, tzinfo=UTC)))
    assert not shown.find("div", class_="alert")
    newer, older = rows(shown, "Reviews of this ledger")
    assert (newer[4:], older[4:]) == (
        ["nothing; settles entry 17", "settled", "23"],
        ["name the second administrator", "settled", "17"],
    )


def test_due_today_is_not_overdue():
    assert not OPEN.overdue(date(2026, 8, 30))
    assert OPEN.overdue(date(2026, 8, 31))
    assert not replace(OPEN, settled=True).overdue(date(2027, 1, 1))
    assert not replace(OPEN, due=None).overdue(date(2027, 1, 1))
    undated, settled = replace(OPEN, due=None), replace(OPEN, settled=True)
    assert urgent_first((settled, undated, OPEN)) == (OPEN, undated, settled)


def test_a_ledger_that_nobody_reviewed_says_so(sample):
    unread = tuple(entry for entry in sample.entries if entry.kind != "review")
    shown = read_page(page(replace(sample, entries=unread), NOW))
    assert "Nobody has recorded a review" in shown.find("div", class_="alert")[0].text


def corners(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_the_chart_ends_where_the_budget_stands(sample, shown):
    row, levels = sample.report.populations[0], levels_of(sample.entries)["cardiology"]
    assert levels[-1] == Level("2026-03-01T09:00:00Z", row.spent_epsilon, row.charged_epsilon, 2.5)
    (picture,) = shown.find("div", class_="chart")
    assert f"{row.spent_epsilon:.3f} is spent" in picture.attributes["aria-label"]
    (line,) = [e for e in picture.find("polyline") if e.attributes["class"] == "spent-line"]
    (cap,) = picture.find("polyline", class_="cap")
    assert "The cap is 2.5, and was 2 at first." in picture.attributes["aria-label"]
    first, *_, last = (HIGH - y for _, y in corners(cap.attributes["points"]))
    assert first / last == pytest.approx(2.0 / 2.5, abs=1e-3)
    spent = corners(line.attributes["points"])[-1][1]
    assert (HIGH - spent) / last == pytest.approx(row.spent_epsilon / row.epsilon, abs=1e-3)
    assert by_day(levels) == (("2026-03-01", levels[-1]),)


def test_a_step_stands_at_its_time_and_a_clock_set_back_does_not_draw_backwards():
    def at(hour: int, minute: int, spent: float, charged: float) -> Level:
        return Level(f"2026-03-01T{hour:02}:{minute:02}:00Z", spent, charged, 4.0)

    levels = [at(0, 0, 0, 0), at(5, 0, 0, 1), at(5, 30, 1, 1), at(5, 10, 1, 2), at(8, 0, 2, 2)]
    chart = step_chart(levels, "2026-03-01T10:00:00Z")
    line = corners(chart.spent)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    down = {round(x): y for x, y in line}
    one, two = HIGH * (1 - 1 / 4.32), HIGH * (1 - 2 / 4.32)
    assert down == pytest.approx({0: HIGH, 500: HIGH, 550: one, 800: two, WIDE: two}, abs=0.06)
    assert (550.0, round(two, 1)) in corners(chart.charged_area)
    assert [tick.label for tick in chart.epsilons] == ["0", "1", "2", "3", "4"]
    assert [tick.label for tick in chart.dates][::2] == ["03-01 00:00", "03-01 05:00", "03-01 10:00"]


def test_ten_thousand_rounds_are_a_line_of_pixels():
    days = [f"2026-03-{1 + i // 1000:02}T00:{i // 60 % 60:02}:{i % 60:02}Z" for i in range(10_000)]
    levels = [Level(utc, i, i, 20_000.0) for i, utc in enumerate(days)]
    chart = step_chart(levels, levels[-1].utc)
    assert len(corners(chart.spent)) < 2 * WIDE + 3
    assert corners(chart.spent)[-1][1] == pytest.approx(HIGH * (1 - 9999 / 21_600), abs=0.06)


@pytest.mark.parametrize("cap", [0.001, 0.3, 1.0, 7.0, 20.0, 1000.0])
def test_the_axis_has_a_few_round_figures(cap):
    new = Level("2026-03-01T00:00:00Z", 0, 0, cap)
    labels = [float(tick.label) for tick in step_chart([new], new.utc).epsilons]
    assert 4 <= len(labels) <= 9
    assert labels[-1] <= 1.08 * cap


@pytest.mark.parametrize("cap", [5e-324, 1e-320, 1e-99])
def test_a_cap_next_to_nothing_is_drawn(cap):
    new = Level("2026-03-01T00:00:00Z", 0, 0, cap)
    assert step_chart([new, new], new.utc).epsilons[0].label == "0"


def twice_approved() -> Log:
    """A job that was approved, refused before it began, and approved anew on other references, with one reservation."""
    log, state = Log(), first_budget(None, BudgetPolicy("cardiology", 2.0, 1e-3, "patient"))
    first = approval_entry(state, 4)
    no = RefuseEntry(
        **by(actor="dr-weber", role="steward"),
        job=JOB, round=None, decision="steward", population=None, asked=None, balance=None, reason="declined",
    )  # fmt: skip
    agent = {"actor": "agent of hospital-a", "role": "agent", "automatic": True, "reason": "within the limits"}
    second = approval_entry(state, 2).model_copy(update={**agent, "legal_basis": "consent", "dpia": None})
    log.add(policy_entry(), first, no, auto_policy_entry(), second)
    state = grant(state, JOB, charge().rdp, 2, PURPOSE)
    log.add(reserve_entry(1, reserve(state, RoundKey(JOB, 1), charge().rdp)))
    log.sign()
    return log


def test_an_approval_that_was_taken_back_grants_nothing():
    bundle = bundle_of(twice_approved())
    (job,) = jobs_of(bundle.entries, {})
    assert (job.granted, [each.withdrawn_by for each in job.approvals]) == (2, [2, None])
    text = section(read_page(page(bundle, NOW)), "jobs").text
    assert "for 4 rounds: within the DPIA (entry 1; taken back by entry 2)" in text
    assert "the policy file (agent of hospital-a), 2026-03-01 09:00 UTC, for 2 rounds" in text
    assert "consent; DPIA-2026-014 (of the budget's policy)" in text
    assert "2 granted, 0 charged, 0 refunded, 0 published, 0 aborted (1 still reserved)" in text


def test_what_is_reserved_is_neither_spent_nor_left():
    bundle = bundle_of(twice_approved())
    (row,) = bundle.report.populations
    glance = section(read_page(page(bundle, NOW)), "glance").text
    assert "0 % is spent" in glance
    assert f"{percent(row.charged_epsilon, 2.0)} is set aside for rounds under way" in glance
    assert f"({row.charged_epsilon:.3f} more is reserved)" in glance
    assert deployments(jobs_of(bundle.entries, {}), "hospital-a") == []


def test_a_job_that_was_only_refused_is_no_job(sample):
    assert [job.digest for job in jobs_of(sample.entries, {})] == [JOB]


def test_a_ledger_without_budget_is_shown():
    log = Log()
    log.add(key_entry(), release_entry(0, None), round_entry(0))
    log.sign()
    shown = read_page(page(bundle_of(log), NOW))
    assert "no population of hospital-a was trained on" in section(shown, "glance").text
    assert facts(shown, "jobs")["Data"] == "no data of hospital-a"
    assert "0 charged, 0 refunded, 1 published, 0 aborted" in facts(shown, "jobs")["Rounds"]
    assert "nothing to draw" in section(shown, "time").text
    assert "Nothing was refused." in section(shown, "refusals").text


def test_what_an_export_left_out_is_said(sample):
    log = sample_log()
    compared = EvidenceReport(
        plans=0, transcripts=0, reports=0, rounds_out_of_scope=2, reports_absent=1,
        texts_opened=3, texts_left_out={"actor": 2},
    )  # fmt: skip
    limited = replace(
        bundle_of(log), report=replace(log.verify(), evidence=compared), scope=Scope(since_utc="2026-04-01T00:00:00Z")
    )
    shown = read_page(page(limited, NOW))
    assert "of entries from 2026-04-01 00:00 on" in section(shown, "glance").text
    assert "2 published rounds" in section(shown, "glance").text
    assert any("2 left out of this export" in how for _, how in rows(shown, "What was checked"))
    assert any("1 not kept by the institution" in how for _, how in rows(shown, "What was checked"))


def test_the_limits_name_the_verifier_s_own(shown):
    said = section(shown, "limits").text
    for words in ("does not prove that the institution trained as it says", "cloister ledger compare", "own clock"):
        assert words in said
    assert "shares its noise" not in said


def test_shared_noise_is_a_promise_of_many():
    shared = DP.model_copy(update={"noise": "shared", "noise_shares": 3, "steps_per_round": 1})
    log, state = Log(), first_budget(None, BudgetPolicy("cardiology", 2.0, 1e-3, "patient"))
    price = Charge.of(round_event(shared, 1), 1e-3)
    approval = approval_entry(state, 4).model_copy(update={"charge": price})
    log.add(policy_entry(), approval)
    reserved = reserve(grant(state, JOB, price.rdp, 4, PURPOSE), RoundKey(JOB, 0), price.rdp)
    log.add(reserve_entry(0, reserved, shared).model_copy(update={"charge": price}))
    entries = tuple(decode_entry(body) for body in log.entries)
    (job,) = jobs_of(entries, {})
    assert job.shares_noise
    bundle = replace(bundle_of(twice_approved()), entries=entries)
    shown = read_page(page(bundle, NOW))
    assert "shared: holds while at least 3 members of a round are honest" in facts(shown, "jobs")["Noise"]
    assert "cannot keep that promise alone" in section(shown, "limits").text


def test_the_registry_record_has_the_registry_s_fields(sample):
    (record,) = deployments(jobs_of(sample.entries, {}), "hospital-a")
    assert record["url_slug"] == f"{JOB[:12]}-hospital-a-cardiology-{JOB[:12]}"
    parts = record["deployment"]
    basic = parts["basic"]
    assert (basic["intended_use"], basic["data_product_type"]) == ("heart disease", "Machine learning model")
    assert (basic["data_curators"], basic["publication_date"]) == ([{"data_curator_name": "hospital-a"}], "2026-03-01")
    spent = add(charge().rdp, times(charge().rdp, 2))
    assert parts["privacy_loss"]["privacy_parameters"] == {"epsilon": rdp_epsilon(spent, 1e-3), "delta": 1e-3}
    assert parts["privacy_loss"]["privacy_unit"] == "patient"
    assert parts["dp_variant"]["variant_name"] == "Approximate DP"
    assert (parts["deployment_model"]["model_name"], parts["deployment_model"]["release_type"]) == (
        "Federated",
        "Many releases",
    )
    assert "multiplier 6.5" in parts["implementation"]["mechanisms"]
    assert parts["administrative"]["status"] == "Draft"


@pytest.mark.parametrize(
    ("part", "words"),
    [(0, "0 %"), (0.0005, "under 0.1 %"), (0.05, "5.0 %"), (0.0999, "10 %"), (0.5, "50 %"), (1, "100 %")],
)
def test_shares_are_said_in_few_digits(part, words):
    assert percent(part, 1.0) == words


@pytest.mark.parametrize(("epsilon", "factor"), [(0.0, "1.00"), (1.0, "2.72"), (3.0, "20"), (6.9, "992")])
def test_what_epsilon_means_is_e_to_it(epsilon, factor):
    said = meaning(epsilon, 1e-3, "patient")
    assert f"is at most {factor} times as likely with the data of one patient as without it" in said
    assert said.endswith("apart from a chance of 0.001.")


def test_a_figure_that_promises_little_says_so():
    for epsilon in (6.91, 1000.0):
        assert "over a thousand times" in meaning(epsilon, 1e-3, "record")
        assert "promises little" in meaning(epsilon, 1e-3, "record")
