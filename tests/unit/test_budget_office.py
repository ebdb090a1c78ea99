"""The budget office as its people use it: keys of their own, proposals that two sign, sub-caps, what-if, reviews."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from certs.names import Role
from certs.times import utc_text
from federation.cli import build
from privacy.budget import BudgetPolicy, RoundKey, commit, refund, reserve
from privacy.errors import ConfigError, ExitCode, Refused
from privacy.ledger.checkpoint import open_checkpoint
from privacy.mechanism import DpSgd
from privacy.review import Review, SignedReview
from privacy.two_person import Proposal
from runtime.console import run
from runtime.ledger_store import Ledger
from runtime.reviews import follow_ups
from silo_agent import budget_cli, cli, command, reviews_cli
from silo_agent.accounts import change_budget, require_budget
from silo_agent.approval import approve
from silo_agent.budget_view import budget_rows
from silo_agent.display import budgets_lines
from silo_agent.entries import commit_entry, policy_entry, refund_entry, reserve_entry
from silo_agent.jobs import OPEN, JobState, set_job_state
from silo_agent.made_up import MadeUp, utility
from silo_agent.office import governance, record
from silo_agent.register import RegisteredDataset, add_dataset
from silo_agent.status import StatusBoard
from silo_agent.store import Store
from silo_agent.tables import LEDGER
from tests.ledger_logs import rotation_entry
from tests.lone_silo import NOW, STEWARD, LoneSilo
from tests.older_databases import made_older
from tests.pki import make_wallet

PHRASES = {"dr-weber": "a long passphrase", "ms-okoro": "another passphrase", "mr-diaz": "a third passphrase"}


@pytest.fixture
def silo(tmp_path, monkeypatch):
    for module in (command, cli, budget_cli, reviews_cli):
        monkeypatch.setattr(module, "now", lambda: NOW)
    monkeypatch.chdir(tmp_path)
    silo = LoneSilo(tmp_path / "silo", charged=True, approved=False)
    silo.home.store.close()
    return silo


def ask(silo, capsys, *words):
    code = run(cli.app, [*map(str, words), "--json", "--state", str(silo.folder)])
    assert code == 0, capsys.readouterr()
    return json.loads(capsys.readouterr().out)


def complain(silo, capsys, *words):
    code = run(cli.app, [*map(str, words), "--state", str(silo.folder)])
    return code, capsys.readouterr().err


def key_of(person, capsys, monkeypatch):
    monkeypatch.setenv("CLOISTER_ADMIN_PASSPHRASE", PHRASES[person])
    assert run(cli.app, ["admins", "key", "--out", f"{person}.pem", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["public_key"]


def sign(file, person, monkeypatch, key=None):
    monkeypatch.setenv("CLOISTER_ADMIN_PASSPHRASE", PHRASES[key or person])
    return run(cli.app, ["admins", "sign", file, "--as", person, "--key", f"{key or person}.pem", "--yes"])


@pytest.fixture
def office(silo, capsys, monkeypatch):
    """A silo with two administrators."""
    for person in ("dr-weber", "ms-okoro"):
        public_key = key_of(person, capsys, monkeypatch)
        ask(silo, capsys, "admins", "add", person, "--public-key", public_key, "--out", f"{person}.json")
        assert sign(f"{person}.json", person, monkeypatch) == 0
        capsys.readouterr()
        ask(silo, capsys, "admins", "record", f"{person}.json")
    return silo


def change(silo, capsys, epsilon, name="change.json"):
    words = ("budget", "change", "patients", "--epsilon", epsilon, "--reason", "a second study", "--out", name)
    return ask(silo, capsys, *words)


def test_two_people_change_a_budget(office, capsys, monkeypatch):
    said = change(office, capsys, 9.0)
    assert said["statement"]["change"]["epsilon_before"] == office.budget.policy.epsilon
    for person in ("dr-weber", "ms-okoro"):
        assert sign("change.json", person, monkeypatch) == 0
    capsys.readouterr()
    ask(office, capsys, "admins", "record", "change.json")
    assert office.budget.policy.epsilon == 9.0
    entry = office.entries[-1]
    assert (entry.kind, entry.epsilon, [a.person for a in entry.approvals]) == (
        "budget-change", 9.0, ["dr-weber", "ms-okoro"],
    )  # fmt: skip
    office.verify()
    office.home.store.check()
    code, text = complain(office, capsys, "admins", "record", "change.json")
    assert code == ExitCode.REFUSED
    assert "Something else was changed meanwhile" in text


def test_one_person_does_not_change_a_budget(office, capsys, monkeypatch):
    change(office, capsys, 9.0)
    assert sign("change.json", "dr-weber", monkeypatch) == 0
    assert sign("change.json", "dr-weber", monkeypatch) == 0
    capsys.readouterr()
    before = len(office.entries)
    code, text = complain(office, capsys, "admins", "record", "change.json")
    assert (code, len(office.entries)) == (ExitCode.REFUSED, before)
    assert "1 of the 2 administrators that it takes have signed it" in text
    proposal = Proposal.decode(Path("change.json").read_bytes())
    forged = proposal.approvals[0].model_copy(update={"person": "ms-okoro"})
    proposal = proposal.model_copy(update={"approvals": (*proposal.approvals, forged)})
    Path("change.json").write_bytes(proposal.encode())
    code, text = complain(office, capsys, "admins", "record", "change.json")
    assert "ms-okoro's signature is not of this change" in text
    assert office.budget.policy.epsilon != 9.0
    assert sign("change.json", "ms-okoro", monkeypatch) == 0
    capsys.readouterr()
    ask(office, capsys, "admins", "record", "change.json")
    assert office.budget.policy.epsilon == 9.0


def test_a_wrong_name_or_key_spoils_nothing(office, capsys, monkeypatch):
    change(office, capsys, 9.0)
    before = Path("change.json").read_bytes()
    for person, key, why in (
        ("dr-weber", "ms-okoro", "this is not the key that is on record for dr-weber"),
        ("dr-webber", "dr-weber", "'dr-webber' is none of those who may sign it: dr-weber, ms-okoro"),
        ("dr-x", "dr-weber", "'dr-x' is none of those who may sign it"),
    ):
        assert sign("change.json", person, monkeypatch, key=key) == ExitCode.REFUSED
        assert why in capsys.readouterr().err
    assert Path("change.json").read_bytes() == before


def test_whose_signatures_count_is_what_the_ledger_says(office, capsys, monkeypatch):
    """A file that names other signers than the ledger misleads nobody but who signs it."""
    change(office, capsys, 9.0)
    diaz = key_of("mr-diaz", capsys, monkeypatch)
    proposal = Proposal.decode(Path("change.json").read_bytes())
    Path("change.json").write_bytes(
        proposal.model_copy(update={"signers": {"mr-diaz": diaz, "ms-okoro": diaz}}).encode()
    )
    assert sign("change.json", "mr-diaz", monkeypatch) == 0
    assert sign("change.json", "ms-okoro", monkeypatch, key="mr-diaz") == 0
    capsys.readouterr()
    code, text = complain(office, capsys, "admins", "record", "change.json")
    assert (code, "mr-diaz, who signed it, is no administrator" in text) == (ExitCode.REFUSED, True)


def refusal(silo, by=STEWARD):
    """Why change.json is not recorded at this silo. Nothing is written."""
    before = len(silo.entries)
    with pytest.raises(Refused) as refused:
        record(silo.home, Proposal.decode(Path("change.json").read_bytes()), by)
    assert len(silo.entries) == before
    return str(refused.value)


def both_sign(monkeypatch, capsys):
    for person in ("dr-weber", "ms-okoro"):
        assert sign("change.json", person, monkeypatch) == 0
    capsys.readouterr()


def restated(**changes):
    """change.json says something else, and nobody has signed it."""
    proposal = Proposal.decode(Path("change.json").read_bytes())
    change = proposal.statement.change
    facts = {name: value for name, value in changes.items() if name in type(change).model_fields}
    said = {"change": change.model_copy(update=facts)} | {k: v for k, v in changes.items() if k not in facts}
    statement = proposal.statement.model_copy(update=said)
    Path("change.json").write_bytes(proposal.model_copy(update={"statement": statement, "approvals": ()}).encode())


def test_two_people_change_what_is_so_and_nothing_else(office, capsys, monkeypatch):
    """Whatever a file says that both have signed: from what to what must be right."""
    change(office, capsys, 9.0)
    restated(epsilon_before=5.0)
    both_sign(monkeypatch, capsys)
    assert "it changes 5.0, and 8.0 is so now" in refusal(office)
    ask(office, capsys, "budget", "cap", "patients", "--epsilon", 0.8, "--reason", "board")
    Path("change.json").unlink()
    words = ("budget", "cap", "patients", "--epsilon", 2.0, "--reason", "more", "--out", "change.json")
    ask(office, capsys, *words)
    restated(epsilon_before=1.5)
    both_sign(monkeypatch, capsys)
    assert "it changes 1.5, and 0.8 is so now" in refusal(office)
    restated(epsilon_before=None, epsilon=0.9)  # tightens, it says: that needs no signature
    assert "it changes None, and 0.8 is so now" in refusal(office)
    assert (office.budget.policy.epsilon, office.budget.sub_caps.per_job) == (8.0, 0.8)


def test_signatures_are_good_for_one_log(office, tmp_path, capsys, monkeypatch):
    change(office, capsys, 9.0)
    both_sign(monkeypatch, capsys)
    other = LoneSilo(tmp_path / "other", charged=True, approved=False)
    assert "it was proposed when key" in refusal(other)  # of the same name: its folder was lost, say
    restated(log="cloister/test/north")
    both_sign(monkeypatch, capsys)
    assert "change 3 of cloister/test/north: this log is cloister/test/east" in refusal(office)


def test_signatures_are_good_for_thirty_days_or_as_long_as_was_said(office, capsys, monkeypatch):
    assert change(office, capsys, 9.0)["statement"]["expires"] == "2026-03-31T12:00:00Z"
    both_sign(monkeypatch, capsys)
    late = replace(STEWARD, now=NOW + timedelta(days=30, seconds=1))
    assert "it was good until 2026-03-31T12:00:00Z, and it is 2026-03-31T12:00:01Z" in refusal(office, late)
    record(office.home, Proposal.decode(Path("change.json").read_bytes()), replace(late, now=NOW + timedelta(days=30)))
    assert office.budget.policy.epsilon == 9.0
    words = ("budget", "change", "patients", "--epsilon", "7", "--reason", "r", "--out", "soon.json", "--days")
    assert ask(office, capsys, *words, 1)["statement"]["expires"] == "2026-03-02T12:00:00Z"
    assert complain(office, capsys, *words, "0")[0] == ExitCode.USAGE


def test_a_change_of_key_voids_what_was_signed_before(office, capsys, monkeypatch):
    change(office, capsys, 9.0)
    both_sign(monkeypatch, capsys)
    old, new = office.wallet.identity(), Ed25519PrivateKey.generate()
    with office.home.store.writing() as tx:
        log = tx.ledger.identity
        entry = rotation_entry(old._key, new, tx.ledger.size, utc=utc_text(NOW), log=log.origin)
        entry = entry.model_copy(update={"institution": log.institution})
        identity = replace(log, public_key=new.public_key().public_bytes_raw(), certificate_pem=None)
        tx.ledger.rotate(entry, identity, new.sign, NOW)
    assert "Propose it anew." in refusal(office)
    with office.home.store.reading() as connection:
        assert governance(connection).number == 3, "what was recorded before stays good"


def test_a_proposal_is_read_before_it_is_signed(office, capsys, monkeypatch):
    change(office, capsys, 9.0)
    monkeypatch.setenv("CLOISTER_ADMIN_PASSPHRASE", PHRASES["dr-weber"])
    words = ["silo", "admins", "sign", "change.json", "--as", "dr-weber", "--key", "dr-weber.pem"]
    asked = CliRunner().invoke(build("silo"), words, input="n\n")
    assert asked.exit_code != 0
    assert "lifetime epsilon from" in asked.stderr
    assert "because a second study" in asked.stderr
    assert f"which key {office.wallet.identity().public_key.hex()} signs" in asked.stderr
    assert "good until 2026-03-31T12:00:00Z" in asked.stderr
    assert b"signature" not in Path("change.json").read_bytes()


def test_nobody_signs_what_a_screen_does_not_show(office, capsys, monkeypatch):
    words = ("budget", "change", "patients", "--epsilon", "9", "--out", "x.json", "--reason")
    code, text = complain(office, capsys, *words, "x\x1b[1A\x1b[2Kpatients: lifetime epsilon from 8 to 8.1")
    assert (code, "printable" in text, "\x1b" in text) == (ExitCode.USAGE, True, False)
    for purpose, why in (("x\x1b[1A", "give printable characters alone"), ("", "give 1 to 400 characters")):
        words = ("budget", "cap", "patients", "--purpose", purpose, "--epsilon", "1", "--reason", "board")
        code, text = complain(office, capsys, *words)
        assert (code, why in text) == (ExitCode.USAGE, True)
    change(office, capsys, 9.0)
    file = Path("change.json")
    file.write_bytes(file.read_bytes().replace(b'"reason":"a second', b'"reason":"a\\u001b[1A second'))
    assert sign("change.json", "dr-weber", monkeypatch) == ExitCode.PROTOCOL
    said = capsys.readouterr()
    assert "does not show as itself" in said.err
    assert "\x1b" not in said.out + said.err


def test_what_no_entry_can_hold_is_the_typists_to_correct(silo, capsys, monkeypatch):
    before = len(silo.entries)
    for words, code, why in (
        (("admins", "add", "DR X", "--public-key", "00" * 32, "--out", "x.json"), ExitCode.CONFIG, "is not a name"),
        (
            ("budget", "cap", "patients", "--purpose", "\udcff", "--epsilon", "1", "--reason", "r"),
            ExitCode.USAGE,
            "UTF-8",
        ),
        (("budget", "cap", "patients", "--epsilon", "1", "--reason", "\udcff"), ExitCode.USAGE, "UTF-8"),
        (("budget", "set", "wards", "--epsilon", "1", "--delta", "1e-4", "--dpia", ""), ExitCode.USAGE, "400"),
    ):
        found, text = complain(silo, capsys, *words)
        assert (found, why in text, "bug" in text) == (code, True, False)
    with pytest.raises(ConfigError, match="budget of wards: reason: String should have at least 1 character"):
        policy_entry(STEWARD, BudgetPolicy("wards", 1.0, 1e-4, "record"), "")
    assert len(silo.entries) == before
    monkeypatch.setenv("LOGNAME", "we\udcffber\x1b[1A")
    ask(silo, capsys, "budget", "set", "wards", "--epsilon", "1", "--delta", "1e-4")
    assert silo.entries[-1].actor == r"'we\udcffber\x1b[1A'"


def test_a_budget_is_not_lowered_below_what_is_spent(tmp_path, capsys, monkeypatch):
    silo = LoneSilo(tmp_path / "silo", charged=True)
    with silo.home.store.writing() as tx:
        vector = silo.charged.charge(silo.budget.policy).rdp
        change_budget(tx.connection, "patients", lambda b: reserve(b, RoundKey(silo.job.hex(), 1), vector))
    code, text = complain(
        silo, capsys, "budget", "change", "patients", "--epsilon", "0.01", "--reason", "less", "--out", tmp_path / "x"
    )
    assert code == ExitCode.REFUSED
    assert "does not cover what is spent and reserved already" in text
    assert "the least this population can be set to is" in text
    assert not (tmp_path / "x").exists()


def test_a_third_person_takes_the_first_two(office, capsys, monkeypatch):
    public_key = key_of("mr-diaz", capsys, monkeypatch)
    ask(office, capsys, "admins", "add", "mr-diaz", "--public-key", public_key, "--out", "diaz.json")
    assert sign("diaz.json", "mr-diaz", monkeypatch) == 0
    capsys.readouterr()
    code, text = complain(office, capsys, "admins", "record", "diaz.json")
    assert code == ExitCode.REFUSED
    assert "0 of the 2 administrators" in text
    for person in ("dr-weber", "ms-okoro"):
        assert sign("diaz.json", person, monkeypatch) == 0
    capsys.readouterr()
    ask(office, capsys, "admins", "record", "diaz.json")
    listed = ask(office, capsys, "admins", "list")
    assert [row["person"] for row in listed["administrators"]] == ["dr-weber", "mr-diaz", "ms-okoro"]
    assert listed["changes"] == 4
    code, text = complain(office, capsys, "admins", "remove", "nobody", "--reason", "left", "--out", "gone.json")
    assert (code, "is none" in text) == (ExitCode.REFUSED, True)


def test_sub_caps_are_tightened_by_a_steward_and_widened_by_two(office, capsys, monkeypatch):
    purpose = office.plan.purpose
    said = ask(office, capsys, "budget", "cap", "patients", "--purpose", purpose, "--epsilon", 1.0, "--reason", "board")
    assert (said["epsilon_before"], said["epsilon"]) == (None, 1.0)
    ask(office, capsys, "budget", "cap", "patients", "--epsilon", 0.8, "--reason", "board")
    code, text = complain(office, capsys, "budget", "cap", "patients", "--epsilon", "2.0", "--reason", "more")
    assert (code, "is a wider cap, which takes two administrators" in text) == (ExitCode.CONFIG, True)
    words = ("budget", "cap", "patients", "--reason", "no limit", "--out", "cap.json")
    ask(office, capsys, *words)
    for person in ("dr-weber", "ms-okoro"):
        assert sign("cap.json", person, monkeypatch) == 0
    capsys.readouterr()
    ask(office, capsys, "admins", "record", "cap.json")
    assert (office.budget.sub_caps.per_job, office.budget.sub_caps.of(purpose)) == (None, 1.0)
    office.verify()
    office.home.store.check()
    row = budget_rows(office.home)[0]
    assert row["purposes"] == [{"purpose": purpose, "spent": 0.0, "cap": 1.0}]
    assert f"for {purpose!r}: epsilon 0 of at most 1" in "\n".join(budgets_lines([row]))


def test_a_job_beyond_a_sub_cap_is_refused_on_record(office, capsys):
    ask(office, capsys, "budget", "cap", "patients", "--epsilon", 0.001, "--reason", "nothing big")
    with office.home.store.writing() as tx:
        dataset = RegisteredDataset("visits", "patients", office.folder, "{}")
        add_dataset(tx.connection, dataset, {}, NOW)
        set_job_state(tx.connection, office.job, JobState.SEEN, NOW, expected=OPEN)
    with pytest.raises(Refused, match=r"one job may spend epsilon 0\.001 of it"):
        approve(office.home, office.plan, "visits", STEWARD)
    entry = office.entries[-1]
    assert (entry.kind, entry.reason, entry.asked.purpose) == ("refuse", "over-sub-cap", office.plan.purpose)
    office.verify()
    assert not office.budget.grants


def test_the_bar_is_full_only_when_all_is_spent():
    facts = {"population": "p", "unit": "record", "delta": 1e-3, "epsilon_cap": 2.0, "rounds_charged": 1, "left": 0.01}
    more = {"job_cap": None, "purposes": [], "reserved": 0.0, "rounds_refunded": 0}
    assert "[" + "#" * 29 + ".]" in budgets_lines([facts | more | {"spent": 1.99}])[1]
    assert "[" + "#" * 30 + "]" in budgets_lines([facts | more | {"spent": 2.0}])[1]


def test_a_refunded_round_is_not_called_charged(tmp_path, capsys):
    silo = LoneSilo(tmp_path / "silo", charged=True)
    for number, end, entry in ((1, commit, commit_entry), (2, refund, refund_entry)):
        silo.go_to(number)
        key, vector = RoundKey(silo.job.hex(), number), silo.charged.charge(silo.budget.policy).rdp
        with silo.home.store.writing() as tx:
            after = change_budget(tx.connection, "patients", lambda b, k=key, v=vector: reserve(b, k, v))
            tx.record(reserve_entry(STEWARD, silo.charged, silo.ctx, after))
            arguments = (key, vector) if end is commit else (key,)
            after = change_budget(tx.connection, "patients", lambda b, e=end, a=arguments: e(b, *a))
            more = (None,) if end is commit else ()
            tx.record(entry(STEWARD, silo.charged, silo.ctx, after, *more))
    (row,) = ask(silo, capsys, "budget", "show")["budgets"]
    assert (row["rounds_charged"], row["rounds_refunded"]) == (1, 1)
    assert budgets_lines([row])[2].endswith(" left; 1 rounds charged, 1 refunded")
    assert row["rounds_charged"] == silo.verify().populations[0].rounds_committed


# -- reviews ---------------------------------------------------------------------------------------------------------


def review_facts(silo, **changes):
    with silo.home.store.writing() as tx:
        identity, note = tx.ledger.identity, tx.ledger.checkpoint(silo.home.identity.sign, NOW)
    last = open_checkpoint(note, identity.origin, identity.public_key)
    facts = {
        "log": last.origin, "log_size": last.size, "log_root": last.root.hex(), "first_sequence": 0,
        "last_sequence": last.size - 1, "subject": "the first quarter", "finding": "observation",
        "remark": "One budget.", "follow_up": "write a DPIA", "due": "2026-04-01", "closes": None,
    }  # fmt: skip
    return facts | changes


def signed_review(silo, wallet, **changes):
    identity = wallet.identity()
    own = {"party": identity.party.uri, "public_key": identity.public_key.hex()}
    facts = review_facts(silo, **(own | changes))
    return SignedReview.make(Review.model_validate(facts), identity.certificate_pem.decode(), identity.sign)


def test_a_review_is_put_on_record_and_shows_until_it_is_closed(silo, tmp_path, capsys, monkeypatch):
    auditor = make_wallet(silo.ca, tmp_path, Role.AUDITOR, "ms-audit", NOW)
    Path("review.json").write_bytes(signed_review(silo, auditor).encode())
    assert ask(silo, capsys, "reviews", "add", "review.json")["due"] == "2026-04-01"
    entry = silo.entries[-1]
    assert (entry.role, entry.actor) == ("auditor", "cloister://test/auditor/ms-audit")
    silo.verify()
    code, text = complain(silo, capsys, "reviews", "add", "review.json")
    assert (code, "is on record already" in text) == (ExitCode.REFUSED, True)
    (row,) = ask(silo, capsys, "reviews", "list")["reviews"]
    assert (row["open"], row["overdue"]) == (True, False)
    monkeypatch.setattr(reviews_cli, "now", lambda: NOW + timedelta(days=60))
    assert run(cli.app, ["reviews", "list", "--state", str(silo.folder)]) == 0
    assert "OVERDUE since 2026-04-01: write a DPIA" in capsys.readouterr().out
    closing = signed_review(silo, auditor, finding="in-order", follow_up=None, due=None, closes=entry.sequence)
    Path("closing.json").write_bytes(closing.encode())
    ask(silo, capsys, "reviews", "add", "closing.json")
    with silo.home.store.reading() as connection:
        assert follow_ups(Ledger(connection, LEDGER)) == ()
    silo.verify()


@pytest.mark.parametrize(
    ("role", "changes", "complaint"),
    [
        (Role.COORDINATOR, {}, "is no auditor"),
        (Role.AUDITOR, {"log_root": "00" * 32}, "signed no checkpoint of"),
        (Role.AUDITOR, {"log": "cloister/test/other"}, "it is of cloister/test/other"),
        (Role.AUDITOR, {"closes": 0}, "is no review with an open follow-up"),
        (Role.AUDITOR, {"party": "cloister://test/auditor/somebody"}, "or for another key"),
    ],
)
def test_a_review_that_proves_nothing_is_refused(silo, tmp_path, capsys, role, changes, complaint):
    wallet = make_wallet(silo.ca, tmp_path, role, "ms-audit", NOW)
    before = len(silo.entries)
    Path("review.json").write_bytes(signed_review(silo, wallet, **changes).encode())
    code, text = complain(silo, capsys, "reviews", "add", "review.json")
    assert code in (ExitCode.VERIFICATION, ExitCode.REFUSED)
    assert complaint in text
    assert len(silo.entries) == before


@pytest.mark.parametrize("ran", [False, True])
def test_status_shows_what_is_due(silo, tmp_path, capsys, ran):
    """Also where the agent has not run yet."""
    if ran:
        StatusBoard(silo.folder, silo.home.name, lambda: NOW).show(connected=True)
    auditor = make_wallet(silo.ca, tmp_path, Role.AUDITOR, "ms-audit", NOW)
    due = (NOW - timedelta(days=1)).date().isoformat()
    Path("review.json").write_bytes(signed_review(silo, auditor, due=due).encode())
    ask(silo, capsys, "reviews", "add", "review.json")
    (row,) = ask(silo, capsys, "status")["reviews_due"]
    assert (row["overdue"], row["follow_up"]) == (True, "write a DPIA")
    assert run(cli.app, ["status", "--state", str(silo.folder)]) == 0
    assert f"OVERDUE since {due}: write a DPIA" in capsys.readouterr().out


# -- what if ---------------------------------------------------------------------------------------------------------

HEART = Path(__file__).parents[2] / "federation/heart/job.toml"


def test_what_a_job_file_would_cost_and_its_noise_on_made_up_data(silo, capsys):
    said = ask(silo, capsys, "budget", "what-if", HEART)
    (row,) = said["budgets"]
    assert row["fits"]
    assert row["after"] == pytest.approx(2.0, abs=1e-3), "the job file's own target"
    run_ = said["synthetic"]
    assert run_["with_noise"] < run_["without_noise"]
    assert silo.kinds == ["policy"], "nothing is recorded"
    assert run(cli.app, ["budget", "what-if", str(HEART), "--no-synthetic", "--state", str(silo.folder)]) == 0
    text = capsys.readouterr().out
    assert f"{row['rounds_that_fit']} such rounds still fit, and these are 5 of them" in text
    assert "made-up" not in text


def test_what_if_names_a_sub_cap_and_a_wrong_file(silo, capsys, tmp_path):
    ask(silo, capsys, "budget", "cap", "patients", "--epsilon", 0.5, "--reason", "board")
    (row,) = ask(silo, capsys, "budget", "what-if", HEART, "--no-synthetic")["budgets"]
    assert (row["fits"], "one job may spend epsilon 0.5 of it" in row["why_not"]) == (False, True)
    (tmp_path / "job.toml").write_text("name = 3\n")
    code, text = complain(silo, capsys, "budget", "what-if", tmp_path / "job.toml")
    assert (code, "name" in text) == (ExitCode.CONFIG, True)


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_more_noise_costs_more_on_made_up_data(noise):
    task = MadeUp(silos=3, records=100, classes=2, rounds=5, learning_rate=1.0)
    dp = DpSgd(
        clip_l2=1.0, noise_multiplier=0.5, sampling_rate=0.5, steps_per_round=1, expected_batch_size=50.0,
        unit="record", delta=1e-3, noise=noise, noise_shares=1 if noise == "local" else 3,
    )  # fmt: skip
    found = [utility(task, dp.model_copy(update={"noise_multiplier": sigma})) for sigma in (0.5, 50.0)]
    assert found[0].without_noise == found[1].without_noise
    assert found[0].with_noise > found[1].with_noise
    assert found == [utility(task, dp.model_copy(update={"noise_multiplier": sigma})) for sigma in (0.5, 50.0)]


# -- silo.db of the version before ------------------------------------------------------------------------------------


def test_an_older_database_gets_the_accounts_of_its_ledger(tmp_path):
    """As it was before accounts were kept: the migration fills them in, and the start-up check agrees."""
    silo = LoneSilo(tmp_path, charged=True)
    key, vector = RoundKey(silo.job.hex(), 1), silo.charged.charge(silo.budget.policy).rdp
    with silo.home.store.writing() as tx:
        after = change_budget(tx.connection, "patients", lambda b: reserve(b, key, vector))
        tx.record(reserve_entry(STEWARD, silo.charged, silo.ctx, after))
        after = change_budget(tx.connection, "patients", lambda b: commit(b, key, vector))
        tx.record(commit_entry(STEWARD, silo.charged, silo.ctx, after, None))
    expected = silo.budget
    with silo.home.store.writing() as tx:
        made_older(tx.connection, "silo", 2)
    silo.home.store.close()
    store = Store.open(silo.folder, silo.home.identity)
    store.check()
    with store.reading() as connection:
        assert require_budget(connection, "patients") == expected
    store.close()
