"""Enrolment at a real enrolment port, certificate renewal and the agent's own threads against a real aggregator."""

import hashlib
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, update

from aggregator.server import running
from certs.ca import CertificateAuthority
from certs.identity import fingerprint
from certs.names import Role
from certs.verify import Kind
from certs.wallet import Wallet
from privacy.errors import ConfigError, Refused, Unavailable
from privacy.ledger.codec import decode_entry
from runtime.channels import open_channel
from runtime.ledger_store import Ledger
from silo_agent import enrol as enrolling
from silo_agent import witnessing
from silo_agent.agent import Agent
from silo_agent.client import GrpcAggregator
from silo_agent.enrol import enrol
from silo_agent.peers import trust_peer, trusted_peers
from silo_agent.status import StatusBoard, read_status
from silo_agent.tables import LEDGER, peers
from tests.scripted import found_aggregator, invite

PATIENCE_S = 20.0


def utc_now():
    return datetime.now(UTC)


@pytest.fixture
def state(tmp_path):
    state = found_aggregator(tmp_path / "aggregator")
    with running(state):
        yield state


def pins(home):
    with home.store.reading() as connection:
        return trusted_peers(connection)


def test_a_token_makes_a_silo_that_knows_its_aggregator(state, tmp_path):
    token = invite(state, "hospital-a").encode()
    home = enrol(token, tmp_path / "silo", None, utc_now())
    assert home.settings.aggregator == state.load().listen
    assert pins(home) == {(Role.AGGREGATOR, "aggregator"): fingerprint(Wallet(state.wallet).identity().public_key)}
    assert home.wallet.check(utc_now(), Role.SILO).name == "hospital-a"
    assert not (tmp_path / "silo" / "aggregator.pem").exists()
    with home.store.reading() as connection:
        ledger = Ledger(connection, LEDGER)
        own, pinned = [decode_entry(body) for body in ledger.entries()]
        assert len(ledger.notes()) == 1
    assert (own.action, own.party) == ("own", home.identity.party.uri)
    assert own.fingerprint == hashlib.sha256(home.identity.public_key).hexdigest()
    assert (pinned.action, pinned.party.split("/")[-2:]) == ("pinned", ["aggregator", "aggregator"])


@pytest.mark.parametrize("place", ["Wallet", "trust_first_aggregator"])
def test_an_enrolment_that_was_interrupted_is_finished_with_the_same_token(state, tmp_path, monkeypatch, place):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    token = invite(state, "hospital-a").encode()
    with monkeypatch.context() as patched:
        patched.setattr(*((enrolling.Wallet, "install") if place == "Wallet" else (enrolling, place)), die)
        with pytest.raises(Killed):
            enrol(token, tmp_path / "silo", None, utc_now())
    home = enrol(token, tmp_path / "silo", None, utc_now())
    assert (Role.AGGREGATOR, "aggregator") in pins(home)
    with home.store.reading() as connection:
        assert Ledger(connection, LEDGER).size == 2, "what was noted is noted once"
    assert home.wallet.check(utc_now(), Role.SILO).name == "hospital-a"


@pytest.mark.parametrize("name", ["aggregator", "the-aggregator-before"])
def test_enrolling_again_changes_no_pin(state, tmp_path, name):
    home = enrol(invite(state, "hospital-a").encode(), tmp_path / "silo", None, utc_now())
    own = pins(home)[Role.AGGREGATOR, "aggregator"]
    other = " ".join(["abcd"] * 16)
    with home.store.writing() as tx:
        trust_peer(tx.connection, Role.SILO, "aggregator", other, utc_now())  # a silo of that name is somebody else
    again = invite(state, "hospital-a").encode()
    assert pins(enrol(again, tmp_path / "silo", None, utc_now())) == {
        (Role.AGGREGATOR, "aggregator"): own,
        (Role.SILO, "aggregator"): other,
    }
    with home.store.writing() as tx:
        tx.connection.execute(update(peers).where(peers.c.role == Role.AGGREGATOR).values(name=name, fingerprint=other))
    before = home.wallet.leaf(Kind.TLS)
    again = invite(state, "hospital-a").encode()
    for _ in range(2):
        with pytest.raises(Refused, match=f"pinned here is {name} {other}.*No pin was changed"):
            enrol(again, tmp_path / "silo", None, utc_now())
        assert pins(home)[Role.AGGREGATOR, name] == other
        assert home.wallet.leaf(Kind.TLS) == before
    with home.store.writing() as tx:  # a person changes it, and the same token goes on being good
        tx.connection.execute(delete(peers).where(peers.c.role == Role.AGGREGATOR))
        trust_peer(tx.connection, Role.AGGREGATOR, "aggregator", own, utc_now())
    assert pins(enrol(again, tmp_path / "silo", None, utc_now()))[Role.AGGREGATOR, "aggregator"] == own
    assert home.wallet.leaf(Kind.TLS) != before


def test_a_ledger_without_its_wallet_costs_no_token(state, tmp_path):
    home = enrol(invite(state, "hospital-a").encode(), tmp_path / "silo", None, utc_now())
    home.store.close()
    (tmp_path / "silo" / "wallet").rename(tmp_path / "away")
    token = invite(state, "hospital-a").encode()
    with pytest.raises(ConfigError, match=r"the wallet with its key is gone.*enrol under a new name"):
        enrol(token, tmp_path / "silo", None, utc_now())
    assert not (tmp_path / "silo" / "wallet").exists()
    fresh = enrol(token, tmp_path / "new", None, utc_now())
    assert fresh.identity.public_key != Wallet(tmp_path / "away").identity().public_key


def test_a_used_an_expired_and_a_wrong_token_are_refused(state, tmp_path):
    token = invite(state, "hospital-a").encode()
    enrol(token, tmp_path / "silo", None, utc_now())
    with pytest.raises(Refused, match="has been used already"):
        enrol(token, tmp_path / "thief", None, utc_now())
    with pytest.raises(ConfigError, match=r"expired at .* on this machine's clock"):
        enrol(token, tmp_path / "late", None, utc_now() + timedelta(days=100))
    auditor = invite(state, "auditor-a", Role.AUDITOR).encode()
    with pytest.raises(ConfigError, match="which is no silo"):
        enrol(auditor, tmp_path / "auditor", None, utc_now())
    assert not (tmp_path / "auditor").exists()


def test_an_enrolment_port_of_another_ca_gets_nothing(state, tmp_path, monkeypatch):
    monkeypatch.setattr(enrolling, "ATTEMPTS", 1)
    stranger = CertificateAuthority.create(tmp_path / "other", state.load().federation, utc_now())
    invitation = invite(state, "hospital-a")
    forged = type(invitation)(
        invitation.party, invitation.address, stranger.ca_pem, invitation.expires_utc, invitation.secret
    )
    with pytest.raises((ConfigError, Unavailable), match="enrolling at 127"):
        enrol(forged.encode(), tmp_path / "silo", None, utc_now())
    assert enrol(invitation.encode(), tmp_path / "mine", None, utc_now()).name == "hospital-a", "the secret is unspent"


class WatchedBoard(StatusBoard):
    """Wakes whoever waits for a change of the status."""

    def __init__(self, *arguments):
        self.changed = threading.Condition()
        super().__init__(*arguments)

    def show(self, **changes):
        super().show(**changes)
        with self.changed:
            self.changed.notify_all()


class Following:
    """An agent in a thread of this process, as `silo run` runs it."""

    def __init__(self, home, clock=utc_now):
        self.home = home
        self.port = GrpcAggregator(lambda: open_channel(home.settings.aggregator, home.wallet, clock()))
        self.board = WatchedBoard(home.folder, home.name, clock)
        self.agent = Agent(home, self.port, self.port.reconnect, clock, self.board)
        self.thread = threading.Thread(target=self.agent.run, daemon=True)
        self.thread.start()

    def wait(self, holds):
        with self.board.changed:
            assert self.board.changed.wait_for(holds, PATIENCE_S), read_status(self.home.folder)

    def stop(self):
        self.agent.stop()
        self.port.close()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def test_an_agent_connects_stops_and_says_so(state, tmp_path):
    following = Following(enrol(invite(state, "hospital-a").encode(), tmp_path / "silo", None, utc_now()))
    try:
        following.wait(lambda: following.board.status.connected)
    finally:
        following.stop()
    assert read_status(tmp_path / "silo")["connected"] is False
    assert read_status(tmp_path / "silo")["message"] == "stopped"


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left(state, tmp_path, monkeypatch):
    monkeypatch.setattr(witnessing, "CLOCK_TOLERANCE", timedelta(days=30))  # the aggregator's clock stays where it is
    home = enrol(invite(state, "hospital-a").encode(), tmp_path / "silo", None, utc_now())
    before = home.wallet.leaf(Kind.TLS)
    assert not home.wallet.renewal_due(utc_now())
    later = lambda: utc_now() + timedelta(days=21)  # noqa: E731 - a clock
    assert home.wallet.renewal_due(later())
    following = Following(home, later)
    try:
        following.wait(lambda: home.wallet.leaf(Kind.TLS).serial != before.serial)
        following.wait(lambda: following.board.status.connected)
    finally:
        following.stop()
    assert home.wallet.leaf(Kind.TLS).public_key != before.public_key


def test_an_agent_whose_aggregator_is_away_says_so_and_comes_back(tmp_path):
    state = found_aggregator(tmp_path / "aggregator")
    with running(state):
        home = enrol(invite(state, "hospital-a").encode(), tmp_path / "silo", None, utc_now())
        following = Following(home)
        following.wait(lambda: following.board.status.connected)
    following.wait(lambda: not following.board.status.connected)
    try:
        with running(state):
            following.wait(lambda: following.board.status.connected)
    finally:
        following.stop()
