"""What lies in a silo's state folder: database, vault, outbox, adapters, fetched sums, status."""

import contextlib
import json
import os
import resource
import stat
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from cloister import wire
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from certs.identity import Identity
from privacy.budget import BudgetPolicy, RoundKey, commit, refund, reserve
from privacy.ckks.layout import BLOCK_BYTES, Layout
from privacy.ckks.layouts import layout_of
from privacy.ckks.params import SEED_BYTES
from privacy.errors import ConfigError, InternalError, ProtocolError, Refused, VerificationError
from privacy.plan import JobPlan
from privacy.transcript import RoundJoin
from runtime.files import StateLock
from runtime.ledger_store import Ledger
from silo_agent import status
from silo_agent.accounts import change_budget, open_budget, require_budget
from silo_agent.apply import AdapterShelf
from silo_agent.home import Home
from silo_agent.jobs import accept_roll, accepted_roll, named_job, require_job_record
from silo_agent.outbox import Outbox
from silo_agent.register import RegisteredDataset, add_dataset, all_datasets, data_files, require_dataset
from silo_agent.statements import say
from silo_agent.status import StatusBoard, Timing, read_status
from silo_agent.store import Store
from silo_agent.sums import FetchedSum
from silo_agent.tables import LEDGER, METADATA
from silo_agent.vault import Secret, Vault
from tests.lone_silo import NAMES, NOW, OWN, LoneSilo
from tests.parties import Cohort

JOB = b"j" * 32


@pytest.fixture
def silo(tmp_path):
    return LoneSilo(tmp_path)


# -- silo.db ---------------------------------------------------------------------------------------------------------


def test_the_migrations_make_the_tables_of_the_code(silo):
    with silo.home.store.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"


def test_a_statement_is_signed_once_and_never_another_way(silo):
    join = RoundJoin.model_validate(silo.cohort.bound(OWN, silo.ctx))
    sign = silo.home.identity.sign
    with silo.home.store.writing() as tx:
        first = say(tx.connection, 1, join, sign)
        assert say(tx.connection, 1, join, sign) == first
    other = RoundJoin.model_validate({**silo.cohort.bound(OWN, silo.ctx), "ctx": "0" * 64})
    with pytest.raises(InternalError, match="another one was signed for round 1"), silo.home.store.writing() as tx:
        say(tx.connection, 1, other, sign)


def test_a_second_deal_for_a_job_cannot_be_stored(silo):
    with silo.home.store.reading() as connection:
        roll = accepted_roll(connection, silo.job)
    with pytest.raises(IntegrityError), silo.home.store.writing() as tx:
        accept_roll(tx.connection, silo.job, roll.joins, roll.deal, b"k" * 32)


def test_a_transaction_that_fails_leaves_budget_and_ledger_as_they_were(tmp_path):
    silo = LoneSilo(tmp_path, charged=True)
    key, vector = RoundKey(silo.job.hex(), 1), silo.charged.charge(silo.budget.policy).rdp
    with pytest.raises(ZeroDivisionError), silo.home.store.writing() as tx:  # noqa: PT012 - the block is what fails
        change_budget(tx.connection, "patients", lambda budget: reserve(budget, key, vector))
        _ = 1 / 0
    assert not silo.budget.reserved
    assert silo.kinds == ["policy", "job-approval"]


def test_budgets_survive_the_disk(tmp_path):
    silo = LoneSilo(tmp_path, charged=True)
    vector = silo.charged.charge(silo.budget.policy).rdp
    one, two, three = (RoundKey(silo.job.hex(), number) for number in (1, 2, 3))
    changes = [
        lambda b: reserve(b, one, vector), lambda b: reserve(b, two, vector), lambda b: commit(b, one, vector),
        lambda b: refund(b, two), lambda b: reserve(b, three, vector),
    ]  # fmt: skip
    expected = silo.budget
    for change in changes:
        expected = change(expected)
        with silo.home.store.writing() as tx:
            assert change_budget(tx.connection, "patients", change) == expected
    assert silo.budget == expected
    with pytest.raises(Refused, match="was charged or refunded before"), silo.home.store.writing() as tx:
        change_budget(tx.connection, "patients", changes[0])


@pytest.mark.parametrize(
    "altered", ["budgets SET epsilon = 100", "budgets SET unit = 'patient'", "grants SET rounds = 100"]
)
def test_a_budget_that_the_ledger_does_not_add_up_to_stops_the_agent(tmp_path, altered):
    silo = LoneSilo(tmp_path, charged=True)
    silo.home.store.check()
    with silo.home.store.writing() as tx:
        tx.connection.execute(text(f"UPDATE {altered}"))
    with pytest.raises(VerificationError, match="budget of patients: is not what the entries of the ledger add up to"):
        silo.home.store.check()


def test_a_first_budget_is_set_once(tmp_path):
    silo = LoneSilo(tmp_path, charged=True)
    with pytest.raises(Refused, match="one person alone cannot change"), silo.home.store.writing() as tx:
        open_budget(tx.connection, BudgetPolicy("patients", 100.0, 1e-3, "record"))
    with pytest.raises(ConfigError, match="budget set visitors"), silo.home.store.reading() as connection:
        require_budget(connection, "visitors")


def test_the_ledger_of_a_whole_round_verifies_offline(tmp_path):
    silo = LoneSilo(tmp_path, charged=True)
    silo.to_consented()
    silo.port.certify(*NAMES)
    silo.advance(opened=(1,))
    with silo.home.store.reading() as connection:
        assert silo.runner.published_through == Ledger(connection, LEDGER).notes()[-1]
    report = silo.verify()
    assert report.entries == 6
    assert report.populations[0].rounds_committed == 1


def test_a_database_of_another_identity_is_not_taken(silo):
    stranger = Identity(silo.home.identity.party, b"", silo.cohort.keys["north"])
    with pytest.raises(ConfigError, match="identity at hand is another one"):
        Store.open(silo.folder, stranger)


def test_a_job_is_named_by_its_name_or_a_unique_beginning(silo):
    with silo.home.store.reading() as connection:
        assert named_job(connection, "rehearsal").job == silo.job
        assert named_job(connection, silo.job.hex()[:8]).job == silo.job
        for text_ in ("rehears", silo.job.hex()[:2], "zzzz"):
            with pytest.raises(ConfigError, match="is no job here"):
                named_job(connection, text_)
        with pytest.raises(InternalError, match=r"is not in silo\.db"):
            require_job_record(connection, b"x" * 32)


def test_a_dataset_keeps_its_population_under_its_name(silo, tmp_path):
    visits = RegisteredDataset("visits", "patients", tmp_path, "{}")
    with silo.home.store.writing() as tx:
        add_dataset(tx.connection, visits, (), NOW)
        add_dataset(tx.connection, visits, (), NOW)
    with pytest.raises(Refused, match="another description is registered"), silo.home.store.writing() as tx:
        add_dataset(tx.connection, replace(visits, population="others"), (), NOW)
    with silo.home.store.reading() as connection:
        assert all_datasets(connection) == (visits,)
        with pytest.raises(ConfigError, match=r"dataset 'visit'.*there are: visits"):
            require_dataset(connection, "visit")


@pytest.mark.parametrize("how", ["the same file", "a link to it", "a copy", "what it held before it was changed"])
def test_the_same_records_have_one_budget_whatever_they_are_called(silo, tmp_path, how):
    """Renaming dataset and population would otherwise give the same patients a second budget."""
    first = tmp_path / "visits.csv"
    first.write_text("note,ill\nred,0\n")
    files = data_files([first])
    path = {"the same file": first, "a link to it": tmp_path / "link.csv"}.get(how, tmp_path / "copy.csv")
    if how == "a link to it":
        path.symlink_to(first)
    elif path != first:
        path.write_text(first.read_text())
    if how == "what it held before it was changed":
        first.write_text("note,ill\nred,0\nblue,1\n")
    with silo.home.store.writing() as tx:
        add_dataset(tx.connection, RegisteredDataset("visits", "patients", tmp_path, "{}"), files, NOW)
        add_dataset(tx.connection, RegisteredDataset("visits", "patients", tmp_path, "{}"), data_files([first]), NOW)
    fresh = RegisteredDataset("calls", "people", tmp_path, "{}")
    complaint = f"{path.resolve().name} is of population patients already, in dataset visits"
    with pytest.raises(Refused, match=complaint), silo.home.store.writing() as tx:
        add_dataset(tx.connection, fresh, data_files([path]), NOW)
    with silo.home.store.writing() as tx:
        add_dataset(tx.connection, replace(fresh, population="patients"), data_files([path]), NOW)


def test_a_data_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"data file .*nowhere\.csv: No such file"):
        data_files([tmp_path / "nowhere.csv"])


# -- vault -----------------------------------------------------------------------------------------------------------


def test_secrets_are_private_unique_and_erasable(tmp_path):
    vault = Vault(tmp_path / "vault")
    vault.put(JOB, Secret.COHORT_KEY, b"secret")
    vault.put(JOB, Secret.COHORT_KEY, b"secret")
    path = tmp_path / "vault" / JOB.hex() / "cohort.key"
    assert [p.stat().st_mode & 0o777 for p in (tmp_path / "vault", path.parent, path)] == [0o700, 0o700, 0o600]
    with pytest.raises(InternalError, match="already has another one"):
        vault.put(JOB, Secret.COHORT_KEY, b"another")
    assert vault.get(JOB, Secret.COHORT_KEY) == b"secret"
    assert "secret" not in repr(vault)
    vault.erase(JOB)
    assert not vault.has(JOB, Secret.COHORT_KEY)
    with pytest.raises(ConfigError, match=r"cohort\.key"):
        vault.get(JOB, Secret.COHORT_KEY)


def test_a_vault_or_key_that_others_may_read_is_not_used(tmp_path):
    vault = Vault(tmp_path / "vault")
    vault.put(JOB, Secret.MAIL_KEY, b"secret")
    (tmp_path / "vault" / JOB.hex() / "mail.key").chmod(0o644)
    with pytest.raises(ConfigError, match="may be read by other accounts"):
        vault.get(JOB, Secret.MAIL_KEY)
    (tmp_path / "vault").chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        Vault(tmp_path / "vault")


# -- outbox ----------------------------------------------------------------------------------------------------------


def blocks_of(layout):
    return [(bytes([index % 256]) * BLOCK_BYTES, bytes([index % 256]) * SEED_BYTES) for index in range(layout.blocks)]


@contextmanager
def small_disk(limit):
    """No file may grow beyond `limit` bytes: the kernel then answers as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_update_comes_back_as_it_was_stored(tmp_path):
    layout = Layout(8192 * 31 + 5)
    outbox = Outbox(tmp_path / "outbox")
    outbox.write(JOB, 1, blocks_of(layout), layout)
    assert b"".join(outbox.attachment(JOB, 1)) == b"".join(seed for _, seed in blocks_of(layout))
    chunks = list(outbox.residues(JOB, 1, layout))
    assert [len(chunk) for chunk in chunks] == [layout.chunk_bytes(0), layout.chunk_bytes(1)]
    assert b"".join(chunks) == b"".join(block for block, _ in blocks_of(layout))


def test_a_disk_that_fills_while_sealing_leaves_nothing_behind(tmp_path):
    layout = Layout(8192 * 4)
    outbox = Outbox(tmp_path / "outbox")
    with small_disk(2 * BLOCK_BYTES), pytest.raises(ConfigError, match="the disk is full"):
        outbox.write(JOB, 1, blocks_of(layout), layout)
    assert list((tmp_path / "outbox" / JOB.hex()).iterdir()) == []


def test_a_disk_that_fills_while_sealing_costs_the_round_and_not_the_agent(tmp_path, monkeypatch):
    silo = LoneSilo(tmp_path, charged=True)
    really_write = Outbox.write

    def on_a_full_disk(outbox, *arguments):
        with small_disk(1000):
            return really_write(outbox, *arguments)

    monkeypatch.setattr(Outbox, "write", on_a_full_disk)
    silo.to_submitted()
    assert silo.state == "Withdrawn"
    assert "the disk is full" in silo.runner.state(1).why
    assert silo.entries[-1].outcome == "presumed", "the noise was drawn: the reservation is spent"
    assert not silo.port.updates
    assert "withdraw_round" in silo.port.calls
    silo.port.make_commit(members=("north", "west"), own=False)
    silo.advance()
    assert silo.state == "Consented"


def test_another_number_of_blocks_than_the_layout_has_is_our_bug(tmp_path):
    layout = Layout(8192 * 3)
    for blocks in (blocks_of(layout)[:2], [*blocks_of(layout), blocks_of(layout)[0]]):
        with pytest.raises(InternalError, match="another number of blocks"):
            Outbox(tmp_path / "outbox").write(JOB, 1, blocks, layout)


# -- fetched sums ----------------------------------------------------------------------------------------------------


def test_a_sum_that_is_cut_off_is_not_kept(tmp_path):
    fetched = FetchedSum(tmp_path / "sum-1", Cohort("a", "b").plan)
    parts = [wire.SumPart(seeds=wire.MemberSeeds(silo="a", part=b"s" * SEED_BYTES))]
    with pytest.raises(ProtocolError, match="shorter than the job's updates"):
        fetched.fetch(iter(parts), ("a",))
    with pytest.raises(ProtocolError, match="out of order"):
        fetched.fetch(iter(parts), ("b",))
    assert list(tmp_path.iterdir()) == []


def test_seeds_may_be_cut_anywhere(tmp_path):
    cohort = Cohort("a", "b")
    task = {"kind": "rehearsal", "values": 8192 * 2, "update_range": 1.0}
    plan = JobPlan.model_validate({**cohort.plan_fields("a", "b"), "task": task})
    fetched = FetchedSum(tmp_path / "sum-1", plan)
    cut = [
        wire.SumPart(seeds=wire.MemberSeeds(silo=name, part=part)) for name in "ab" for part in (b"s" * 100, b"t" * 28)
    ]
    fetched.fetch(iter([*cut, wire.SumPart(residues=b"r" * layout_of(plan).residue_bytes)]), ("a", "b"))
    assert fetched.seeds(2) == [b"s" * 100 + b"t" * 28] * 2


# -- adapters and status ---------------------------------------------------------------------------------------------


def test_an_adapter_that_was_altered_on_disk_is_found(silo):
    shelf = AdapterShelf(silo.home.artifacts(silo.job), silo.plan)
    vector = np.arange(silo.plan.values, dtype=np.float32)
    digest = shelf.store(1, vector)
    assert np.array_equal(shelf.load(1, digest), vector)
    path = silo.folder / "artifacts" / silo.job.hex() / "adapter-1.f32"
    path.write_bytes(bytes(8) + path.read_bytes()[8:-1] + b"\x01")
    with pytest.raises(VerificationError, match="not the one whose digest was recorded"):
        shelf.load(1, digest)
    with pytest.raises(VerificationError, match="after round 2"):
        shelf.load(2, digest)


def test_a_starting_adapter_that_is_not_the_plans_is_not_kept(tmp_path):
    silo = LoneSilo(tmp_path, charged=True)
    shelf = AdapterShelf(silo.home.artifacts(silo.job), silo.plan)
    with pytest.raises(ProtocolError, match="not the file whose digest the plan pins"):
        shelf.keep_artifact(iter([b"something", b"else"]))
    assert not shelf.artifact_path.exists()


def test_status_is_always_whole_and_timings_stay_local(silo, tmp_path):
    never = read_status(tmp_path / "nowhere")
    assert never["message"] == "no daemon has run here yet: cloister silo run"
    assert (never["running"], never["connected"]) == (False, False)
    board = StatusBoard(silo.folder, OWN, lambda: NOW)
    board.show(connected=True, round=3)
    board.add_sent(10)
    board.add_sent(5)
    with StateLock(silo.folder):
        said = read_status(silo.folder)
    assert (said["bytes_sent"], said["running"], said["connected"]) == (15, True, True)
    said = read_status(silo.folder)
    assert (said["running"], said["connected"]) == (False, False), "a daemon that was killed did not say goodbye"
    (silo.folder / "lock").unlink()
    assert read_status(silo.folder)["running"] is False
    assert not list(silo.folder.glob(".status*"))


def test_one_jobs_status_has_nothing_of_anothers(silo):
    board = StatusBoard(silo.folder, OWN, lambda: NOW)
    waiting, running = board.of_job(b"a" * 32), board.of_job(b"b" * 32)
    running.show(job_name="heart", phase="Trained", round=2, message="")
    waiting.show(job_name="lung", message="waits for a steward")
    assert (board.status.job_name, board.status.round, board.status.phase) == ("lung", 0, "")
    running.show(step=4)
    said = board.status
    assert (said.job, said.job_name, said.round, said.step, said.message) == ((b"b" * 32).hex(), "heart", 2, 4, "")


def test_sent_bytes_of_several_jobs_add_up(silo, monkeypatch):
    board = StatusBoard(silo.folder, OWN, lambda: NOW)
    met = threading.Barrier(2)
    plain = status.utc_text

    def slow(now):
        with contextlib.suppress(threading.BrokenBarrierError):
            met.wait(0.2)  # both are between reading and writing at once, if the lock lets them
        return plain(now)

    monkeypatch.setattr(status, "utc_text", slow)
    jobs = [threading.Thread(target=board.add_sent, args=(10,)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert board.status.bytes_sent == 20


def test_timings_are_private_and_a_disk_that_does_not_take_them_stops_nothing(silo, tmp_path):
    before = os.umask(0)
    try:
        Timing("job", 1, 40).append_to(silo.folder)
        Timing("job", 2, 40).append_to(silo.folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE((silo.folder / "timings.jsonl").stat().st_mode) == 0o600
    lines = (silo.folder / "timings.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2]
    Timing("job", 3, 40).append_to(tmp_path / "nowhere")


def test_a_state_folder_says_what_is_wrong_with_it(silo, tmp_path):
    with pytest.raises(ConfigError, match="cloister silo enrol"):
        Home.open(tmp_path / "nowhere", {})
    with pytest.raises(ConfigError, match=r"says test/west, and the wallet is of cloister://test/silo/east"):
        Home.open(silo.folder, {"CLOISTER_SILO__NAME": "west"})
    (silo.folder / "silo.toml").write_text('name = "east"\nfederation = "test"\nagregator = "h:1"\n')
    with pytest.raises(ConfigError, match=r"unknown key 'agregator'.*'aggregator'"):
        Home.open(silo.folder, {})
