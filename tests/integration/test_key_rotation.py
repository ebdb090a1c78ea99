"""`cloister silo rotate-key` at a real enrolment port: the ledger goes on under a new key, also after a crash."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import update

from aggregator.server import open_store, running
from aggregator.tables import WITNESS
from certs.ca import CertificateAuthority
from certs.identity import fingerprint
from certs.names import Role
from certs.profile import signing_request
from certs.verify import Kind
from certs.wallet import Wallet
from federation import ledger_cli
from privacy.errors import ConfigError, Refused
from runtime import key_change
from runtime.console import run
from runtime.database import open_database
from runtime.files import StateLock
from runtime.ledger_store import Ledger
from runtime.witness_store import WitnessBook
from silo_agent import cli, command, rotation
from silo_agent.enrol import enrol
from silo_agent.entries import Author
from silo_agent.home import Home
from silo_agent.jobs import add_job
from silo_agent.store import DATABASE, Store
from silo_agent.tables import LEDGER
from tests import scripted
from tests.integration.test_silo_enrolment import Following
from tests.interruptions import Killed, die, dies_at
from tests.scripted import found_aggregator, invite, rehearsal_plan


def utc_now():
    return datetime.now(UTC)


@pytest.fixture
def state(tmp_path):
    state = found_aggregator(tmp_path / "aggregator")
    with running(state):
        yield state


@pytest.fixture
def silo(state, tmp_path):
    """A silo's folder, with a budget."""
    folder = tmp_path / "silo"
    enrol(invite(state, "hospital-a").encode(), folder, None, utc_now()).store.close()
    words = ["budget", "set", "cardiology", "--epsilon", "3", "--delta", "1e-5", "--state", str(folder)]
    assert run(cli.app, words) == 0
    return folder


def rotate(folder, token, now=None):
    home = Home.open(folder, {})
    return rotation.rotate(home, token, "every year", Author(home.name, "dr-weber", "steward", now or utc_now()))


def kinds_of(home):
    with home.store.reading() as connection:
        return [json.loads(body)["kind"] for body in Ledger(connection, LEDGER).entries()]


def check_goes_on(state, folder, done):
    """Wallet, ledger and aggregator have the new key alone; the log verifies, and an agent has it witnessed."""
    home = Home.open(folder, {})
    home.store.check()
    assert kinds_of(home) == ["key", "key", "policy", "key-rotation"]
    assert fingerprint(home.identity.public_key) == done.new != done.old
    assert home.wallet.check(utc_now(), Role.SILO).name == "hospital-a"
    assert not [path.name for path in home.wallet.folder.iterdir() if path.suffix in {".next", ".csr"}]
    following = Following(home)
    try:
        following.wait(lambda: following.board.status.connected)
    finally:
        following.stop()
    store = open_store(state, state.load())
    with store.transaction() as tx:
        (member,) = (member for member in tx.members() if member.name == "hospital-a")
        seen = WitnessBook(tx.connection, WITNESS).seen("cloister/test-federation/hospital-a")
    store.close()
    assert member.identity_key == home.identity.public_key
    assert seen.size == 4
    home.store.close()


def test_the_ledger_goes_on_under_the_new_key_and_an_auditor_sees_it(state, silo, tmp_path, capsys):
    before = Wallet(silo / "wallet").identity().public_key
    following = Following(Home.open(silo, {}))
    following.wait(lambda: following.board.status.connected)  # the aggregator has seen the ledger under the old key
    following.stop()
    words = ["rotate-key", "--token", invite(state, "hospital-a").encode(), "--reason", "every year", "--json"]
    capsys.readouterr()
    assert run(cli.app, [*words, "--state", str(silo)]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])  # the aggregator logs into this process, too
    after = Wallet(silo / "wallet").identity().public_key
    assert said == {
        "name": "hospital-a", "entry": 3, "replaced": fingerprint(before), "fingerprint": fingerprint(after),
        "changed_before": False,
    }  # fmt: skip
    check_goes_on(state, silo, key_change.Rotated(3, fingerprint(before), fingerprint(after)))
    out, ca = tmp_path / "bundle.zip", str(silo / "wallet" / "ca.pem")
    assert run(ledger_cli.app, ["export", "--state", str(silo), "--out", str(out)]) == 0
    for trusted in (["--ca", ca], ["--key", before.hex()], ["--key", after.hex()]):
        assert run(ledger_cli.app, ["verify", str(out), *trusted]) == 0
        assert f"before entry 3 by {before.hex()}" in capsys.readouterr().out


PLACES = {
    "no answer came": (rotation, "ask"),
    "before the ledger": (key_change, "_record"),
    "after the ledger": (Wallet, "install"),
    "between the certificates": (Wallet, "_put"),
    "before the clearing away": (Wallet, "_drop_requests"),
}
BEFORE_THE_LEDGER = {"no answer came", "before the ledger"}


@pytest.mark.parametrize("place", PLACES)
def test_an_interrupted_change_is_finished_with_the_same_token(state, silo, monkeypatch, place):
    token = invite(state, "hospital-a").encode()
    with monkeypatch.context() as patch:
        dies_at(patch, *PLACES[place], after=place == "between the certificates")
        with pytest.raises(Killed):
            rotate(silo, token)
    assert has_rotated(silo) == (place not in BEFORE_THE_LEDGER)
    if place != "before the clearing away":
        with pytest.raises(ConfigError, match=r"of the identity key was interrupted.*rotate-key. again with a token"):
            Wallet(silo / "wallet").check(utc_now())
        with pytest.raises(ConfigError, match=r"was interrupted.*rotate-key. again with a token"):
            enrol(token, silo, None, utc_now())
    if place in {"after the ledger", "between the certificates"}:
        with pytest.raises(ConfigError, match=r"`cloister silo rotate-key`.*was interrupted here, run it again"):
            kinds_of(Home.open(silo, {}))
    done = rotate(silo, token)
    assert done.before == (place == "before the clearing away")
    check_goes_on(state, silo, done)


def has_rotated(folder):
    store = Store(open_database(folder / DATABASE))
    with store.reading() as connection:
        found = Ledger(connection, LEDGER).rotations()
    store.close()
    return len(found) == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_change_is_abandoned_until_the_ledger_has_the_new_key(state, silo, monkeypatch, place):
    before, token = Wallet(silo / "wallet").identity().public_key, invite(state, "hospital-a").encode()
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[place], die)
        with pytest.raises(Killed):
            rotate(silo, token)
    if place in BEFORE_THE_LEDGER:
        rotation.abandon(Home.open(silo, {}))
        assert kinds_of(enrol(invite(state, "hospital-a").encode(), silo, None, utc_now())).count("key-rotation") == 0
        assert Wallet(silo / "wallet").check(utc_now(), Role.SILO).name == "hospital-a"
        assert Wallet(silo / "wallet").identity().public_key == before
    else:
        made = "change of key: was made: entry 3 of the ledger says so"
        why = made if place == "before the clearing away" else "the identity at hand is another one"
        with pytest.raises(ConfigError, match=why):
            rotation.abandon(Home.open(silo, {}))
        if why != made:
            check_goes_on(state, silo, rotate(silo, token))
        assert Wallet(silo / "wallet").identity().public_key != before
    with pytest.raises(ConfigError, match="change of key: none was begun here"):
        rotation.abandon(Home.open(silo, {}))


def test_a_used_token_leaves_nothing_of_a_change(state, silo):
    used = invite(state, "hospital-a")
    scripted.enrol(silo.with_name("elsewhere"), used)
    before = Wallet(silo / "wallet").identity().public_key
    with pytest.raises(Refused, match="has been used already"):
        rotate(silo, used.encode())
    assert Wallet(silo / "wallet").check(utc_now(), Role.SILO)
    assert Wallet(silo / "wallet").identity().public_key == before


def test_a_certificate_that_was_renewed_beside_the_ledger_counts(state, silo):
    """As `cloister certs issue` puts one in place: the ledger still has the one before, which may have expired."""
    store = Store(open_database(silo / DATABASE))
    with store.writing() as tx:
        old = Ledger(tx.connection, LEDGER).identity.certificate_pem
        ca = CertificateAuthority.load(state.ca)
        request = signing_request(Wallet(silo / "wallet").identity()._key, Home.open(silo, {}).identity.party)
        long_ago = utc_now() - timedelta(days=800)
        pem = ca.sign_identity(request.public_bytes(Encoding.PEM), Home.open(silo, {}).identity.party, long_ago)
        tx.connection.execute(update(LEDGER.log).values(certificate_pem=pem))
    store.close()
    assert old != pem
    check_goes_on(state, silo, rotate(silo, invite(state, "hospital-a").encode()))


def test_an_interrupted_change_goes_on_with_another_token_too(state, silo, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Wallet, "install", die)
        with pytest.raises(Killed):
            rotate(silo, invite(state, "hospital-a").encode())
    check_goes_on(state, silo, rotate(silo, invite(state, "hospital-a").encode()))


def test_a_change_after_a_change_is_another_one(state, silo):
    first = rotate(silo, invite(state, "hospital-a").encode())
    second = rotate(silo, invite(state, "hospital-a").encode())
    assert (second.entry, second.old) == (first.entry + 1, first.new)
    assert kinds_of(Home.open(silo, {})).count("key-rotation") == 2


def test_what_is_refused_changes_nothing(state, silo, tmp_path, monkeypatch):
    home = Home.open(silo, {})
    before, kinds = home.identity.public_key, kinds_of(home)
    good = invite(state, "hospital-a").encode()

    def refused(error, why, token=good, now=None):
        with pytest.raises(error, match=why):
            rotate(silo, token, now)
        assert Wallet(silo / "wallet").identity().public_key == before
        assert kinds_of(Home.open(silo, {})) == kinds
        assert Home.open(silo, {}).wallet.check(utc_now(), Role.SILO)

    with StateLock(silo):
        refused(ConfigError, "in use")
    refused(ConfigError, "invites .*hospital-b, and this folder is of", invite(state, "hospital-b").encode())
    refused(ConfigError, "damaged", good[:-8])
    leaf = home.wallet.leaf(Kind.IDENTITY)
    monkeypatch.setattr("certs.invitation.Invitation.check_time", lambda *_: None)
    refused(ConfigError, "identity certificate: expired", now=leaf.not_after_utc + timedelta(days=1))
    other = scripted.enrol(tmp_path / "other", invite(state, "hospital-b"))
    plan = rehearsal_plan({"hospital-a": home.wallet, "hospital-b": other}, Wallet(state.wallet))
    with home.store.writing() as tx:
        add_job(tx.connection, plan, utc_now())
    refused(Refused, f"open at this silo: {plan.name}")


def test_the_command_says_what_is_wrong(silo, capsys, monkeypatch):
    monkeypatch.setattr(command, "now", utc_now)
    assert run(cli.app, ["rotate-key", "--abandon", "--state", str(silo)]) == ConfigError.exit_code
    assert "none was begun here" in capsys.readouterr().err
    Wallet.create(silo / "wallet", Wallet(silo / "wallet").ca_pem, Wallet(silo / "wallet").party, new_identity=True)
    assert run(cli.app, ["rotate-key", "--abandon", "--state", str(silo)]) == 0
    assert "hospital-a keeps its key" in capsys.readouterr().out
    for words, code, why in (
        (["--token", "x", "--reason", "every year"], 3, "invitation token"),
        (["--reason", "every year"], 2, "give either --token or --abandon"),
        (["--token", "x", "--abandon"], 2, "give either --token or --abandon"),
        (["--token", "x", "--reason", ""], 2, "give 1 to 400 characters"),
        (["--token", "x", "--reason", "y" * 401], 2, "these are 401"),
    ):
        assert run(cli.app, ["rotate-key", *words, "--state", str(silo)]) == code
        assert why in capsys.readouterr().err
