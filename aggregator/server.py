"""Puts the aggregator together and runs it: one state folder, two ports, until it is told to stop."""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import grpc
import structlog
from cloister.v1 import coordination_pb2_grpc, enrolment_pb2_grpc, federation_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from aggregator import coordination, service
from aggregator.blobs import Blobs
from aggregator.config import AggregatorConfig, StateFolder
from aggregator.coordinator import CoordinatorDesk
from aggregator.enrolment import EnrolmentService, enter_member
from aggregator.invitations import Invitations
from aggregator.metrics import AggregatorMetrics
from aggregator.model import ModelDesk
from aggregator.reading import ReadingDesk
from aggregator.renewal import renew_own
from aggregator.runner import Runner
from aggregator.slots import UploadSlots
from aggregator.statements import StatementDesk
from aggregator.store import Store
from aggregator.witnessing import WitnessDesk
from certs.ca import CertificateAuthority
from certs.enrolment import EnrolmentDesk, Issuing
from certs.names import Role
from certs.queue import RequestQueue
from certs.wallet import Wallet
from privacy.ckks import multikey_layout
from privacy.ckks.fingerprint import warm_up
from privacy.ckks.layout import Layout
from privacy.ckks.multikey_layout import MultikeyLayout
from privacy.ckks.multikey_params import MultikeyParams
from privacy.errors import ConfigError
from runtime.channels import RevocationFile, enrolment_credentials, new_server, server_credentials
from runtime.files import StateLock, write_durably
from runtime.interceptors import PeerInterceptor, ShareInterceptor, StatusInterceptor, Tls13Interceptor
from runtime.listening import ServerPort

LOG = structlog.get_logger("aggregator")
STOP_S = 5.0
RENEWAL_CHECK_S = 60.0  # how soon a renewed certificate is used
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h
ENROLMENT_WORKERS = 4
LEAST_SHARE = 4  # calls that one party may have open at once, of few workers
HEALTH = {f"/grpc.health.v1.Health/{method}": frozenset(Role) for method in ("Check", "List")}  # Watch holds a thread


@dataclass(frozen=True)
class Listening:
    """Where a running aggregator answers."""

    port: int
    enrolment_port: int
    runner: Runner


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


def open_store(state: StateFolder, config: AggregatorConfig) -> Store:
    """The aggregator's database. Raises ConfigError when it is damaged, locked, or of a newer version."""
    return Store.open(config.database or state.database)


def issuing_of(state: StateFolder) -> Issuing:
    """The CA in the state folder or, if its key is kept elsewhere, its queue."""
    if (state.ca / "ca.key").exists():
        return CertificateAuthority.load(state.ca)
    return RequestQueue(state.queue, Wallet(state.wallet).ca_pem)


def open_desk(state: StateFolder, config: AggregatorConfig, store: Store) -> EnrolmentDesk:
    """The enrolment desk."""
    address = config.enrolment_public_address or config.enrolment_listen
    return EnrolmentDesk(issuing_of(state), Invitations(store.engine), address, config.name)


def check_federation(config: AggregatorConfig, wallet: Wallet, now: datetime) -> None:
    """The wallet is this aggregator's. Raises ConfigError otherwise."""
    party = wallet.check(now, Role.AGGREGATOR)
    if (party.federation, party.name) != (config.federation, config.name):
        why = f"is for {party.uri}, and aggregator.toml says {config.name} of {config.federation}"
        raise ConfigError(f"folder {wallet.folder}", why, "Correct aggregator.toml, or issue this aggregator's wallet.")


@contextmanager
def running(state: StateFolder, clock: Callable[[], datetime] = utc_now) -> Iterator[Listening]:
    """An aggregator on this state folder, stopped when the block is left.

    Raises ConfigError when the folder is in use, a port is taken, a certificate cannot be used, or the database or its
    ledger is not as it must be. Nothing is served before everything was rebuilt.
    """
    config = state.load()
    with ExitStack() as stack:
        stack.enter_context(StateLock(state.root))
        renew_own(state, clock())
        wallet = Wallet(state.wallet)
        check_federation(config, wallet, clock())
        store = open_store(state, config)
        stack.callback(store.close)
        identity = wallet.identity()
        enter_member(store, identity.certificate_pem, wallet.ca_pem, clock())
        blobs = Blobs(state.blobs)
        blobs.make()
        runner = Runner(
            store,
            blobs,
            identity,
            clock,
            grace_s=config.restart_grace_s,
            keep_s=config.keep_finished_s,
            hourly=partial(renew_own, state),
        )
        runner.resume()
        if config.metrics_port:
            stack.callback(AggregatorMetrics(runner).serve(config.metrics_port))
        yield stack.enter_context(_serving(state, config, wallet, runner, clock))


@contextmanager
def _serving(
    state: StateFolder, config: AggregatorConfig, wallet: Wallet, runner: Runner, clock: Callable[[], datetime]
) -> Iterator[Listening]:
    desk = open_desk(state, config, runner.store)
    federation = ServerPort(
        _federation_servers(state, config, wallet, runner, desk), server_credentials, config.listen, wallet
    )
    enrolment = ServerPort(
        _enrolment_servers(config, wallet, runner, desk), enrolment_credentials, config.enrolment_listen, wallet
    )
    port, enrolment_port = federation.bind(clock()), enrolment.bind(clock())
    runner.start()
    federation.start()
    enrolment.start()
    write_durably(state.ready, f"{port} {enrolment_port}\n".encode())
    LOG.info("aggregator listens", address=config.listen, port=port, federation=config.federation)
    try:
        with _renewing((federation, enrolment), clock):
            yield Listening(port, enrolment_port, runner)
    finally:
        state.ready.unlink(missing_ok=True)
        ended = [*federation.stop(STOP_S), *enrolment.stop(STOP_S)]
        runner.stop()
        for end in ended:
            end.wait()
        LOG.info("aggregator stopped")


@contextmanager
def _renewing(ports: tuple[ServerPort, ...], clock: Callable[[], datetime]) -> Iterator[None]:
    """While the block runs, the ports answer with the certificate that the wallet then holds."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(RENEWAL_CHECK_S):
            for port in ports:
                try:
                    port.renew(clock())
                except Exception:  # whatever it was, it is tried again
                    LOG.exception("a renewed certificate is not used yet")

    following = threading.Thread(target=work, name="renewal", daemon=True)
    following.start()
    try:
        yield
    finally:
        ended.set()
        following.join()


def _federation_servers(
    state: StateFolder, config: AggregatorConfig, wallet: Wallet, runner: Runner, desk: EnrolmentDesk
) -> Callable[[], grpc.Server]:
    """Makes the servers of the federation port; what they count and guard by is one for all."""
    roles = service.ROLES | coordination.ROLES | HEALTH
    revoked = RevocationFile(state.ca / "crl.pem", wallet.ca_pem)
    peers = PeerInterceptor(wallet.ca_pem, roles, revoked, runner.clock)
    shares = ShareInterceptor(max(LEAST_SHARE, config.workers // 8))
    slots = UploadSlots(config.uploads_at_once, config.upload_stall_s)
    silos = service.FederationService(
        runner,
        ReadingDesk(runner),
        StatementDesk(runner),
        ModelDesk(runner),
        WitnessDesk(runner),
        desk,
        slots,
        peers.check_caller,
    )
    desk_of_coordinators = CoordinatorDesk(runner, max_artifact_bytes=config.max_artifact_bytes)
    coordinators = coordination.CoordinationService(runner, desk_of_coordinators, peers.check_caller)
    answering = health.HealthServicer()
    answering.set("", health_pb2.HealthCheckResponse.SERVING)

    def make() -> grpc.Server:
        server = new_server([StatusInterceptor(), peers, shares], config.workers)
        federation_pb2_grpc.add_FederationServiceServicer_to_server(silos, server)
        coordination_pb2_grpc.add_CoordinationServiceServicer_to_server(coordinators, server)
        health_pb2_grpc.add_HealthServicer_to_server(answering, server)
        return server

    return make


def _enrolment_servers(
    config: AggregatorConfig, wallet: Wallet, runner: Runner, desk: EnrolmentDesk
) -> Callable[[], grpc.Server]:
    servicer = EnrolmentService(
        desk,
        runner.store,
        ca_pem=wallet.ca_pem,
        own_identity_pem=wallet.identity().certificate_pem,
        address=config.public_address or config.listen,
        clock=runner.clock,
    )

    def make() -> grpc.Server:
        server = new_server([StatusInterceptor(), Tls13Interceptor()], ENROLMENT_WORKERS)
        enrolment_pb2_grpc.add_EnrolmentServiceServicer_to_server(servicer, server)
        return server

    return make


def return_freed_memory() -> None:
    """Tell glibc to give chunks of a megabyte back when they are freed, and threads to share heaps.

    Else every thread that once passed a chunk on keeps room for several: memory would grow with the number of silos.
    Without effect where the C library has no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, 256 << 10)


def run_until_signalled(state: StateFolder) -> None:
    """Run until SIGTERM or SIGINT. The first ends it in order; what was accepted is on disk in any case."""
    return_freed_memory()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    warm_up(Layout(1))
    params = MultikeyParams("small", 3, 16)
    multikey_layout.warm_up(params)
    warm_up(MultikeyLayout(1, params))
    with running(state):
        stop.wait()
