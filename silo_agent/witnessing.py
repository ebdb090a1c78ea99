"""A silo among witnesses: it has its own ledger's checkpoints cosigned, cosigns others', and finds itself rolled back.

One exchange shows the newest checkpoint of this ledger to the aggregator, which passes it on, and takes back what
others hold of it. What is compared is signed by this silo's own key, so nobody else has to be believed. Others' logs
are witnessed if this silo's steward pinned their owner's identity.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from cloister import wire

from certs.identity import fingerprint
from certs.names import PartyId, Role
from certs.times import utc_text
from certs.verify import check_identity_certificate
from privacy.errors import CloisterError, ConfigError, ProtocolError, Refused, Unavailable, VerificationError
from privacy.ledger.checkpoint import log_origin, open_checkpoint, parse_note
from privacy.ledger.clock import CLOCK_TOLERANCE, is_ahead
from privacy.ledger.cosignature import Cosignature, cosign, cosignatures, with_lines, witness_name
from privacy.ledger.handed import HandedCosignature
from privacy.ledger.witness import Proof, RewrittenError, check_continues, check_own
from runtime.ledger_store import Ledger
from runtime.witness_store import WitnessBook, raw_key
from silo_agent.client import AggregatorPort
from silo_agent.home import Home
from silo_agent.peers import Pins, trust_command, trusted_peers
from silo_agent.tables import LEDGER, WITNESS

LOG = structlog.get_logger("silo.witness")
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0)  # of one wait for cosignatures, twice as long as others' pause
MANY = 20  # pinned parties; with more of them everybody's exchanges are rarer in proportion: the aggregator answers all
MOST_NAMED = 8  # witnesses in one message
MOST_CALLS = 4  # of one exchange: compare, show, prove and cosign, and once more for whom that let on
_NOT_OURS = (
    "Nothing of it is believed, and no job is taken up. If this silo's key was changed after this state, or its name "
    "had another folder before, go on with that one (docs/how-to/rotate-certificates.md); else ask the coordinator."
)
OWNERS = (Role.SILO, Role.AGGREGATOR)  # have a log of their own
WITNESSES = (*OWNERS, Role.AUDITOR)


class Unwitnessed(Unavailable):
    """Too few witnesses have confirmed this ledger."""


@dataclass(frozen=True)
class Showing:
    """How a job has this silo's ledger shown to its witnesses: `now`, before it goes on; or `soon`, by another thread.

    `now` raises what `Witnessing.show` raises: then the job does not go on.
    """

    now: Callable[[], None]
    soon: Callable[[], None]


@dataclass
class Witnessing:
    """The exchanges of one agent; `since` is when it started: older cosignatures do not say that a state is the newest.

    Until this ledger was compared with what others hold of it, nothing is signed: an agent on a state that is not the
    newest, which is restored or copied before it starts, signs nothing at all.
    """

    home: Home
    since: datetime
    _compared: bool = False
    _wanted: tuple[int, ...] = ()
    _cosigned: dict[str, str] = field(default_factory=dict)  # lines to send, by log
    _held: int = 0  # entries under the checkpoint that the aggregator says it holds of this ledger
    _fresh: Cosignature | None = None  # the aggregator's, made in answer to what was sent last
    _clock_differs: bool = False
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def exchange(self, port: AggregatorPort, now: datetime) -> frozenset[str]:
        """Compare, show, prove and cosign, until nothing more is to be said.

        Returns who has cosigned, since the agent's start, all that this ledger had when the exchange began. Raises
        Unavailable or another error of the port's; RewrittenError if this state is not the newest of this ledger:
        nothing may be signed with it any more; ConfigError if the aggregator's clock says quite another time.
        """
        with self._one_at_a_time:
            if self._clock_differs:  # by which `since` was no time to count from
                self.since, self._clock_differs = now, False
            size = self._size()
            for _ in range(MOST_CALLS):
                if not self.take(port.exchange_checkpoints(self.request(now)), now):
                    break
            self._check_clock(now)
            return self._cosigners(size, (self.since, now + CLOCK_TOLERANCE))

    def _check_clock(self, now: datetime) -> None:
        """By the aggregator's cosignature, which it makes anew for each checkpoint that it is sent."""
        if self._fresh is not None and abs(self._fresh.utc - now) > CLOCK_TOLERANCE:
            self._clock_differs = True
            own, witness = utc_text(now), self._fresh.witness
            why = f"this machine's says {own}, and {witness} cosigned just now at {utc_text(self._fresh.utc)}"
            step = "Compare with the true time, and set this one if it is wrong (timedatectl); it is tried again."
            raise ConfigError("clock", why, step)

    def start(self, port: AggregatorPort, now: datetime) -> None:
        """Before anything is taken up: an exchange, after which as many as `witnesses.quorum` asks for confirm that
        this state is the newest. Raises as `exchange`; Unwitnessed while too few do, naming who does not.
        """
        cosigned, quorum = self.exchange(port, now), self.home.settings.witnesses.quorum
        if len(cosigned) < quorum:
            what = f"this silo's ledger since the agent started at {utc_text(self.since)}"
            raise self._unwitnessed(cosigned, what, "It waits for them; see `cloister silo witnesses list`.")

    def show(self, port: AggregatorPort, clock: Callable[[], datetime], pause: Callable[[float], bool]) -> None:
        """Exchange until the aggregator holds all that this ledger has now, and as many as `witnesses.quorum` asks for
        have cosigned it.

        Who has cosigned so much never cosigns less, so that no quorum of them confirms an older copy of this state.
        When they did so does not matter. `pause` waits for some seconds, and says whether to give up. Raises as
        `exchange`, also for a clock that differs; Unwitnessed, naming who has not, after PAUSES_S.
        """
        quorum, size, cosigned = self.home.settings.witnesses.quorum, self._size(), frozenset[str]()
        pace = self.pace
        for pause_s in (0.0, *PAUSES_S):
            if pause_s and pause(pause_s * pace):
                break
            self.exchange(port, clock())
            cosigned = self._cosigners(size)
            if self._held >= size and len(cosigned) >= quorum:
                return
        step = "No update leaves before; it is tried again while its round lasts. See `cloister silo witnesses list`."
        if self._held < size:
            why = f"the aggregator holds {self._held} of this silo's {size} ledger entries"
            raise Unwitnessed("witnesses", why, step)
        raise self._unwitnessed(cosigned, f"this silo's {size} ledger entries", step)

    @property
    def pace(self) -> float:
        """How many times as long as among few parties it is between two exchanges."""
        with self.home.store.reading() as connection:
            return max(1.0, len(trusted_peers(connection)) / MANY)

    def _size(self) -> int:
        with self.home.store.reading() as connection:
            return Ledger(connection, LEDGER).size

    def _cosigners(self, at_least: int, between: tuple[datetime, datetime] | None = None) -> frozenset[str]:
        """Who of those that count has cosigned so many entries of this ledger."""
        with self.home.store.reading() as connection:
            book, log = WitnessBook(connection, WITNESS), Ledger(connection, LEDGER).identity.origin
            return counted(book, trusted_peers(connection), book.cosigners(log, at_least, between))

    def _unwitnessed(self, cosigned: frozenset[str], what: str, step: str) -> Unwitnessed:
        """Naming those who are pinned and have not, with the newest that each has cosigned."""
        own, quorum = self.home.identity.party, self.home.settings.witnesses.quorum
        with self.home.store.reading() as connection:
            book, log = WitnessBook(connection, WITNESS), Ledger(connection, LEDGER).identity.origin
            names = {witness_name(own.federation, *pin) for pin in trusted_peers(connection) if pin[0] in WITNESSES}
            names -= {witness_name(own.federation, own.role, own.name), *cosigned}
            missing = [f"{name} ({_newest(book.when(log, name))})" for name in sorted(names)]
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        who = f"; not yet: {', '.join(missing[:MOST_NAMED])}{more}" if missing else ""
        return Unwitnessed("witnesses", f"{len(cosigned)} of {quorum} have cosigned {what}{who}", step)

    def request(self, now: datetime) -> wire.ExchangeCheckpointsRequest:
        """What to send next: the newest checkpoint, signed now if there is none of this size yet, and proofs of it.

        At first neither: only the question what others hold. Raises ConfigError for an entry of the future.
        """
        with self.home.store.writing() as tx:
            ledger, book = tx.ledger, WitnessBook(tx.connection, WITNESS)
            _check_past(ledger, now)
            note = ledger.checkpoint(self.home.identity.sign, now) if ledger.size and self._compared else ""
            size = ledger.size
            proofs = tuple(
                wire.ConsistencyProof(old_size=old, hashes=ledger.consistency_proof(old, size))
                for old in self._wanted
                if 0 < old <= size
            )
            logs = ((log, book.seen(log)) for log in book.logs())
            seen = tuple(wire.SeenLog(log=log, size=known.size) for log, known in logs if known is not None)
        cosigned = tuple(wire.CosignedLog(log=log, line=line) for log, line in self._cosigned.items())
        since = int(self.since.timestamp())
        return wire.ExchangeCheckpointsRequest(
            checkpoint=note.encode(), proofs=proofs, seen=seen, cosigned=cosigned, since=since
        )

    def take(self, answer: wire.ExchangedCheckpoints, now: datetime) -> bool:
        """Learn from an answer; whether there is something to send at once.

        Raises RewrittenError if this state is not the newest of this ledger, ProtocolError for an answer that makes no
        sense.
        """
        cosigned: dict[str, str] = {}
        self._cosigned, self._fresh = {}, None
        with self.home.store.writing() as tx:
            ledger, book, pins = tx.ledger, WitnessBook(tx.connection, WITNESS), trusted_peers(tx.connection)
            if answer.newest:
                self._compare(ledger, book, answer, pins, now)
            for shown in answer.shown:
                cosigned |= self._witness(book, shown, pins, now)
        self._cosigned = cosigned  # may leave now: what was seen is on the disk
        new = tuple(size for size in answer.wanted if size not in self._wanted)
        begins, self._compared, self._wanted = not self._compared, True, answer.wanted
        return bool(begins or new or self._cosigned)

    def _compare(
        self, ledger: Ledger, book: WitnessBook, answer: wire.ExchangedCheckpoints, pins: Pins, now: datetime
    ) -> None:
        """What is held of this ledger, and who cosigned it."""
        identity, note = ledger.identity, answer.newest.decode("utf-8", "replace")
        try:
            known = open_checkpoint(note, identity.origin, ledger.keys().at(parse_note(note).checkpoint.size))
        except VerificationError as error:
            raise ProtocolError(
                "own checkpoint", f"is not ours: {error.why}", _NOT_OURS, sender="aggregator"
            ) from error
        check_own(known, ledger.size, ledger.root_at)
        self._held = known.size
        keys = self._keys(answer, pins, now)
        lines = {name: line for line in note.split("\n\n", 1)[1].splitlines() for name in [line.split(" ")[1]]}
        for cosignature in cosignatures(note, {name: key for name, (key, _) in keys.items()}):
            book.put_key(cosignature.witness, keys[cosignature.witness][1])
            book.cosigned(identity.origin, known.size, lines[cosignature.witness], cosignature)
            if self._compared and known.size == ledger.size and _role(cosignature.witness) is Role.AGGREGATOR:
                self._fresh = cosignature

    def _keys(self, answer: wire.ExchangedCheckpoints, pins: Pins, now: datetime) -> dict[str, tuple[bytes, bytes]]:
        """Key and certificate of each witness that this silo believes, by name."""
        found = {}
        for shown in answer.witnesses:
            try:
                party, key = self._believed(shown.identity_pem, pins, now)
            except CloisterError as error:
                LOG.info("a witness is not believed", peer=shown.witness, exc_info=error)
                continue
            found[witness_name(party.federation, party.role, party.name)] = (key, shown.identity_pem)
        return found

    def _witness(self, book: WitnessBook, shown: wire.ShownLog, pins: Pins, now: datetime) -> dict[str, str]:
        """Cosign another log's checkpoint, if its owner is pinned here and it continues what was seen of it.

        Returns the line by its log, or nothing; it may be sent when the transaction stands.
        """
        note = shown.checkpoint.decode("utf-8", "replace")
        try:
            party, key = self._believed(shown.identity_pem, pins, now)
            _check_owner(party)
            log = log_origin(party.federation, party.name)
            new = open_checkpoint(note, log, key)
        except CloisterError as error:
            LOG.info("a log is not witnessed", exc_info=error)
            return {}
        proofs = [Proof(proof.old_size, proof.hashes) for proof in shown.proofs]
        try:
            if not check_continues(book.seen(log), new, proofs):
                return {}
        except RewrittenError as error:
            book.contradict(log, note, now)
            LOG.exception("a log was rewritten", log=log, why=error.why)
            return {}
        book.saw(log, note)
        own = self.home.identity
        witness = witness_name(own.party.federation, own.party.role, own.party.name)
        return {log: cosign(note, witness, own.public_key, own.sign, now)}

    def _believed(self, identity_pem: bytes, pins: Pins, now: datetime) -> tuple[PartyId, bytes]:
        """Whose certificate it is, and the key, as this silo's steward pinned it: the CA alone counts for nothing.

        Raises ProtocolError for another CA's, an expired one or one that is not pinned, and for this silo's own.
        """
        party, key = check_identity_certificate(identity_pem, self.home.wallet.ca_pem, now)
        pinned, own = pins.get((party.role, party.name)), party == self.home.identity.party
        if own or party.role not in WITNESSES or pinned != fingerprint(key):
            why = "is not pinned here" if pinned is None else f"is {fingerprint(key)}; pinned here is {pinned}"
            step = f"Ask its operator by telephone. If it is meant: {trust_command(party.role, party.name)}"
            raise ProtocolError(f"identity of {party.uri}", why, step, sender=party.name)
        return party, key


def _check_owner(party: PartyId) -> None:
    """It is of a role that has a log: a log's name does not say the role. Raises ProtocolError."""
    if party.role not in OWNERS:
        step = "Silos and the aggregator have one. Ask the CA's keeper who got this certificate."
        raise ProtocolError(f"log of {party.uri}", f"is none: a {party.role} has no ledger", step, sender=party.name)


def _check_past(ledger: Ledger, now: datetime) -> None:
    """No entry is of the future. Raises ConfigError."""
    latest = ledger.latest_utc
    if latest is not None and is_ahead(latest, now):
        why = f"it has an entry of {latest}, and by this machine's clock it is {utc_text(now)}"
        step = (
            "Set the clock if it is behind (timedatectl); else see A clock that was wrong, docs/how-to/run-a-silo.md."
        )
        raise ConfigError(f"ledger of {ledger.identity.origin}", why, step)


def _newest(cosigned: tuple[int, datetime] | None) -> str:
    return "never" if cosigned is None else f"{cosigned[0]} entries at {utc_text(cosigned[1])}"


def counted(book: WitnessBook, pins: Pins, witnesses: Iterable[str]) -> frozenset[str]:
    """Of these, the ones whose key is pinned here: what others cosign is kept and exported, and proves nothing here."""
    known = {name: fingerprint(raw_key(pem)) for name, pem in book.keys().items()}
    return frozenset(name for name in witnesses if name in known and _pin(pins, name) == known[name])


def _pin(pins: Pins, witness: str) -> str | None:
    return pins.get((_role(witness), witness.split("/")[3]))


def _role(witness: str) -> Role:
    return Role(witness.split("/")[2])


def take_handed(home: Home, handed: HandedCosignature, now: datetime) -> str:
    """Keep an auditor's cosignature of one of this ledger's checkpoints; returns the witness' name.

    Raises ProtocolError for another CA's certificate, Refused for one who is no auditor or whose name is pinned with
    another key, VerificationError for a signature that does not hold or a checkpoint that was never signed here.
    """
    party, key = check_identity_certificate(handed.certificate.encode(), home.wallet.ca_pem, now)
    if party.role is not Role.AUDITOR:
        raise Refused(f"cosignature by {party.uri}", "is no auditor's", "Others cosign by themselves.")
    name = witness_name(party.federation, party.role, party.name)
    with home.store.writing() as tx:
        ledger, book = tx.ledger, WitnessBook(tx.connection, WITNESS)
        pinned = trusted_peers(tx.connection).get((party.role, party.name))
        if pinned not in (None, fingerprint(key)):
            why = f"its identity is {fingerprint(key)}; pinned here is {pinned}"
            raise Refused(f"cosignature by {party.uri}", why, "Telephone the auditor; a changed key is pinned anew.")
        note = next((n for n in ledger.notes() if parse_note(n).checkpoint.size == handed.size), None)
        if note is None or handed.log != ledger.identity.origin:
            why = f"this ledger, {ledger.identity.origin}, signed no checkpoint of {handed.size} entries"
            raise VerificationError(f"cosignature of {handed.log}", why, "Give the auditor a fresh export.")
        _check_past(ledger, now)
        found = cosignatures(with_lines(note, [handed.line]), {name: key})
        if not found:
            raise VerificationError(f"cosignature by {name}", "is another witness'", "Ask the auditor for it again.")
        book.put_key(name, handed.certificate.encode())
        book.cosigned(handed.log, handed.size, handed.line, found[0])
    return name


def facts(home: Home) -> dict[str, Any]:
    """Who cosigned this ledger up to where and when, which logs are witnessed here, and what contradicted itself."""
    with home.store.reading() as connection:
        ledger, book = Ledger(connection, LEDGER), WitnessBook(connection, WITNESS)
        log = ledger.identity.origin
        newest = {witness: book.when(log, witness) for witness in sorted(book.signers(log))}
        pinned = counted(book, trusted_peers(connection), newest)
        seen = {other: known.size for other in book.logs() if (known := book.seen(other)) is not None}
        return {
            "log": log,
            "entries": ledger.size,
            "quorum": home.settings.witnesses.quorum,
            "witnesses": [
                {"witness": witness, "entries": size, "utc": utc_text(when), "counts": witness in pinned}
                for witness, (size, when) in ((w, found) for w, found in newest.items() if found is not None)
            ],
            "witnessed": [{"log": other, "entries": size} for other, size in seen.items()],
            "contradictions": [vars(found) for found in book.contradictions()],
        }
