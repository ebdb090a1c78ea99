"""Invitations, the desk, and the queue of an offline CA."""

import base64
from datetime import timedelta

import pytest

from certs.enrolment import EnrolmentDesk
from certs.invitation import PREFIX, Invitation
from certs.names import PartyId, Role
from certs.queue import RequestQueue, answer, waiting
from certs.verify import check_identity_certificate
from certs.wallet import Wallet
from privacy.canonical import canonical_json
from privacy.errors import ConfigError, ProtocolError, Refused, Unavailable
from tests.pki import FEDERATION, NOW, MemoryInvitations, check_leaf, make_ca, make_wallet

SILO = PartyId(FEDERATION, Role.SILO, "hospital-a")


@pytest.fixture
def ca(tmp_path):
    return make_ca(tmp_path)


@pytest.fixture
def store():
    return MemoryInvitations()


@pytest.fixture
def desk(ca, store):
    return EnrolmentDesk(ca, store, "hub.example.org:8444", "hub")


def requests_of(folder, ca, party=SILO):
    return Wallet.create(folder, ca.ca_pem, party).requests()


def test_a_token_carries_everything_and_the_desk_keeps_no_secret(desk, store, ca):
    invitation = desk.invite(Role.SILO, "hospital-a", NOW)
    token = invitation.encode()
    assert token.startswith(PREFIX)
    assert Invitation.decode(f" {token}\n") == invitation
    assert invitation.ca_pem == ca.ca_pem
    assert invitation.secret.hex() not in repr(store.rows) + repr(invitation)
    invitation.check_time(NOW)
    with pytest.raises(ConfigError, match=r"expired at 2026-03-08"):
        invitation.check_time(NOW + timedelta(days=8))


def test_no_silo_gets_the_aggregators_name(ca, store, tmp_path):
    """Both would have the log cloister/<federation>/<name>. Nor one that was invited before this was refused."""
    with pytest.raises(ConfigError, match=r"inviting cloister://.*/silo/hub: is the aggregator's name"):
        EnrolmentDesk(ca, store, "x:1", "hub").invite(Role.SILO, "hub", NOW)
    assert not store.rows
    early = EnrolmentDesk(ca, store, "x:1", "elsewhere").invite(Role.SILO, "hub", NOW)
    mine = requests_of(tmp_path / "mine", ca, early.party)
    with pytest.raises(Refused, match=r"enrolling cloister://.*/silo/hub: is the aggregator's name"):
        EnrolmentDesk(ca, store, "x:1", "hub").redeem(early.secret, mine, NOW)


def test_damaged_tokens_are_named_and_never_repeated(desk, ca, tmp_path):
    token = desk.invite(Role.SILO, "hospital-a", NOW).encode()
    for bad in ("", "hello", token[:-9], token.replace("v1", "v2"), token + "!", PREFIX + "e30", PREFIX + "W10"):
        with pytest.raises(ConfigError, match=r"invitation token: (is damaged|does not start)") as caught:
            Invitation.decode(bad)
        assert len(str(caught.value)) < 250
    other = make_ca(tmp_path / "other", federation="lung-study")
    forged = Invitation(SILO, "x:1", other.ca_pem, NOW, bytes(32)).encode()
    with pytest.raises(ConfigError, match="one federation and carries the CA of another"):
        Invitation.decode(forged)
    extra = base64.urlsafe_b64encode(canonical_json({"party": 1})).decode().rstrip("=")
    with pytest.raises(ConfigError, match="is damaged"):
        Invitation.decode(PREFIX + extra)


def test_redeeming_gives_certificates_for_the_invited_name(desk, ca, tmp_path):
    invitation = desk.invite(Role.SILO, "hospital-a", NOW)
    issued = desk.redeem(invitation.secret, requests_of(tmp_path / "a", ca), NOW)
    assert check_leaf(issued.tls, ca.ca_pem, NOW) == SILO
    assert check_identity_certificate(issued.identity, ca.ca_pem, NOW)[0] == SILO


def test_a_lost_answer_can_be_asked_for_again_but_other_keys_are_refused(desk, ca, tmp_path):
    invitation = desk.invite(Role.SILO, "hospital-a", NOW)
    mine = requests_of(tmp_path / "a", ca)
    issued = desk.redeem(invitation.secret, mine, NOW)
    assert desk.redeem(invitation.secret, mine, NOW + timedelta(hours=1)) == issued
    assert len(ca.issued()) == 2
    with pytest.raises(Refused, match="has been used already, with other keys"):
        desk.redeem(invitation.secret, requests_of(tmp_path / "thief", ca), NOW)


def test_unknown_and_expired_secrets_are_refused(desk, ca, tmp_path):
    mine = requests_of(tmp_path / "a", ca)
    with pytest.raises(Refused, match="is not known here"):
        desk.redeem(bytes(32), mine, NOW)
    invitation = desk.invite(Role.SILO, "hospital-a", NOW, timedelta(hours=1))
    with pytest.raises(Refused, match=r"expired at 2026-03-01T13:00:00Z"):
        desk.redeem(invitation.secret, mine, NOW + timedelta(hours=2))
    assert ca.issued() == ()


def test_bad_requests_do_not_burn_the_token(desk, ca, tmp_path):
    invitation = desk.invite(Role.SILO, "hospital-a", NOW)
    other = PartyId(FEDERATION, Role.SILO, "hospital-b")
    with pytest.raises(ProtocolError, match="asks for other names"):
        desk.redeem(invitation.secret, requests_of(tmp_path / "b", ca, other), NOW)
    desk.redeem(invitation.secret, requests_of(tmp_path / "a", ca), NOW)


def test_the_secret_is_bound_before_anything_is_signed(ca, store, tmp_path):
    class Dying:
        federation, ca_pem = ca.federation, ca.ca_pem

        def issue(self, *arguments):
            raise SystemExit("killed")

    invitation = EnrolmentDesk(Dying(), store, "x:1", "hub").invite(Role.SILO, "hospital-a", NOW)
    mine = requests_of(tmp_path / "a", ca)
    with pytest.raises(SystemExit):
        EnrolmentDesk(Dying(), store, "x:1", "hub").redeem(invitation.secret, mine, NOW)
    desk = EnrolmentDesk(ca, store, "x:1", "hub")
    with pytest.raises(Refused, match="has been used already"):
        desk.redeem(invitation.secret, requests_of(tmp_path / "thief", ca), NOW)
    assert check_leaf(desk.redeem(invitation.secret, mine, NOW).tls, ca.ca_pem, NOW) == SILO


def test_invitations_have_limits(desk):
    with pytest.raises(ConfigError, match="an aggregator is not enrolled by token"):
        desk.invite(Role.AGGREGATOR, "hub", NOW)
    with pytest.raises(ConfigError, match="is not within 0 and 90 days"):
        desk.invite(Role.SILO, "hospital-a", NOW, timedelta(days=91))
    with pytest.raises(ConfigError, match="is not a name"):
        desk.invite(Role.SILO, "Hospital A", NOW)


def test_an_offline_ca_answers_through_the_queue(ca, store, tmp_path):
    queue = RequestQueue(tmp_path / "queue", ca.ca_pem)
    desk = EnrolmentDesk(queue, store, "x:1", "hub")
    invitation = desk.invite(Role.SILO, "hospital-a", NOW)
    wallet = Wallet.create(tmp_path / "a", ca.ca_pem, SILO)
    for _ in range(2):
        with pytest.raises(Unavailable, match="the federation's CA is offline"):
            desk.redeem(invitation.secret, wallet.requests(), NOW)
    (request,) = waiting(tmp_path / "queue")
    assert request.party == SILO
    answer(tmp_path / "queue", request, ca, NOW)
    assert waiting(tmp_path / "queue") == ()
    wallet.install(desk.redeem(invitation.secret, wallet.requests(), NOW), NOW)
    assert wallet.check(NOW) == SILO

    again = wallet.renewal_request()
    with pytest.raises(Unavailable, match="offline"):
        desk.renew(SILO, again, NOW)
    answer(tmp_path / "queue", waiting(tmp_path / "queue")[0], ca, NOW)
    wallet.install_renewal(desk.renew(SILO, again, NOW), NOW)


def test_a_queue_answer_from_elsewhere_is_refused(ca, tmp_path):
    queue = RequestQueue(tmp_path / "queue", ca.ca_pem)
    wallet = Wallet.create(tmp_path / "a", ca.ca_pem, SILO)
    tls, identity = wallet.requests().tls, wallet.requests().identity
    with pytest.raises(Unavailable):
        queue.issue(SILO, tls, identity, NOW)
    (request,) = waiting(tmp_path / "queue")
    answer(tmp_path / "queue", request, make_ca(tmp_path / "other"), NOW)
    with pytest.raises(ConfigError, match="is not an answer of this federation's CA"):
        queue.issue(SILO, tls, identity, NOW)
    (tmp_path / "queue" / f"{request.name}.request.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match="is damaged"):
        waiting(tmp_path / "queue")
    with pytest.raises(ConfigError, match="is not a folder"):
        waiting(tmp_path / "nowhere")


def test_the_queue_serves_wallets_too(ca, tmp_path):
    wallet = make_wallet(ca, tmp_path)
    queue = RequestQueue(tmp_path / "queue", ca.ca_pem)
    with pytest.raises(Unavailable):
        queue.renew(SILO, wallet.renewal_request(), NOW)
    other = make_wallet(ca, tmp_path, name="hospital-b")
    with pytest.raises(Unavailable):
        queue.renew(other.party, other.renewal_request(), NOW)
    assert {request.party.name for request in waiting(tmp_path / "queue")} == {"hospital-a", "hospital-b"}
