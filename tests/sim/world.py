"""A federation in memory: a CA, an aggregator and silos with real keys and real state folders, one thread, one clock.

Everything that decides is the product's own: both round machines, both stores, the wire, the ciphertexts. A silo or the
aggregator can be cut off at its n-th durable write; `run` then boots it again from what is on disk.
"""

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from cloister import wire

from aggregator.blobs import Blobs
from aggregator.config import StateFolder
from aggregator.coordinator import CoordinatorDesk
from aggregator.enrolment import enter_member
from aggregator.model import ModelDesk
from aggregator.presence import Stream
from aggregator.reading import ReadingDesk
from aggregator.runner import Runner
from aggregator.server import open_store
from aggregator.service import FederationService
from aggregator.setup import Founding, found
from aggregator.slots import UploadSlots
from aggregator.statements import StatementDesk
from aggregator.store import Store
from aggregator.witnessing import WitnessDesk
from certs.ca import CertificateAuthority
from certs.identity import fingerprint
from certs.invitation import Invitation
from certs.names import PartyId, Role
from certs.requests import CertificateRequests, IssuedCertificates
from certs.wallet import Wallet
from privacy.errors import CloisterError, Unavailable
from privacy.flatten import adapter_digest
from privacy.plan import Cohort, Deadlines, Grid, JobPlan, RosterMember
from privacy.suites import Suite, usual_parameters
from privacy.tasks import Rehearsal
from runtime.ledger_store import Ledger
from silo_agent.client import GrpcAggregator
from silo_agent.home import Home
from silo_agent.jobs import JobState, find_job
from silo_agent.participation import Participation
from silo_agent.peers import trust_peer
from silo_agent.status import StatusBoard
from silo_agent.tables import LEDGER
from tests.showing import TO_NOBODY
from tests.sim.memory import Faults, MemoryChannel, PowerCut

VALUES = 300
UPDATE_RANGE = 1.0
TURNS = 200
START = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


class SimSilo:
    """One silo: its folder, and the agent of the moment."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.party = PartyId(world.federation, Role.SILO, name)
        self.state = world.folder / name
        self.writes: list[str] = []
        self.cut_at: int | None = None
        self.off_after: str | None = None
        self.up = True
        self.participation: Participation | None = None
        self.home: Home | None = None

    def boot(self) -> None:
        """Start the agent from its folder, as after a power cut."""
        if self.home is not None:
            self.home.store.close()
        self.home = Home.open(self.state, {})
        self.home.store.check()
        channel: Any = MemoryChannel(self.world.serve, self.party, self.world.faults)
        board = StatusBoard(self.state, self.name, self.world.clock)
        port = GrpcAggregator(lambda: channel)
        self.participation = Participation(
            self.home, port, self.world.job, board, clock=self.world.clock, durably=self._durably, showing=TO_NOBODY
        )
        self.world.connected(self.name)

    def _durably(self, what: str) -> None:
        self.writes.append(what)
        if len(self.writes) == self.cut_at or what == self.off_after:
            raise PowerCut

    def advance(self) -> None:
        """One look at the job; a power cut is followed by a boot, unless the machine is to stay off."""
        assert self.participation is not None
        try:
            self.participation.advance()
        except Unavailable:
            pass
        except CloisterError as error:
            self.world.complained(self.name, error)
        except PowerCut:
            stays_off, self.cut_at, self.off_after = self.off_after is not None, None, None
            if stays_off:
                self.world.leave(self.name)
            else:
                self.world.disconnected(self.name)
                self.boot()

    @property
    def job_state(self) -> JobState | None:
        assert self.home is not None
        with self.home.store.reading() as connection:
            record = find_job(connection, self.world.job)
        return None if record is None else record.state

    @property
    def adapter(self) -> tuple[int, np.ndarray]:
        """The number of the round it came from, and the values."""
        assert self.home is not None
        with self.home.store.reading() as connection:
            record = find_job(connection, self.world.job)
        assert record is not None
        if record.adapter_round == 0:
            return 0, np.zeros(self.world.values, np.float32)
        path = self.state / "artifacts" / self.world.job.hex() / f"adapter-{record.adapter_round}.f32"
        vector = np.fromfile(path, "<f4")
        assert adapter_digest(vector) == record.adapter_digest
        return record.adapter_round, vector

    def check_ledger(self) -> None:
        """The ledger on disk is whole. Raises VerificationError."""
        assert self.home is not None
        with self.home.store.reading() as connection:
            Ledger(connection, LEDGER).check()


class World:
    """The federation. `submit` a plan, then `run`."""

    federation = "sim"

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.now = START
        self.faults = Faults()
        self.state = StateFolder(folder / "aggregator")
        fresh = not self.state.root.exists()
        if fresh:
            found(self.state, Founding(self.federation, "aggregator", "127.0.0.1:1", "127.0.0.1:2", ()), self.now)
        self.store: Store | None = None
        self.transactions = 0
        self.cut_aggregator_at: int | None = None
        self.cut_before_commit = False
        self.cuts = 0
        self.job = b""
        self.values = VALUES
        self.silos = {name: SimSilo(self, name) for name in sorted(names)}
        self._streams: dict[str, Any] = {}
        self.boot_aggregator()
        if fresh:
            for silo in self.silos.values():
                self.enrol(silo, silo.state)
            self._pin()

    def clock(self) -> datetime:
        """The one clock."""
        return self.now

    def enrol(self, silo: SimSilo, folder: Path) -> None:
        """Into a folder of its own, on fresh keys."""
        wallet = Wallet.create(folder / "wallet", Wallet(self.state.wallet).ca_pem, silo.party)
        answer = self.certified(silo.name, wallet.requests())
        issued = IssuedCertificates(answer.tls_certificate_pem, answer.identity_certificate_pem)
        wallet.install(issued, self.now)
        (folder / "silo.toml").write_text(
            f'name = "{silo.name}"\nfederation = "{self.federation}"\naggregator = "127.0.0.1:1"\n'
            "[policy]\nrehearsals = true\n"
        )

    def certified(self, name: str, requests: CertificateRequests) -> wire.EnrolledCertificates:
        """What the enrolment port answers to a silo's good token."""
        ca, party = CertificateAuthority.load(self.state.ca), self.silos[name].party
        issued = ca.issue(party, requests.tls, requests.identity, self.now, ())
        assert self.store is not None
        enter_member(self.store, issued.identity, ca.ca_pem, self.now)
        own = Wallet(self.state.wallet).identity().certificate_pem
        return wire.EnrolledCertificates(
            tls_certificate_pem=issued.tls,
            identity_certificate_pem=issued.identity,
            aggregator_identity_pem=own,
            aggregator_address="127.0.0.1:1",
        )

    def invitation(self, name: str) -> str:
        """A token for a silo."""
        ca_pem, until = Wallet(self.state.wallet).ca_pem, self.now + timedelta(days=1)
        return Invitation(self.silos[name].party, "127.0.0.1:2", ca_pem, until, bytes(32)).encode()

    def identity_key(self, name: str) -> bytes:
        folder = self.state.wallet if name == "aggregator" else self.silos[name].state / "wallet"
        return Wallet(folder).identity().public_key

    def member(self, name: str) -> RosterMember:
        return RosterMember(name=name, identity_key=self.identity_key(name).hex())

    def plan(
        self, *, rounds: int = 1, minimum: int = 2, attempts: int | None = None, colluders: int = 0,
        suite: Suite = Suite.CKKS_GROUP, open_to: str = "silos",
    ) -> JobPlan:  # fmt: skip
        """A rehearsal of all silos, of `values` values."""
        return JobPlan(
            version="cloister/v1", name="sim", federation=self.federation, purpose="simulation",
            task=Rehearsal(kind="rehearsal", values=self.values, update_range=UPDATE_RANGE), dp=None,
            rounds=rounds, round_attempts=attempts or 3 * rounds, suite=suite, grid=Grid(bits=16),
            parameters=usual_parameters(suite, self.values), open_to=open_to,  # type: ignore[arg-type]
            initial_adapter=adapter_digest(np.zeros(self.values, np.float32)).hex(),
            cohort=Cohort(
                roster=tuple(self.member(name) for name in self.silos), minimum=minimum, tolerated_colluders=colluders,
                minimum_dataset_size=1,
            ),
            aggregator=self.member("aggregator"),
            deadlines=Deadlines(join_job_s=60.0, join_round_s=30.0, submit_s=60.0, consent_s=30.0, apply_s=30.0),
            created_utc="2026-06-01T12:00:00Z", nonce=secrets.token_hex(32),
        )  # fmt: skip

    def _pin(self) -> None:
        """Every silo pins everybody."""
        for silo in self.silos.values():
            home = Home.open(silo.state, {})
            with home.store.writing() as tx:
                for peer in (*self.silos, "aggregator"):
                    role = Role.AGGREGATOR if peer == "aggregator" else Role.SILO
                    trust_peer(tx.connection, role, peer, fingerprint(self.identity_key(peer)), self.now)
            home.store.close()

    def copy_to(self, folder: Path) -> "World":
        """The same federation elsewhere, as it is on disk: for many tests from one beginning."""
        shutil.copytree(self.folder, folder)
        return type(self)(folder, *self.silos)

    def complained(self, _name: str, error: CloisterError) -> None:
        """What a silo's agent would show its operator and try again later: nothing here, among honest parties."""
        raise error

    def submit(self, plan: JobPlan) -> None:
        """Submit the plan and boot the silos."""
        self.job = CoordinatorDesk(self.runner, max_artifact_bytes=1).submit("coordinator", plan.encode(), iter(()))
        for silo in self.silos.values():
            silo.boot()

    # -- the aggregator ------------------------------------------------------------------------------------------------

    def boot_aggregator(self) -> None:
        """Start it from its folder."""
        if self.store is not None:
            self.store.close()
        self.store = open_store(self.state, self.state.load())
        self.store.transaction = self._counted(self.store.transaction)  # type: ignore[method-assign]
        blobs = Blobs(self.state.blobs)
        blobs.make()
        identity = Wallet(self.state.wallet).identity()
        self.runner = Runner(self.store, blobs, identity, self.clock, grace_s=5.0, keep_s=1e9)
        self.runner.resume()
        desk: Any = None  # nobody enrols in memory
        slots = UploadSlots(len(self.silos), 60.0)
        self.service = FederationService(
            self.runner,
            ReadingDesk(self.runner),
            StatementDesk(self.runner),
            ModelDesk(self.runner),
            WitnessDesk(self.runner),
            desk,
            slots,
            lambda _context: None,
        )
        self._streams = {}
        for name, silo in self.silos.items():
            if silo.up and silo.home is not None:
                self.connected(name)

    def _counted(self, transaction: Callable[[], Any]) -> Callable[[], Any]:
        @contextmanager
        def counted() -> Iterator[Any]:
            with transaction() as tx:
                yield tx
                self.transactions += 1
                last = self.transactions == self.cut_aggregator_at
                if last and self.cut_before_commit:
                    raise PowerCut
            if last:
                raise PowerCut

        return counted

    def serve(self, call: Callable[[Any], Any]) -> Any:
        """One call at the aggregator; a power cut in it is what the caller sees as silence."""
        try:
            return call(self.service)
        except PowerCut:
            self._reboot_aggregator()
            raise Unavailable("the aggregator", "does not answer", "Run it again.") from None

    def _reboot_aggregator(self) -> None:
        self.cuts += 1
        self.cut_aggregator_at = None
        self.boot_aggregator()

    def connected(self, name: str) -> None:
        """The silo's stream of notices is open."""
        self._streams[name] = stream = Stream(name)
        self._aggregator_does(lambda: self.runner.open_stream(stream))

    def disconnected(self, name: str) -> None:
        """It is gone."""
        stream = self._streams.pop(name, None)
        if stream is not None:
            self._aggregator_does(lambda: self.runner._departed(stream))

    def clerk(self) -> None:
        """What the aggregator's clerk does when it wakes up."""
        for live in self.runner.all_jobs():
            self._aggregator_does(lambda live=live: self.runner._pass_deadline(live))

    def _aggregator_does(self, act: Callable[[], Any]) -> None:
        """As the clerk does it."""
        try:
            act()
        except PowerCut:
            self._reboot_aggregator()

    # -- running -------------------------------------------------------------------------------------------------------

    def leave(self, name: str) -> None:
        """The silo drops out: its machine is off."""
        self.silos[name].up = False
        self.disconnected(name)

    def come_back(self, name: str) -> None:
        """It is on again."""
        self.silos[name].up = True
        self.silos[name].boot()

    def turn(self, seconds: float = 1.0) -> None:
        """Every silo that is up looks once; then the clerk; then time passes."""
        for silo in self.silos.values():
            if silo.up:
                silo.advance()
        self.clerk()
        self.now += timedelta(seconds=seconds)

    def run(self, until: Callable[[], bool] | None = None, seconds: float = 1.0) -> None:
        """Turn until `until()` (by default: every silo that is up is done). Fails if that does not come."""
        done = until or (lambda: all(silo.job_state.over for silo in self.silos.values() if silo.up and silo.job_state))
        for _ in range(TURNS):
            self.turn(seconds)
            if done():
                return
        raise AssertionError(f"after {TURNS} turns: {self.where()}")

    def where(self) -> str:
        """Where everybody is."""
        silos = ", ".join(f"{silo.name} {silo.job_state} {silo.writes[-3:]}" for silo in self.silos.values())
        return f"{self.status().phase.name} {self.status().reason}; {silos}"

    def status(self) -> Any:
        """The job as its coordinator sees it."""
        (status,) = CoordinatorDesk(self.runner, max_artifact_bytes=1).statuses()
        return status

    def rounds(self) -> Any:
        """Its rounds as its coordinator sees them."""
        return CoordinatorDesk(self.runner, max_artifact_bytes=1).rounds(self.job)
