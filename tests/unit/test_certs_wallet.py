"""Wallets: private keys stay private, certificates are installed only when they fit, and `check` names the cause."""

import stat
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import certs.wallet
from certs.identity import fingerprint, parse_fingerprint
from certs.names import PartyId, Role
from certs.requests import IssuedCertificates
from certs.wallet import Wallet
from privacy.errors import ConfigError, ProtocolError
from tests.pki import FEDERATION, NOW, make_ca, make_wallet

SILO = PartyId(FEDERATION, Role.SILO, "hospital-a")


@pytest.fixture
def ca(tmp_path):
    return make_ca(tmp_path)


@pytest.fixture
def wallet(ca, tmp_path):
    return make_wallet(ca, tmp_path)


def test_a_good_wallet_checks_signs_and_keeps_its_keys_private(wallet):
    assert wallet.check(NOW, Role.SILO) == SILO
    identity = wallet.identity()
    Ed25519PublicKey.from_public_bytes(identity.public_key).verify(identity.sign(b"x"), b"x")
    assert len(identity.public_key) == 32
    assert "key" not in repr(identity)
    assert "PRIVATE" not in repr(wallet.tls()) + repr(wallet)
    assert sorted(path.name for path in wallet.folder.iterdir()) == [
        *("ca.pem", "identity.key", "identity.pem", "tls.key", "tls.pem")
    ]
    for name in ("tls.key", "identity.key"):
        assert stat.S_IMODE((wallet.folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(wallet.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("days", "message"),
    [(31, r"tls\.pem: expired at .*cloister certs renew"), (-1, r"is valid from .*Set this machine's clock")],
)
def test_check_names_the_time(wallet, days, message):
    with pytest.raises(ConfigError, match=message):
        wallet.check(NOW + timedelta(days=days))


def test_what_is_signed_to_be_carried_takes_an_identity_of_the_role_that_is_good_now(wallet):
    """And no TLS certificate: an auditor without a connection has none renewed."""
    assert wallet.signer(NOW + timedelta(days=729), Role.SILO).party == wallet.party
    with pytest.raises(ConfigError, match=r"holds the certificates of .*hospital-a, and .* of role auditor"):
        wallet.signer(NOW, Role.AUDITOR)
    with pytest.raises(
        ConfigError, match=r"identity\.pem: expired at .*`cloister certs issue` at the CA, into the same"
    ):
        wallet.signer(NOW + timedelta(days=731), Role.SILO)
    with pytest.raises(ConfigError, match=r"identity\.pem: is valid from .*Set this machine's clock"):
        wallet.signer(NOW - timedelta(days=1), Role.SILO)


@pytest.mark.parametrize("name", ["ca.pem", "tls.pem", "tls.key", "identity.pem", "identity.key"])
def test_check_names_a_missing_file_and_the_next_step(wallet, name):
    (wallet.folder / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name}: No such file.*Enrol"):
        wallet.check(NOW)


def test_check_names_a_key_that_others_may_read(wallet):
    (wallet.folder / "identity.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"identity.key: may be read by other accounts \(mode 0640\)"):
        wallet.check(NOW)


def test_check_names_wrong_ca_role_key_and_name(ca, wallet, tmp_path):
    with pytest.raises(ConfigError, match="runs as a party of role coordinator"):
        wallet.check(NOW, Role.COORDINATOR)
    other = make_wallet(ca, tmp_path, name="hospital-b")
    tls = wallet.folder / "tls.pem"
    good = tls.read_bytes()
    tls.write_bytes((other.folder / "tls.pem").read_bytes())
    with pytest.raises(ConfigError, match=r"tls.key: does not belong to tls.pem"):
        wallet.check(NOW)
    (wallet.folder / "tls.key").write_bytes((other.folder / "tls.key").read_bytes())
    with pytest.raises(ConfigError, match=r"tls.pem names .*hospital-b and identity.pem names .*hospital-a"):
        wallet.check(NOW)
    tls.write_bytes(good)
    (wallet.folder / "ca.pem").write_bytes(make_ca(tmp_path / "other").ca_pem)
    with pytest.raises(ConfigError, match=r"not issued by this federation's CA. Put the federation's own ca.pem"):
        wallet.check(NOW)
    (wallet.folder / "ca.pem").write_bytes(good)
    with pytest.raises(ConfigError, match="is not the certificate of a Cloister federation"):
        wallet.check(NOW)


def test_only_certificates_that_fit_are_installed(ca, tmp_path):
    wallet = Wallet.create(tmp_path / "new", ca.ca_pem, SILO)
    requests = wallet.requests()
    good = ca.issue(SILO, requests.tls, requests.identity, NOW)
    other = make_wallet(ca, tmp_path, name="hospital-b")
    foreign = (other.folder / "tls.pem").read_bytes()
    with pytest.raises(ProtocolError, match="is for another key than ours"):
        wallet.install(IssuedCertificates(foreign, good.identity), NOW)
    with pytest.raises(ProtocolError, match="not a certificate of the kind"):
        wallet.install(IssuedCertificates(good.identity, good.tls), NOW)
    with pytest.raises(ProtocolError, match="clock"):
        wallet.install(good, NOW - timedelta(days=1))
    assert not wallet.enrolled
    with pytest.raises(ConfigError, match=r"tls.pem: No such file"):
        wallet.check(NOW)
    assert wallet.install(good, NOW) == SILO
    with pytest.raises(ConfigError, match=r"already holds cloister://.*hospital-a. Choose another folder"):
        Wallet.create(tmp_path / "new", ca.ca_pem, PartyId(FEDERATION, Role.SILO, "hospital-b"))


def test_an_interrupted_enrolment_resends_the_same_bytes(ca, tmp_path):
    folder = tmp_path / "new"
    first = Wallet.create(folder, ca.ca_pem, SILO).requests()
    assert Wallet.create(folder, ca.ca_pem, SILO).requests() == first
    with pytest.raises(ConfigError, match="holds keys made for another party"):
        Wallet.create(folder, ca.ca_pem, PartyId(FEDERATION, Role.SILO, "hospital-b"))
    with pytest.raises(ConfigError, match=r"holds another federation's ca.pem"):
        Wallet.create(folder, make_ca(tmp_path / "other").ca_pem, SILO)


def test_an_expired_party_enrols_again_under_its_identity(ca, wallet):
    later, before = NOW + timedelta(days=60), wallet.identity().public_key
    with pytest.raises(ConfigError, match="expired"):
        wallet.check(later)
    again = Wallet.create(wallet.folder, ca.ca_pem, SILO)
    requests = again.requests()
    assert Wallet.create(wallet.folder, ca.ca_pem, SILO).requests() == requests
    assert wallet.check(NOW) == SILO  # until the answer is here, what there was stays
    again.install(ca.issue(SILO, requests.tls, requests.identity, later), later)
    assert wallet.check(later) == SILO
    assert wallet.identity().public_key == before
    assert not [path for path in wallet.folder.iterdir() if path.suffix in {".csr", ".next"}]


def crash_after(monkeypatch, writes):
    """Let the process die after that many durable writes of the wallet."""
    import certs.wallet as module

    real, left = module.write_durably, [writes]

    def write(*arguments):
        if left[0] == 0:
            raise SystemExit("killed")
        left[0] -= 1
        real(*arguments)

    monkeypatch.setattr(module, "write_durably", write)


@pytest.mark.parametrize("writes", range(7))
def test_enrolment_survives_a_crash_at_every_write(ca, tmp_path, monkeypatch, writes):
    folder, issued = tmp_path / "new", {}

    def enrol():
        wallet = Wallet.create(folder, ca.ca_pem, SILO)
        requests = wallet.requests()
        if issued:
            assert issued["requests"] == requests  # the token was used with these bytes
        issued.setdefault("requests", requests)
        answer = issued.setdefault("answer", ca.issue(SILO, requests.tls, requests.identity, NOW))
        wallet.install(answer, NOW)
        return wallet

    with monkeypatch.context() as patch:
        crash_after(patch, writes)
        with pytest.raises(SystemExit):
            enrol()
    assert enrol().check(NOW, Role.SILO) == SILO


def test_renewal_takes_a_fresh_key_and_keeps_the_identity(ca, wallet):
    before, key = wallet.identity().public_key, (wallet.folder / "tls.key").read_bytes()
    later = NOW + timedelta(days=25)
    assert not wallet.renewal_due(NOW)
    assert wallet.renewal_due(later)
    request = wallet.renewal_request()
    assert wallet.renewal_request() == request
    assert wallet.check(later) == SILO  # the old certificate serves until the new one is here
    wallet.install_renewal(ca.renew(SILO, request, later), later)
    assert wallet.check(NOW + timedelta(days=50)) == SILO
    assert wallet.identity().public_key == before
    assert (wallet.folder / "tls.key").read_bytes() != key
    assert wallet.renewal_request() != request


def test_renewal_survives_a_crash_between_certificate_and_key(ca, wallet, monkeypatch):
    from pathlib import Path

    request = wallet.renewal_request()
    answer = ca.renew(SILO, request, NOW)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(SystemExit("killed")))
        patch.setattr("certs.wallet.write_durably", lambda path, data, mode: path.write_bytes(data))
        with pytest.raises(SystemExit):
            wallet.install_renewal(answer, NOW)
    assert wallet.tls().certificate_pem == answer
    assert wallet.check(NOW) == SILO
    assert wallet.renewal_request() != request
    assert wallet.check(NOW) == SILO


@pytest.mark.parametrize("use", [Wallet.tls, lambda wallet: wallet.check(NOW)])
@pytest.mark.parametrize("half", [False, True])
def test_a_wallet_that_is_read_while_it_is_renewed_is_whole(ca, wallet, monkeypatch, use, half):
    """The renewal, in another process, ends between the reads of certificate and key; at first, or half-way through."""
    renewed, read, waiting = ca.renew(SILO, wallet.renewal_request(), NOW), certs.wallet._load_key, [True]
    if half:
        (wallet.folder / "tls.pem").write_bytes(renewed)  # its key still has the name tls.key.next

    def renew_first(path):
        if waiting:
            waiting.clear()
            wallet.install_renewal(renewed, NOW)
        return read(path)

    monkeypatch.setattr(certs.wallet, "_load_key", renew_first)
    use(wallet)
    assert not waiting
    assert wallet.tls().certificate_pem == renewed


def test_a_renewal_for_another_party_or_key_leaves_the_old_one(ca, wallet, tmp_path):
    request, before = wallet.renewal_request(), (wallet.folder / "tls.pem").read_bytes()
    other = make_wallet(ca, tmp_path, name="hospital-b")
    with pytest.raises(ProtocolError, match="is for another key than ours"):
        wallet.install_renewal((other.folder / "tls.pem").read_bytes(), NOW)
    auditor = PartyId(FEDERATION, Role.AUDITOR, "eve")
    with pytest.raises(ProtocolError, match="asks for other names"):
        ca.sign_tls(request, auditor, NOW)
    assert (wallet.folder / "tls.pem").read_bytes() == before
    assert wallet.check(NOW) == SILO


def test_fingerprints_are_for_reading_aloud():
    text = fingerprint(bytes(32))
    assert text.startswith("6668 7aad f862 bd77")
    assert len(text.split()) == 16
    assert parse_fingerprint(text.upper().replace(" ", ":") + " ") == text
    with pytest.raises(ConfigError, match="is not 64 hexadecimal digits"):
        parse_fingerprint("6668 7aad")


@pytest.mark.parametrize("writes", range(7))
def test_a_new_identity_key_survives_a_crash_at_every_write(ca, wallet, monkeypatch, writes):
    before, answers = wallet.identity().public_key, {}

    def change():
        Wallet.create(wallet.folder, ca.ca_pem, SILO, new_identity=True)
        requests = wallet.requests()
        answer = answers.setdefault(requests, ca.issue(SILO, requests.tls, requests.identity, NOW))
        offered = wallet.offered(answer, NOW).public_key
        wallet.install(answer, NOW)
        return offered

    with monkeypatch.context() as patch:
        crash_after(patch, writes)
        with pytest.raises(SystemExit):
            change()
    if (wallet.folder / "identity.key.next").exists() and wallet.identity().public_key == before:
        with pytest.raises(ConfigError, match="a change of the identity key was interrupted"):
            wallet.check(NOW)
    new = change()
    assert wallet.check(NOW, Role.SILO) == SILO
    assert wallet.identity().public_key == new != before
    assert wallet.settle() == [], "nothing is left over"
