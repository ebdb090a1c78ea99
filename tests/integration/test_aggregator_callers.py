"""Who calls the aggregator: every method and role, one silo that takes what it can get, and one that is revoked."""

import io
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cloister import wire
from cloister.v1 import coordination_pb2, enrolment_pb2, federation_pb2
from cryptography import x509

from aggregator import coordination, runner, server, service
from aggregator.config import StateFolder
from aggregator.server import HEALTH, running
from certs.ca import CertificateAuthority
from certs.names import PartyId, Role
from certs.verify import Kind
from certs.wallet import Wallet
from privacy.errors import CloisterError, Refused, Unavailable
from runtime.channels import open_channel
from runtime.logs import configure_logs
from runtime.status import peer_call
from tests.pki import odd_tls
from tests.scripted import FEDERATION, Cast, ScriptedSilo, found_aggregator, make_cast

ALLOWED = service.ROLES | coordination.ROLES | HEALTH
CALL_S = 20.0


@pytest.fixture(name="cast")
def _cast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cast]:
    """Sixteen workers, three silos, one job; streams and the wallet are looked at again all the time."""
    configure_logs(stream=io.StringIO())
    monkeypatch.setattr(server, "RENEWAL_CHECK_S", 0.1)
    monkeypatch.setattr(runner, "RECHECK_S", 0.1)
    state = found_aggregator(tmp_path / "aggregator", workers=16, upload_stall_s=300.0)
    with running(state):
        cast = make_cast(tmp_path, state)
        with cast.coordinator() as coordinator:
            coordinator.submit(cast.write_job(tmp_path / "job"))
        yield cast
        cast.close()


def wallet_of(state: StateFolder, folder: Path, role: Role, name: str) -> Wallet:
    """As `cloister certs issue` makes it."""
    authority, now = CertificateAuthority.load(state.ca), datetime.now(UTC)
    wallet = Wallet.create(folder, authority.ca_pem, PartyId(FEDERATION, role, name))
    requests, party = wallet.requests(), PartyId(FEDERATION, role, name)
    wallet.install(authority.issue(party, requests.tls, requests.identity, now, ()), now)
    return wallet


def denied(channel: grpc.Channel, method: str) -> bool:
    """Whether the role was the reason that a call, which is no good otherwise either, came to nothing."""
    call = channel.unary_stream(method)(b"", timeout=CALL_S)
    try:
        with peer_call(method):
            next(call, None)
    except Refused as error:
        return "may not make it" in error.why
    except CloisterError:
        return False
    finally:
        call.cancel()
    return False


def test_every_method_is_for_named_roles() -> None:
    served = {
        f"/{each.full_name}/{method.name}"
        for file in (federation_pb2, coordination_pb2)
        for each in file.DESCRIPTOR.services_by_name.values()
        for method in each.methods
    }
    assert served | set(HEALTH) == set(ALLOWED)
    assert [each.name for each in enrolment_pb2.DESCRIPTOR.services_by_name["EnrolmentService"].methods] == ["Enrol"]
    assert all(Role.AGGREGATOR not in roles for method, roles in ALLOWED.items() if method not in HEALTH)


@pytest.mark.parametrize("role", [Role.SILO, Role.COORDINATOR, Role.AUDITOR])
def test_every_method_and_role(cast: Cast, tmp_path: Path, role: Role) -> None:
    wallet = cast.all[0].wallet if role is Role.SILO else wallet_of(cast.state, tmp_path / role, role, "somebody")
    with open_channel(cast.all[0].address, wallet, datetime.now(UTC)) as channel:
        found = {method for method in ALLOWED if not denied(channel, method)}
        assert found == {method for method, roles in ALLOWED.items() if role in roles}
        assert denied(channel, "/grpc.health.v1.Health/Watch")


def test_an_aggregators_certificate_calls_nothing(cast: Cast) -> None:
    """TLS ends the connection of one that serves only; one that the CA made for a client is refused by its role."""
    authority = CertificateAuthority.load(cast.state.ca)
    party = PartyId(FEDERATION, Role.AGGREGATOR, "odd")
    odd = odd_tls(authority, [x509.UniformResourceIdentifier(party.uri)], Role.AGGREGATOR, datetime.now(UTC))
    for own, why in ((Wallet(cast.state.wallet).tls(), "ended the connection"), (odd, "lacks the TLS usage")):
        credentials = grpc.ssl_channel_credentials(own.ca_pem, own.key_pem, own.certificate_pem)
        with grpc.secure_channel(cast.all[0].address, credentials) as channel:
            for method in ALLOWED:
                with pytest.raises(Unavailable, match=why), peer_call(method):
                    next(channel.unary_stream(method)(b"", timeout=CALL_S))


def test_many_streams_of_one_silo_keep_nobody_out(cast: Cast) -> None:
    greedy = [ScriptedSilo("silo-a", cast.all[0].wallet, cast.all[0].address, cast.plan) for _ in range(16)]
    streams = []
    for silo in greedy:
        streams.append(silo.follow())
        assert next(streams[-1]).job == cast.plan.digest()
    for silo in cast.all[1:]:
        assert silo.job_view().plan == cast.plan.encode()
    for stream in streams[:-1]:
        with pytest.raises(Unavailable):
            next(stream)
    assert [silo.connected for silo in cast.status().silos] == [True, False, False]
    for silo in greedy:
        silo.close()


def test_a_revoked_silo_is_cut_off_and_not_waited_for(cast: Cast) -> None:
    silo = cast.silos["silo-a"]
    notices = silo.follow()
    next(notices)
    with cast.coordinator() as coordinator:
        changes = coordinator.watch()
        assert next(changes).silos[0].connected
        CertificateAuthority.load(cast.state.ca).revoke(silo.wallet.party, datetime.now(UTC))
        with pytest.raises(Unavailable):
            for _ in notices:
                pass
        assert not next(change for change in changes if not change.silos[0].connected).silos[0].connected
    with pytest.raises(Unavailable, match="has been revoked"):
        silo.job_view()


def test_a_revoked_coordinator_watches_no_more(cast: Cast) -> None:
    with cast.coordinator() as coordinator:
        changes = coordinator.watch()
        next(changes)
        authority = CertificateAuthority.load(cast.state.ca)
        authority.revoke(Wallet(cast.state.coordinator).party, datetime.now(UTC))
        with pytest.raises(Unavailable):
            next(changes)


def test_a_renewed_certificate_is_used_and_streams_go_on(cast: Cast) -> None:
    silo, own, now = cast.silos["silo-a"], Wallet(cast.state.wallet), datetime.now(UTC)
    notices = silo.follow()
    next(notices)
    own.install_renewal(CertificateAuthority.load(cast.state.ca).renew(own.party, own.renewal_request(), now), now)
    renewed = own.leaf(Kind.TLS).serial
    for port in map(int, cast.state.ready.read_text().split()):
        while shown(port) != renewed:
            threading.Event().wait(0.05)
    with cast.coordinator() as coordinator:  # over a new connection; the notices still come over the old one
        coordinator.cancel(cast.plan.digest())
    assert next(notices).job_phase is wire.JobPhase.CANCELLED


def shown(port: int) -> int:
    """The number of the certificate that a port shows; 0 while nobody listens."""
    try:
        pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=CALL_S)
    except OSError:
        return 0
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_later_uploads_of_one_silo_end_its_earlier_ones(cast: Cast) -> None:
    """Uploads that stand still, all of one silo, hold neither the places nor the threads that the others need."""
    cast.deal()
    for silo in cast.all:
        silo.join_round()
    greedy, let_go, ended = cast.silos["silo-a"], threading.Event(), threading.Semaphore(0)
    header = greedy.header(cast.update_of("silo-a"))

    def stalled() -> Iterator[object]:
        yield wire.UpdatePart(header=header).encode()
        let_go.wait(CALL_S)

    copies = [ScriptedSilo("silo-a", greedy.wallet, greedy.address, cast.plan) for _ in range(12)]
    for silo in copies:
        silo.stub.SubmitUpdate.future(stalled(), timeout=300).add_done_callback(lambda _: ended.release())
    for _ in copies[1:]:
        assert ended.acquire(timeout=CALL_S)
    for name in ("silo-b", "silo-c"):
        cast.silos[name].submit(cast.update_of(name))
    greedy.withdraw()
    assert ended.acquire(timeout=CALL_S)  # the round went on without it
    assert cast.status().round_phase is wire.RoundPhase.FINGERPRINTING
    let_go.set()
    for silo in copies:
        silo.close()
