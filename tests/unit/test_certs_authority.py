"""The CA: what it signs, what it refuses, what it remembers."""

import base64
import stat
import threading
from contextlib import suppress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs import ca as authority
from certs.ca import CertificateAuthority
from certs.names import PartyId, Role
from certs.profile import DOCUMENT_SIGNING, signing_request
from certs.registry import RegistryFile
from certs.verify import (
    CertificateFlaw,
    Kind,
    check_identity_certificate,
    load_ca,
    read_leaf,
    read_revocations,
    read_unvouched,
)
from privacy.errors import ConfigError, ProtocolError, Refused
from tests.pki import FEDERATION, HOSTS, NOW, check_leaf, make_ca, make_wallet

SILO = PartyId(FEDERATION, Role.SILO, "hospital-a")


def pem(request):
    return request.public_bytes(Encoding.PEM)


def tls_request(party=SILO):
    return pem(signing_request(ec.generate_private_key(ec.SECP256R1()), party))


def identity_request(party=SILO):
    return pem(signing_request(Ed25519PrivateKey.generate(), party))


@pytest.fixture
def ca(tmp_path):
    return make_ca(tmp_path)


def test_names_are_strict_and_reversible():
    assert PartyId.parse(SILO.uri) == SILO
    for uri in (
        "cloister://heart-study/silo/Hospital",
        "cloister://heart-study/king/a",
        "cloister://heart-study/silo/a\n",
        "cloister://heart-study/silo/a/",
        "https://heart-study/silo/a",
        "cloister:///silo/a",
    ):
        with pytest.raises(ProtocolError, match="is not cloister://"):
            PartyId.parse(uri)
    with pytest.raises(ConfigError, match="name 'Hospital A': is not a name"):
        PartyId(FEDERATION, Role.SILO, "Hospital A")


def test_leaves_have_the_profile(ca):
    silo = x509.load_pem_x509_certificate(ca.sign_tls(tls_request(), SILO, NOW))
    usage = silo.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = silo.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(SILO.uri)]
    assert silo.not_valid_after_utc == NOW + timedelta(days=30)
    assert NOW - timedelta(hours=1) < silo.not_valid_before_utc < NOW

    party = PartyId(FEDERATION, Role.AGGREGATOR, "hub")
    hub = x509.load_pem_x509_certificate(ca.sign_tls(tls_request(party), party, NOW, HOSTS))
    assert list(hub.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    names = hub.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]

    identity = x509.load_pem_x509_certificate(ca.sign_identity(identity_request(), SILO, NOW))
    assert list(identity.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [DOCUMENT_SIGNING]
    assert identity.not_valid_after_utc == NOW + timedelta(days=730)


def test_checks_accept_what_was_issued_and_name_the_party(ca):
    assert check_leaf(ca.sign_tls(tls_request(), SILO, NOW), ca.ca_pem, NOW) == SILO
    key = Ed25519PrivateKey.generate()
    certificate = ca.sign_identity(pem(signing_request(key, SILO)), SILO, NOW)
    assert check_identity_certificate(certificate, ca.ca_pem, NOW) == (SILO, key.public_key().public_bytes_raw())


def test_checks_name_each_flaw(ca, tmp_path):
    leaf, identity = ca.sign_tls(tls_request(), SILO, NOW), ca.sign_identity(identity_request(), SILO, NOW)
    other = make_ca(tmp_path / "other")
    with pytest.raises(ProtocolError, match="expired at 2026-03-31"):
        check_leaf(leaf, ca.ca_pem, NOW + timedelta(days=31))
    with pytest.raises(ProtocolError, match=r"is valid from .* Compare the clocks"):
        check_leaf(leaf, ca.ca_pem, NOW - timedelta(days=1))
    with pytest.raises(ProtocolError, match="not issued by this federation's CA"):
        check_leaf(leaf, other.ca_pem, NOW)
    with pytest.raises(ProtocolError, match="not a certificate of the kind 'tls'"):
        check_leaf(identity, ca.ca_pem, NOW)
    with pytest.raises(ProtocolError, match="not a certificate of the kind 'identity'"):
        check_identity_certificate(leaf, ca.ca_pem, NOW)
    with pytest.raises(ProtocolError, match="not one certificate in PEM form"):
        check_leaf(leaf + leaf, ca.ca_pem, NOW)
    with pytest.raises(ProtocolError, match=r"names no party|does not say"):
        check_leaf(ca.ca_pem, ca.ca_pem, NOW)


@pytest.mark.parametrize("byte", [40, 200, 350, 500])
def test_a_changed_byte_is_never_accepted(ca, byte):
    der = bytearray(x509.load_pem_x509_certificate(ca.sign_tls(tls_request(), SILO, NOW)).public_bytes(Encoding.DER))
    der[byte % len(der)] ^= 1
    try:
        text = x509.load_der_x509_certificate(bytes(der)).public_bytes(Encoding.PEM)
    except ValueError:
        return
    with pytest.raises(ProtocolError):
        check_leaf(text, ca.ca_pem, NOW)


def test_the_ca_decides_the_name_not_the_request(ca):
    other = PartyId(FEDERATION, Role.SILO, "hospital-b")
    with pytest.raises(ProtocolError, match=f"asks for other names than {other.uri}"):
        ca.sign_tls(tls_request(SILO), other, NOW)
    nameless = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = pem(nameless.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()))
    assert check_leaf(ca.sign_tls(request, other, NOW), ca.ca_pem, NOW) == other


def test_bad_requests_are_refused(ca):
    with pytest.raises(ProtocolError, match="is not for a P-256 key"):
        ca.sign_tls(identity_request(), SILO, NOW)
    with pytest.raises(ProtocolError, match="is not for an Ed25519 key"):
        ca.sign_identity(tls_request(), SILO, NOW)
    with pytest.raises(ProtocolError, match="is not for a P-256 key"):
        ca.sign_tls(pem(signing_request(ec.generate_private_key(ec.SECP384R1()), SILO)), SILO, NOW)
    with pytest.raises(ProtocolError, match="is not a PKCS #10 request"):
        ca.sign_tls(b"garbage", SILO, NOW)
    broken = bytearray(x509.load_pem_x509_csr(identity_request()).public_bytes(Encoding.DER))
    broken[-1] ^= 1
    with pytest.raises(ProtocolError, match="not signed by the key it names"):
        ca.sign_identity(pem(x509.load_der_x509_csr(bytes(broken))), SILO, NOW)


def test_host_names_are_for_aggregators_and_needed_there(ca):
    hub = PartyId(FEDERATION, Role.AGGREGATOR, "hub")
    with pytest.raises(ConfigError, match="only an aggregator listens"):
        ca.sign_tls(tls_request(), SILO, NOW, HOSTS)
    with pytest.raises(ConfigError, match="must carry the host names"):
        ca.sign_tls(tls_request(hub), hub, NOW)
    with pytest.raises(ConfigError, match="host 'https://x': is neither a DNS name"):
        ca.sign_tls(tls_request(hub), hub, NOW, ("https://x",))


def test_another_federations_party_is_refused(ca):
    with pytest.raises(ConfigError, match="this is the CA of federation heart-study"):
        ca.sign_tls(tls_request(), PartyId("lung-study", Role.SILO, "a"), NOW)


@pytest.mark.parametrize("first", [Role.SILO, Role.AGGREGATOR])
def test_a_silo_and_an_aggregator_of_one_name_would_have_one_ledger(ca, first):
    second = Role.AGGREGATOR if first is Role.SILO else Role.SILO
    hosts = {Role.SILO: (), Role.AGGREGATOR: HOSTS}
    party = PartyId(FEDERATION, first, "mercy")
    ca.issue(party, tls_request(party), identity_request(party), NOW, hosts[first])
    ca.revoke(party, NOW)
    namesake = PartyId(FEDERATION, second, "mercy")
    before = ca.issued()
    with pytest.raises(Refused, match=rf"certificate for {namesake.uri}: {party.uri} has that name"):
        ca.issue(namesake, tls_request(namesake), identity_request(namesake), NOW, hosts[second])
    assert ca.issued() == before
    auditor = PartyId(FEDERATION, Role.AUDITOR, "mercy")
    ca.sign_identity(identity_request(auditor), auditor, NOW)
    ca.issue(party, tls_request(party), identity_request(party), NOW, hosts[first])


def test_the_folder_is_private_and_reopens(ca, tmp_path):
    key = tmp_path / "ca" / "ca.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    again = CertificateAuthority.load(tmp_path / "ca")
    assert again.ca_pem == ca.ca_pem
    assert again.federation == FEDERATION
    key.chmod(0o644)
    with pytest.raises(ConfigError, match=r"may be read by other accounts \(mode 0644\).*chmod 600"):
        CertificateAuthority.load(tmp_path / "ca")


def test_a_ca_is_never_overwritten_and_a_mixed_one_not_opened(ca, tmp_path):
    with pytest.raises(ConfigError, match="already holds a certificate authority"):
        make_ca(tmp_path)
    other = make_ca(tmp_path / "other")
    (tmp_path / "ca" / "ca.pem").write_bytes(other.ca_pem)
    with pytest.raises(ConfigError, match="do not belong together"):
        CertificateAuthority.load(tmp_path / "ca")
    with pytest.raises(ConfigError, match="Name the folder that"):
        CertificateAuthority.load(tmp_path / "nowhere")


def test_revocation_is_signed_and_stops_renewal(ca, tmp_path):
    make_wallet(ca, tmp_path)
    crl = tmp_path / "ca" / "crl.pem"
    assert read_revocations(crl.read_bytes(), load_ca(ca.ca_pem)) == frozenset()
    assert ca.revoke(SILO, NOW) == 2
    assert read_revocations(crl.read_bytes(), load_ca(ca.ca_pem)) == {entry.serial for entry in ca.issued()}
    with pytest.raises(ConfigError, match="holds no certificate that is still good"):
        ca.revoke(SILO, NOW)
    with pytest.raises(Refused, match="expired or was revoked"):
        ca.renew(SILO, tls_request(), NOW)
    other = make_ca(tmp_path / "other")
    with pytest.raises(ConfigError, match="not signed by this federation's CA"):
        read_revocations(other.crl(NOW), load_ca(ca.ca_pem))


def test_renewal_keeps_the_host_names(ca, tmp_path):
    make_wallet(ca, tmp_path, Role.AGGREGATOR, "hub")
    hub = PartyId(FEDERATION, Role.AGGREGATOR, "hub")
    later = NOW + timedelta(days=40)  # its first leaf has expired and left the register
    certificate = x509.load_pem_x509_certificate(ca.renew(hub, tls_request(hub), later))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert "localhost" in str(x509.load_pem_x509_certificate(ca.sign_tls(tls_request(hub), hub, later)).extensions)
    with pytest.raises(Refused, match="Enrol it again"):
        ca.renew(SILO, tls_request(), NOW)


def test_a_revocation_that_races_a_renewal_revokes_the_new_leaf_too(ca, tmp_path, monkeypatch):
    make_wallet(ca, tmp_path)
    revoking = threading.Thread(target=ca.revoke, args=(SILO, NOW))
    sign = authority.tls_certificate

    def signed_while_revoked(*arguments):
        revoking.start()
        revoking.join(0.3)  # it has to wait: this renewal was found in order
        return sign(*arguments)

    monkeypatch.setattr(authority, "tls_certificate", signed_while_revoked)
    leaf = x509.load_pem_x509_certificate(ca.renew(SILO, tls_request(), NOW))
    revoking.join()
    assert all(entry.revoked_utc is not None for entry in ca.issued())
    crl = read_revocations((tmp_path / "ca" / "crl.pem").read_bytes(), load_ca(ca.ca_pem))
    assert leaf.serial_number in crl


def test_a_crash_while_revoking_is_mended_by_revoking_again(ca, tmp_path, monkeypatch):
    make_wallet(ca, tmp_path)

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RegistryFile, "write", crash)
        with pytest.raises(KeyboardInterrupt):
            ca.revoke(SILO, NOW)
    assert len(read_revocations((tmp_path / "ca" / "crl.pem").read_bytes(), load_ca(ca.ca_pem))) == 2
    assert ca.revoke(SILO, NOW) == 2


def test_a_party_gets_some_renewals_and_not_without_end(ca, tmp_path, monkeypatch):
    monkeypatch.setattr(authority, "MOST_YOUNG", 3)
    make_wallet(ca, tmp_path)
    other = PartyId(FEDERATION, Role.SILO, "hospital-b")
    make_wallet(ca, tmp_path, Role.SILO, "hospital-b")
    for _ in range(2):  # the answers were lost
        ca.renew(SILO, tls_request(), NOW)
    with pytest.raises(Refused, match="given 3 TLS certificates that are not half through"):
        ca.renew(SILO, tls_request(), NOW + timedelta(days=14))
    ca.renew(other, tls_request(other), NOW)
    ca.renew(SILO, tls_request(), NOW + timedelta(days=16))
    assert len([entry for entry in ca.issued() if entry.uri == SILO.uri and entry.kind is Kind.TLS]) == 4


def test_a_damaged_register_is_not_guessed_at(ca, tmp_path):
    (tmp_path / "ca" / "registry.json").write_bytes(b'{"version": "x"}')
    with pytest.raises(ConfigError, match=r"registry.json: is damaged"):
        ca.issued()


def test_leaves_do_not_outlive_the_ca(ca):
    near_end = NOW + timedelta(days=3640)
    leaf = x509.load_pem_x509_certificate(ca.sign_tls(tls_request(), SILO, near_end))
    assert leaf.not_valid_after_utc == NOW + timedelta(days=3650)
    with pytest.raises(ConfigError, match="the CA certificate: has expired"):
        ca.sign_tls(tls_request(), SILO, NOW + timedelta(days=3651))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_certificate_or_request_with_any_byte_changed_is_refused_or_the_same(ca):
    """Not with what the library raises for odd versions, unknown algorithms or doubled extensions."""
    certificate, request = (
        x509_bytes(text) for text in (ca.sign_identity(identity_request(), SILO, NOW), tls_request())
    )
    issuer = load_ca(ca.ca_pem)
    sound = read_leaf(armoured("CERTIFICATE", certificate), issuer, Kind.IDENTITY)
    for place in range(len(certificate)):
        for flip in (0x01, 0x20, 0x80):
            changed = armoured("CERTIFICATE", flipped(certificate, place, flip))
            with suppress(CertificateFlaw):  # DER has a byte that says how many bits of the signature are none
                assert read_leaf(changed, issuer, Kind.IDENTITY) == sound
            with suppress(CertificateFlaw):  # nobody vouches for it: some changes make another name or key
                read_unvouched(changed, Kind.IDENTITY)
    for place in range(len(request)):
        with suppress(ProtocolError):
            ca.sign_tls(armoured("CERTIFICATE REQUEST", flipped(request, place, 0x20)), SILO, NOW)


def x509_bytes(text):
    return base64.b64decode(b"".join(text.splitlines()[1:-1]))


def armoured(label, der):
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n".encode()


def flipped(data, place, bits):
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]
