"""`cloister aggregator rotate-key`: the log goes on under a new key; silos hold to the old one until they pin it."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from aggregator import cli, rotation
from aggregator.config import StateFolder
from aggregator.server import open_store, running
from aggregator.tables import LEDGER
from certs import cli as certs_cli
from certs.ca import CertificateAuthority
from certs.identity import fingerprint
from certs.names import Role
from certs.verify import Kind
from certs.wallet import Wallet
from federation import ledger_cli
from federation.commands import run_command
from federation.jobs import prepare
from federation.local import SiloSetting, local_federation
from federation.processes import wait_until
from privacy.errors import ConfigError, Refused, Unavailable
from runtime import key_change
from runtime.channels import open_channel
from runtime.console import run
from runtime.ledger_store import Ledger
from runtime.witness_store import WitnessBook
from silo_agent import cli as silo_cli
from silo_agent.client import GrpcAggregator
from silo_agent.enrol import enrol
from silo_agent.entries import Author, key_entry
from silo_agent.home import Home
from silo_agent.tables import WITNESS
from silo_agent.witnessing import Witnessing
from tests.interruptions import Killed, dies_at
from tests.scripted import found_aggregator, invite, make_cast

LOG = "cloister/test-federation/aggregator"
NAMES = ("east", "north", "west")
JOB = """
name = "{name}"
federation = "rehearsals"
rounds = 1
[rehearsal]
values = 2000
update_range = 1.0
"""


def utc_now():
    return datetime.now(UTC)


@pytest.fixture
def state(tmp_path):
    return found_aggregator(tmp_path / "aggregator")


def rotate(state, now=None):
    return rotation.rotate(state, "every year", now or utc_now())


def own_key(state):
    return Wallet(state.wallet).identity().public_key


def kinds_of(state):
    store = open_store(state, state.load())
    with store.transaction() as tx:
        ledger = Ledger(tx.connection, LEDGER)
        ledger.check()
        kinds = [json.loads(body)["kind"] for body in ledger.entries()]
    store.close()
    return kinds


def run_briefly(state):
    with running(state):
        pass


class Witness:
    """A silo that has the aggregator for a witness, and witnesses its log."""

    def __init__(self, state, folder):
        if not folder.exists():
            enrol(invite(state, folder.name).encode(), folder, None, utc_now()).store.close()
        self.home = Home.open(folder, {})
        self.witnessing = Witnessing(self.home, utc_now())

    def exchange(self):
        """Who confirms this silo's ledger, and how much of the aggregator's log it has confirmed so far."""
        port = GrpcAggregator(lambda: open_channel(self.home.settings.aggregator, self.home.wallet, utc_now()))
        try:
            by = self.witnessing.exchange(port, utc_now())
        finally:
            port.close()
        with self.home.store.reading() as connection:
            book = WitnessBook(connection, WITNESS)
            assert [found.log for found in book.contradictions()] == []
            seen = book.seen(LOG)
        return by, 0 if seen is None else seen.size

    def append(self):
        with self.home.store.writing() as tx:
            by = Author(self.home.name, "steward", "steward", utc_now())
            tx.record(key_entry(by, "pinned", "cloister://test-federation/silo/other", "0c" * 32, "by telephone"))

    def trust(self, state):
        words = ["peers", "trust", "aggregator", fingerprint(own_key(state)), "--role", "aggregator"]
        assert run(silo_cli.app, [*words, "--state", str(self.home.folder)]) == 0

    def close(self):
        self.home.store.close()


def verifies(bundle, state, *keys):
    for trusted in (["--ca", str(state.ca / "ca.pem")], *(["--key", key.hex()] for key in keys)):
        assert run(ledger_cli.app, ["verify", str(bundle), *trusted]) == 0


def export(folder, out):
    assert run(ledger_cli.app, ["export", "--state", str(folder), "--out", str(out)]) == 0
    return out


def check_goes_on(state, done, rotations=1):
    """Wallet, ledger and list of members have the new key alone, and an aggregator runs on them."""
    assert fingerprint(own_key(state)) == done.new != done.old
    assert kinds_of(state) == ["key-rotation"] * rotations
    run_briefly(state)
    store = open_store(state, state.load())
    with store.transaction() as tx:
        (member,) = (member for member in tx.members() if member.role is Role.AGGREGATOR)
    store.close()
    assert member.identity_key == own_key(state)
    assert not [path.name for path in state.wallet.iterdir() if path.suffix in {".next", ".csr"}]


def test_witnesses_go_on_from_what_they_saw_as_soon_as_they_trust_the_new_key(state, tmp_path, capsys):
    first, witness_name = rotate(state), "cloister/test-federation/aggregator/aggregator"  # now there is an entry
    before = own_key(state)
    assert fingerprint(before) == first.new
    with running(state):
        silo = Witness(state, tmp_path / "hospital-a")
        assert silo.exchange() == ({witness_name}, 1)
    capsys.readouterr()
    assert run(cli.app, ["rotate-key", "--reason", "it leaked", "--json", "--state", str(state.root)]) == 0
    after = own_key(state)
    assert json.loads(capsys.readouterr().out) == {
        "name": "aggregator", "entry": 1, "replaced": fingerprint(before), "fingerprint": fingerprint(after),
        "changed_before": False,
    }  # fmt: skip
    with running(state):
        silo.append()
        with capture_logs() as logs:
            assert silo.exchange() == (frozenset(), 1)
        for event in ("a witness is not believed", "a log is not witnessed"):
            told = str(next(each["exc_info"] for each in logs if each["event"] == event))
            assert f"is {fingerprint(after)}; pinned here is {fingerprint(before)}" in told
            assert "cloister silo peers trust aggregator FINGERPRINT --role aggregator" in told
        with pytest.raises(Refused, match=r"its identity is .* peers trust aggregator FINGERPRINT --role aggregator"):
            enrol(invite(state, "hospital-a").encode(), silo.home.folder, None, utc_now())
        silo.trust(state)
        assert silo.exchange() == ({witness_name}, 2)
        silo.close()
    check_goes_on(state, key_change.Rotated(1, fingerprint(before), fingerprint(after)), rotations=2)
    bundle = export(state.root, tmp_path / "aggregator.zip")
    verifies(bundle, state, before, after)
    assert f"before entry 1 by {before.hex()}" in capsys.readouterr().out
    assert run(ledger_cli.app, ["verify", str(bundle), "--ca", str(state.ca / "ca.pem"), "--quorum", "1"]) == 0
    verifies(export(silo.home.folder, tmp_path / "silo.zip"), state)


def test_a_silo_that_changes_its_own_key_is_told_to_pin_the_aggregators_first(state, tmp_path, capsys):
    with running(state):
        silo = Witness(state, tmp_path / "hospital-a")
        silo.close()
    rotate(state)
    with running(state):
        words = ["rotate-key", "--token", invite(state, "hospital-a").encode(), "--state", str(silo.home.folder)]
        assert run(silo_cli.app, words) == Refused.exit_code
        told = " ".join(capsys.readouterr().err.split())
        assert "No pin was changed." in told
        assert "then runs `cloister silo rotate-key` with this token again" in told
        silo.trust(state)
        assert run(silo_cli.app, words) == 0
    assert Wallet(silo.home.folder / "wallet").check(utc_now(), Role.SILO)


def test_the_command_says_what_is_next(state, capsys):
    words, before = ["rotate-key", "--state", str(state.root)], fingerprint(own_key(state))
    capsys.readouterr()
    assert run(cli.app, [*words, "--abandon"]) == ConfigError.exit_code
    assert "none was begun here" in capsys.readouterr().err
    assert run(cli.app, words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "signs with another key now; entry 0 of its ledger says so" in told
    assert f"auditors: {fingerprint(own_key(state))} no longer: {before} Next: cloister aggregator run; at" in told
    assert told.endswith("silo, cloister silo peers trust aggregator FINGERPRINT --role aggregator")


def test_two_logs_that_part_at_the_change_are_found_by_who_witnessed_one(state, tmp_path):
    silo = with_entry_seen(state, tmp_path / "hospital-a")
    other = StateFolder(shutil.copytree(state.root, tmp_path / "other"))
    for folder, seen in ((state, 2), (other, None)):
        rotate(folder)
        with running(folder):
            silo.trust(folder)
            if seen is not None:
                assert silo.exchange()[1] == seen
            else:
                with pytest.raises(AssertionError, match=LOG):
                    silo.exchange()
    silo.close()


def with_entry_seen(state, folder):
    """A silo that has confirmed an entry of the aggregator's log."""
    rotate(state)
    with running(state):
        silo = Witness(state, folder)
        assert silo.exchange()[1] == 1
    return silo


PLACES = {
    "before it is certified": (CertificateAuthority, "issue"),
    "before the ledger": (key_change, "_record"),
    "after the ledger": (Wallet, "install"),
    "between the certificates": (Wallet, "_put"),
    "before the clearing away": (Wallet, "_drop_requests"),
}
BEFORE_THE_LEDGER = {"before it is certified", "before the ledger"}


def interrupt(state, monkeypatch, place):
    with monkeypatch.context() as patch:
        dies_at(patch, *PLACES[place], after=place == "between the certificates")
        with pytest.raises(Killed):
            rotate(state)


@pytest.mark.parametrize("place", PLACES)
def test_an_interrupted_change_is_finished_when_it_is_run_again(state, monkeypatch, place):
    interrupt(state, monkeypatch, place)
    assert kinds_of(state) == ([] if place in BEFORE_THE_LEDGER else ["key-rotation"])
    if place != "before the clearing away":
        what = r"change of the identity key was interrupted.*`cloister aggregator rotate-key` again, or once with --ab"
        with pytest.raises(ConfigError, match=what):
            run_briefly(state)
        words = ["issue", "aggregator", "aggregator", "--out", str(state.wallet), "--ca", str(state.ca)]
        assert run(certs_cli.app, words) == ConfigError.exit_code  # it would put the new key in place past the ledger
    done = rotate(state)
    assert done.before == (place == "before the clearing away")
    check_goes_on(state, done)


@pytest.mark.parametrize("place", PLACES)
def test_a_change_is_abandoned_until_the_ledger_has_the_new_key(state, monkeypatch, place):
    before = own_key(state)
    interrupt(state, monkeypatch, place)
    words = ["rotate-key", "--abandon", "--state", str(state.root)]
    if place in BEFORE_THE_LEDGER:
        assert run(cli.app, words) == 0
        assert (own_key(state), kinds_of(state)) == (before, [])
        run_briefly(state)
        check_goes_on(state, rotate(state))
        return
    made = "change of key: was made: entry 0 of the ledger says so"
    another = r"the identity at hand is another one.*aggregator rotate-key.*run it ag"
    with pytest.raises(ConfigError, match=made if place == "before the clearing away" else another):
        rotation.abandon(state)
    assert run(cli.app, words) == ConfigError.exit_code
    if place != "before the clearing away":
        check_goes_on(state, rotate(state))
    assert own_key(state) != before


def test_a_change_that_the_ledger_has_is_finished_when_the_old_certificate_has_expired(state, monkeypatch):
    later = Wallet(state.wallet).leaf(Kind.IDENTITY).not_after_utc + timedelta(days=1)
    interrupt(state, monkeypatch, "after the ledger")
    done = rotate(state, later)
    assert (kinds_of(state), done.new) == (["key-rotation"], fingerprint(own_key(state)))
    assert Wallet(state.wallet).check(later, Role.AGGREGATOR)


def test_the_key_that_the_ledger_has_is_never_made_anew(state, monkeypatch):
    interrupt(state, monkeypatch, "after the ledger")
    begun = (state.wallet / "identity.key.next").read_bytes()
    (state.wallet / "identity.csr").unlink()
    done = rotate(state)
    assert (state.wallet / "identity.key").read_bytes() == begun
    check_goes_on(state, done)


def test_an_older_wallet_is_told_that_its_key_is_not_the_ledgers(state, tmp_path):
    shutil.copytree(state.wallet, tmp_path / "copy")
    new = rotate(state).new
    shutil.move(state.wallet, tmp_path / "newest")
    shutil.copytree(tmp_path / "copy", state.wallet)
    with pytest.raises(ConfigError, match=f"the ledger goes on under {new}, and this wallet has not that key"):
        rotate(state)
    assert not Wallet(state.wallet).identity_changes
    shutil.rmtree(state.wallet)
    shutil.move(tmp_path / "newest", state.wallet)
    run_briefly(state)


def test_what_a_renewal_left_over_is_not_taken_for_a_change(state):
    first, wallet = rotate(state), Wallet(state.wallet)
    renewed = CertificateAuthority.load(state.ca).renew(wallet.party, wallet.renewal_request(), utc_now())
    wallet._put(Kind.TLS, renewed)  # and a crash before its request was cleared away
    done = rotate(state)
    assert (done.before, done.old, done.new) == (False, first.new, fingerprint(own_key(state)))


def test_an_answer_of_the_offline_ca_that_came_too_late_is_asked_for_again(state, tmp_path, monkeypatch):
    def sign(now):
        (tmp_path / "ca.key").rename(state.ca / "ca.key")
        monkeypatch.setattr(certs_cli, "_now", lambda: now)
        assert run(certs_cli.app, ["sign", str(state.queue), "--ca", str(state.ca), "--yes"]) == 0
        (state.ca / "ca.key").rename(tmp_path / "ca.key")

    (state.ca / "ca.key").rename(tmp_path / "ca.key")
    with pytest.raises(Unavailable):
        rotate(state)
    sign(utc_now())
    interrupt(state, monkeypatch, "after the ledger")
    later = utc_now() + timedelta(days=31)
    with pytest.raises(Unavailable, match=r"CA is offline.*certs sign"):
        rotate(state, later)
    sign(later)
    assert rotate(state, later).new == fingerprint(own_key(state))


def test_an_offline_ca_certifies_the_new_key_by_its_queue(state, tmp_path):
    (state.ca / "ca.key").rename(tmp_path / "ca.key")
    before = own_key(state)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"CA is offline.*certs sign"):
            rotate(state)
    assert (own_key(state), kinds_of(state)) == (before, [])
    (tmp_path / "ca.key").rename(state.ca / "ca.key")
    assert run(certs_cli.app, ["sign", str(state.queue), "--ca", str(state.ca), "--yes"]) == 0
    (state.ca / "ca.key").rename(tmp_path / "ca.key")
    check_goes_on(state, rotate(state))


def test_the_host_names_stay_and_a_revoked_key_can_be_replaced(state):
    authority = CertificateAuthority.load(state.ca)
    authority.revoke(Wallet(state.wallet).party, utc_now())
    before = hosts_of(state)
    done = rotate(state)
    assert hosts_of(state) == before
    revoked = x509.load_pem_x509_crl((state.ca / "crl.pem").read_bytes())
    assert revoked.get_revoked_certificate_by_serial_number(certificate(state).serial_number) is None
    check_goes_on(state, done)


def certificate(state):
    return x509.load_pem_x509_certificate((state.wallet / "tls.pem").read_bytes())


def hosts_of(state):
    return certificate(state).extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_what_is_refused_changes_nothing(state, tmp_path):
    before = own_key(state)

    def refused(error, why, now=None):
        with pytest.raises(error, match=why):
            rotate(state, now)
        assert (own_key(state), kinds_of(state)) == (before, [])
        assert Wallet(state.wallet).check(utc_now(), Role.AGGREGATOR)

    expired = Wallet(state.wallet).leaf(Kind.IDENTITY).not_after_utc + timedelta(days=1)
    refused(ConfigError, "identity certificate: expired .*certs issue aggregator aggregator --out", expired)
    with running(state):
        refused(ConfigError, "is in use by process")
        cast = make_cast(tmp_path, state)
        with cast.coordinator() as coordinator:
            coordinator.submit(cast.write_job(tmp_path / "job"))
        cast.close()
    refused(Refused, "open here: rehearsal; .*aggregator cancel JOB")
    with running(state), cast.coordinator() as coordinator:
        coordinator.cancel(cast.plan.digest())
    check_goes_on(state, rotate(state))


def test_a_certificate_that_expired_is_renewed_on_the_old_key_first(state, monkeypatch):
    wallet, before = Wallet(state.wallet), own_key(state)
    later = wallet.leaf(Kind.IDENTITY).not_after_utc + timedelta(days=1)
    with pytest.raises(ConfigError, match="expired"):
        rotate(state, later)
    monkeypatch.setattr(certs_cli, "_now", lambda: later)
    words = ["issue", "aggregator", "aggregator", "--out", str(state.wallet), "--ca", str(state.ca)]
    assert run(certs_cli.app, words) == 0
    assert own_key(state) == before
    done = rotate(state, later)
    assert (done.old, done.new) == (fingerprint(before), fingerprint(own_key(state)))


def test_a_job_of_real_programs_runs_after_the_change_with_those_who_trust_the_new_key(tmp_path):
    with local_federation(tmp_path / "federation", "rehearsals", lambda _: None) as federation:
        federation.start_aggregator()
        federation.enrol([SiloSetting(name, policy={"rehearsals": True}) for name in NAMES])
        for silo in federation.silos:
            with (silo.state / "silo.toml").open("a") as file:
                file.write("[witnesses]\nevery_s = 1.0\n")
        federation.start_silos()
        state = StateFolder(federation.state)
        run_job(federation, tmp_path, "before")
        older = exported(federation, tmp_path / "older")
        with pytest.raises(ConfigError, match="is in use by process"):
            federation.command("aggregator", "rotate-key", "--reason", "every year")
        before = own_key(state)
        federation.aggregator.stop()
        said = json.loads(federation.command("aggregator", "rotate-key", "--reason", "every year", "--json"))
        start(federation)
        east = federation.silos[0]
        planned = prepare(write_job(tmp_path, "too-soon"), tmp_path / "too-soon", federation.membership())
        assert planned.aggregator.identity_key == own_key(state).hex() != before.hex()
        federation.submit(tmp_path / "too-soon")
        wait(federation, lambda: "pinned here is" in why(east, "too-soon"), "the refusal")
        told = next(line for line in east.daemon.last_lines(40).splitlines() if "job refused" in line)
        assert "cloister silo peers trust aggregator FINGERPRINT --role aggregator" in told
        for silo in federation.silos:
            silo.command("silo", "peers", "trust", "aggregator", said["fingerprint"], "--role", "aggregator")
        run_job(federation, tmp_path, "after")
        wait(federation, lambda: all(witnesses(silo)[0] == 3 for silo in federation.silos), "witnesses")
        assert all(witnesses(silo) == (3, True, []) for silo in federation.silos)
        newer = exported(federation, tmp_path / "newer")
        ca = str(state.ca / "ca.pem")
        for trusted in (["--ca", ca, "--quorum", "3"], ["--key", before.hex()], ["--key", own_key(state).hex()]):
            assert json.loads(run_command("ledger", "verify", newer[0], *trusted, "--json"))["verified"]
        assert json.loads(run_command("ledger", "compare", *older, *newer, "--ca", ca, "--json"))["agree"]


def write_job(folder, name):
    path = folder / f"{name}.toml"
    path.write_text(JOB.format(name=name))
    return path


def wait(federation, holds, what):
    wait_until(holds, what=what, timeout_s=90, daemons=federation.daemons)


def start(federation):
    federation.aggregator.start()
    wait(federation, StateFolder(federation.state).ready.exists, "the aggregator")


def run_job(federation, folder, name):
    prepare(write_job(folder, name), folder / name, federation.membership())
    job = federation.submit(folder / name)
    wait(federation, lambda: finished(federation, job), f"job {name}")


def finished(federation, job):
    jobs = json.loads(federation.command("aggregator", "status", "--json"))["jobs"]
    return next(each["phase"] for each in jobs if each["job"] == job) == "FINISHED"


def why(silo, name):
    jobs = json.loads(silo.command("silo", "jobs", "--json"))["jobs"]
    return next((str(each) for each in jobs if each["name"] == name), "")


def witnesses(silo):
    """How much of the aggregator's log a silo has confirmed, whether the aggregator counts as its witness, and what
    contradicts itself.
    """
    found = json.loads(silo.command("silo", "witnesses", "list", "--json"))
    seen = {each["log"]: each["entries"] for each in found["witnessed"]}
    counts = [each["counts"] for each in found["witnesses"] if each["witness"].endswith("/aggregator/aggregator")]
    return seen.get("cloister/rehearsals/aggregator"), counts == [True], found["contradictions"]


def exported(federation, folder):
    """The bundles of the aggregator and of the silos."""
    folder.mkdir()
    states = {"aggregator": federation.state, **{silo.name: silo.state for silo in federation.silos}}
    for name, state in states.items():
        run_command("ledger", "export", "--state", str(state), "--out", str(folder / f"{name}.zip"))
    return [str(folder / f"{name}.zip") for name in states]
