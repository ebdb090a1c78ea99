"""The aggregator as a witness, and as the post between witnesses: silos dial it, and nobody dials them.

It checks each silo's checkpoint against the last it saw, cosigns it, shows it to the others with the proofs that its
owner made for them, and shows the owner what they said. None of them has to believe it: notes are signed by their logs,
cosignatures by their witnesses, and proofs are proofs. It can keep something back; that shows as a missing witness.
"""

from dataclasses import dataclass
from datetime import datetime

import structlog
from cloister import wire

from aggregator.runner import Runner
from aggregator.store import MemberRow, Transaction
from aggregator.tables import LEDGER, WITNESS
from aggregator.witness_post import WitnessPost
from certs.names import Role
from privacy.errors import ProtocolError, VerificationError
from privacy.ledger.checkpoint import Checkpoint, log_origin, open_checkpoint, parse_note
from privacy.ledger.cosignature import cosign, cosignatures, with_lines, witness_name
from privacy.ledger.witness import Proof, RewrittenError, check_continues
from runtime.ledger_store import Ledger
from runtime.witness_store import WitnessBook

LOG = structlog.get_logger("aggregator.witness")


@dataclass(frozen=True)
class _Caller:
    """A silo that calls: its log, its name as a witness, its key."""

    log: str
    witness: str
    member: MemberRow


class WitnessDesk:
    """Answers ExchangeCheckpoints."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._own = runner.identity
        party = self._own.party
        self._witness = witness_name(party.federation, party.role, party.name)
        self._log = log_origin(party.federation, party.name)

    def exchange(self, silo: str, asked: wire.ExchangeCheckpointsRequest) -> wire.ExchangedCheckpoints:
        """Take what a silo says of its own log and of others', and tell it what there is.

        Raises ProtocolError for a note or a cosignature that is not the silo's own.
        """
        with self._runner.store.transaction() as tx:
            caller, book, post = self._caller(tx, silo), WitnessBook(tx.connection, WITNESS), WitnessPost(tx.connection)
            note = asked.checkpoint.decode("utf-8", "replace")
            if note:
                self._witnessed(caller, book, post, note, asked)
            post.witness_saw(caller.witness, {said.log: said.size for said in asked.seen})
            for said in asked.cosigned:
                self._take_cosignature(caller, book, said)
            return wire.ExchangedCheckpoints(
                newest=book.with_cosignatures(kept).encode() if (kept := book.note(caller.log)) else b"",
                wanted=self._wanted(caller, book, post, note)[: wire.MOST_PROOFS],
                shown=tuple(self._shown(tx, caller, book, post)[: wire.MOST_PROOFS]),
                witnesses=tuple(
                    wire.WitnessKey(witness=name, identity_pem=pem)
                    for name, pem in self._keys(tx, caller.log, book).items()
                ),
            )

    def _caller(self, tx: Transaction, silo: str) -> _Caller:
        federation = self._own.party.federation
        member = next((m for m in tx.members() if m.role is Role.SILO and m.name == silo), None)
        if member is None:
            raise ProtocolError(f"checkpoint of {silo}", "is of no member", "Enrol first.", sender=silo)
        return _Caller(log_origin(federation, silo), witness_name(federation, Role.SILO, silo), member)

    def _witnessed(
        self, caller: _Caller, book: WitnessBook, post: WitnessPost, note: str, asked: wire.ExchangeCheckpointsRequest
    ) -> None:
        """Check a silo's checkpoint against the last one of it, keep it, and cosign it."""
        try:
            new = open_checkpoint(note, caller.log, caller.member.identity_key)
        except VerificationError as error:
            silo, step = caller.member.name, "Publish the note the ledger signed."
            raise ProtocolError(f"checkpoint of {silo}", str(error), step, sender=silo) from error
        proofs = tuple(Proof(proof.old_size, proof.hashes) for proof in asked.proofs)
        seen, now = book.seen(caller.log), self._runner.clock()
        try:
            if not check_continues(seen, new, proofs):
                return
        except RewrittenError as error:
            book.contradict(caller.log, note, now)
            LOG.exception("a log was rewritten", log=caller.log, why=error.why)
            return
        if seen is None or new.size > seen.size:
            book.saw(caller.log, note)
            post.drop_proofs(caller.log)
        post.keep_proofs(caller.log, proofs)
        post.want_since(caller.log, asked.since)
        self._cosign(caller.log, book, note, new, now)

    def _cosign(self, log: str, book: WitnessBook, note: str, new: Checkpoint, now: datetime) -> None:
        """Each time anew: by its time the log's owner sees how far apart the two clocks are."""
        line = cosign(note, self._witness, self._own.public_key, self._own.sign, now)
        (cosignature,) = cosignatures(with_lines(note, [line]), {self._witness: self._own.public_key})
        book.cosigned(log, new.size, line, cosignature)

    def _take_cosignature(self, caller: _Caller, book: WitnessBook, said: wire.CosignedLog) -> None:
        """A silo's word on another log, or on the aggregator's; one on a checkpoint that is no more newest is late."""
        note, silo = book.note(said.log), caller.member.name
        if note is None or said.log == caller.log:
            return
        try:
            found = cosignatures(with_lines(note, [said.line]), {caller.witness: caller.member.identity_key})
        except VerificationError as error:
            LOG.info("a cosignature does not fit", peer=caller.witness, what=said.log, why=error.why)
            return
        if not found:
            step = "Cosign with this silo's own key."
            raise ProtocolError(f"cosignature of {silo}", "is another witness'", step, sender=silo)
        book.put_key(caller.witness, caller.member.identity_pem)
        book.cosigned(said.log, parse_note(note).checkpoint.size, said.line, found[0])

    def _wanted(self, caller: _Caller, book: WitnessBook, post: WitnessPost, note: str) -> tuple[int, ...]:
        """From which sizes the caller's witnesses, this one among them, need a proof of the note it sent."""
        if not note:
            return ()
        size, seen = parse_note(note).checkpoint.size, book.seen(caller.log)
        sizes = {*post.sizes_of(caller.log).values(), 0 if seen is None else seen.size}
        return tuple(sorted(wanted for wanted in sizes - post.proofs(caller.log).keys() if 0 < wanted < size))

    def _shown(self, tx: Transaction, caller: _Caller, book: WitnessBook, post: WitnessPost) -> list[wire.ShownLog]:
        """What the caller may cosign: each other log's newest note that it has not, with a proof that it can check."""
        ledger, now = Ledger(tx.connection, LEDGER), self._runner.clock()
        if ledger.size:
            book.saw(self._log, ledger.checkpoint(self._own.sign, now))
        known, found = post.sizes_seen_by(caller.witness), list[wire.ShownLog]()
        notes, since = book.notes(), post.wanted_since()
        sizes = {log: parse_note(note).checkpoint.size for log, note in notes.items() if log != caller.log}
        cosigned = book.cosigned_at(caller.witness, sizes)
        for log, owner in self._owners(tx).items():
            if log not in sizes or (log in cosigned and cosigned[log].timestamp() >= since.get(log, 0)):
                continue
            note, proof = notes[log], self._proof(ledger, log, known.get(log, 0), sizes[log], post)
            if proof is not None:
                found.append(wire.ShownLog(checkpoint=note.encode(), identity_pem=owner, proofs=proof))
        return found

    def _proof(
        self, ledger: Ledger, log: str, old: int, size: int, post: WitnessPost
    ) -> tuple[wire.ConsistencyProof, ...] | None:
        """The proof that a witness of `old` entries needs, if any; None while the log's owner has not made it."""
        if old == 0 or old >= size:
            return ()
        hashes = ledger.consistency_proof(old, size) if log == self._log else post.proofs(log).get(old)
        return None if hashes is None else (wire.ConsistencyProof(old_size=old, hashes=hashes),)

    def _owners(self, tx: Transaction) -> dict[str, bytes]:
        """Identity certificates by log: the silos', and this aggregator's."""
        federation = self._own.party.federation
        silos = {log_origin(federation, m.name): m.identity_pem for m in tx.members() if m.role is Role.SILO}
        return {**silos, self._log: self._own.certificate_pem}

    def _keys(self, tx: Transaction, log: str, book: WitnessBook) -> dict[str, bytes]:
        """Identity certificates of those who cosigned a log's newest checkpoint, by their names as witnesses."""
        federation, note = self._own.party.federation, book.note(log)
        if note is None:
            return {}
        silos = (member for member in tx.members() if member.role is Role.SILO)
        known = {witness_name(federation, member.role, member.name): member.identity_pem for member in silos}
        known[self._witness] = self._own.certificate_pem
        signers = [name for name, _ in parse_note(book.with_cosignatures(note)).signatures]
        return {name: known[name] for name in signers if name in known}
