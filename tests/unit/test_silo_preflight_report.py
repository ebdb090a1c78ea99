"""`cloister silo preflight`: the report of the self-test, kept by the silo and named in its ledger."""

import hashlib
import json

import pytest
from cloister.wire import JobPhase

from privacy.canonical import canonical_json
from privacy.errors import ExitCode
from privacy.ledger.codec import decode_entry
from privacy.ledger.entry import SelfTestEntry
from runtime.console import run
from runtime.ledger_store import Ledger
from silo_agent.apply import INITIAL
from silo_agent.cli import app
from silo_agent.jobs import JobState
from silo_agent.register import RegisteredDataset, add_dataset
from silo_agent.source import SelfTest
from silo_agent.tables import LEDGER
from tests.lone_silo import NOW, LoneSilo

REPORT = {
    "clipping": "hooks",
    "parameters": [{"name": "b", "kind": "lora-b"}, {"name": "h", "kind": "head"}],
    "values": 12,
    "findings": [{"check": "clipped sums", "measured": 2.5e-7, "bound": 1e-4}],
}


@pytest.fixture
def silo(tmp_path):
    silo = LoneSilo(tmp_path, charged=True)
    with silo.home.store.writing() as tx:
        add_dataset(tx.connection, RegisteredDataset("visits", "patients", tmp_path, "{}"), (), NOW)
    silo.source.self_test = SelfTest(("clipped sums",), canonical_json(REPORT))
    return silo


def join(silo):
    silo.stand(JobState.APPROVED)
    silo.port.job = silo.job_view(JobPhase.JOINING)
    (silo.home.artifacts(silo.job) / INITIAL).write_bytes(b"fetched before")
    assert silo.take_part().advance() is JobState.JOINED


def preflight(silo, capsys, *words):
    code = run(app, ["preflight", silo.job.hex(), "--state", str(silo.folder), *words])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_what_was_measured_is_shown_and_its_digest_is_the_ledgers(silo, capsys):
    join(silo)
    with silo.home.store.reading() as connection:
        entries = [decode_entry(data) for data in Ledger(connection, LEDGER).entries()]
    (test,) = (entry for entry in entries if isinstance(entry, SelfTestEntry))
    digest = hashlib.sha256(canonical_json(REPORT)).hexdigest()
    assert (test.report_sha256, test.checks, test.passed) == (digest, ("clipped sums",), True)
    code, out = preflight(silo, capsys, "--json")
    assert code == 0
    assert json.loads(out) == {"job": silo.job.hex(), "name": silo.plan.name, "report_sha256": digest, **REPORT}
    code, out = preflight(silo, capsys)
    assert code == 0
    assert "2.5e-07" in out
    assert "trains 12 values in 2 tensors (1 head, 1 lora-b); gradients by hooks" in out
    assert digest in out


def test_an_altered_report_is_found(silo, capsys):
    join(silo)
    path = silo.folder / "results" / silo.job.hex() / "preflight.json"
    path.write_bytes(canonical_json({**REPORT, "findings": []}))
    code, out = preflight(silo, capsys)
    assert code == ExitCode.VERIFICATION
    assert "is not the one whose digest the ledger has" in out


def test_before_a_job_is_joined_there_is_none(silo, capsys):
    silo.stand(JobState.APPROVED)
    code, out = preflight(silo, capsys)
    assert code == ExitCode.CONFIG
    assert "has no self-test that was passed here" in out


def test_a_rehearsal_has_none(tmp_path, capsys):
    silo = LoneSilo(tmp_path)
    silo.stand(JobState.APPROVED)
    code, out = preflight(silo, capsys)
    assert code == ExitCode.CONFIG
    assert "is a rehearsal: it trains nothing" in out
