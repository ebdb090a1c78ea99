"""Offline verification of a log: what an auditor runs, with public keys only.

Nothing here needs torch, TenSEAL, gRPC or a network. `verify_log` raises LedgerFault, naming the first entry that is
wrong and what is wrong with it, or returns what the log adds up to.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from privacy.errors import CloisterError, VerificationError
from privacy.ledger.checkpoint import Checkpoint, key_id, open_checkpoint, parse_note
from privacy.ledger.clock import check_order
from privacy.ledger.codec import UnknownFormError, decode_entry
from privacy.ledger.entry import AnyEntry, KeyRotationEntry, ReviewEntry, RoundScoped
from privacy.ledger.evidence import Evidence, EvidenceBook, EvidenceReport
from privacy.ledger.figures import PopulationReport, check_figures, report_populations
from privacy.ledger.garbage import collected_rarely
from privacy.ledger.governance import GovernanceBook
from privacy.ledger.keys import KeyBook
from privacy.ledger.merkle import EMPTY_ROOT, Growth, leaf_hash
from privacy.ledger.replay import Budgets, after
from privacy.ledger.rounds import RoundBook
from privacy.ledger.witnessed import WitnessedBook, WitnessReport
from privacy.running_budget import first_running

NEXT = "Keep this copy, and ask the institution for an explanation and a fresh export."


class LedgerFault(VerificationError):  # noqa: N818 - a finding, not a failure
    """The first thing wrong with a log. `sequence` is the entry; None if it is about the log as a whole."""

    def __init__(self, sequence: int | None, what: str, why: str, next_step: str = NEXT) -> None:
        super().__init__(what, why, next_step)
        self.sequence = sequence


@dataclass(frozen=True)
class Trust:
    """What the federation's CA vouches for beside the log's key: witnesses' raw keys by name, None where nobody vouches
    for them; until when the log's own key was certified, and since when there was a CA to certify one (as entries
    write it).
    """

    witnesses: Mapping[str, bytes] | None = None
    valid_until: str | None = None
    valid_from: str | None = None


@dataclass(frozen=True)
class Report:
    """What a sound log adds up to."""

    origin: str
    entries: int
    checkpoints: int
    root: bytes
    first_utc: str | None  # the earliest that an entry states
    last_utc: str | None  # the latest
    kinds: dict[str, int]
    populations: tuple[PopulationReport, ...]
    administrators: tuple[str, ...]  # who may change budgets, two together
    witnesses: tuple[WitnessReport, ...] | None  # None where nobody vouched for their keys
    automatic_without_policy: int  # approvals by the agent alone that no policy on record covers: an older version's
    covered_by: tuple[int, ...]  # entries under a checkpoint that one witness cosigned, that two did, and so on
    reviews: tuple[ReviewEntry, ...]  # their signatures hold; whose keys they are, certificates say
    rotations: tuple[KeyRotationEntry, ...]  # the log's changes of key, likewise
    evidence: EvidenceReport | None  # None where only the log was given


def verify_log(
    entries: Iterable[bytes],
    notes: Sequence[str],
    origin: str,
    public_key: bytes,
    leaves: Sequence[bytes] | None = None,
    evidence: Evidence | None = None,
    trust: Trust = Trust(),
    earlier_keys: Sequence[bytes] = (),
) -> Report:
    """Check a whole log against its signed checkpoints and against itself.

    Per entry, in order: its bytes are the ones signed for, canonical, at their place, of this institution, no older
    than any before it (CLOCK_TOLERANCE); every figure is recomputed; every budget decision is replayed; each job
    is approved, and each of its rounds reserves within that, runs what it reserved, and releases what it committed.
    With `evidence`, what entries say of plans, rounds and self-tests is compared with these.
    `leaves`, the log's own list of leaf hashes, is believed only if its roots are the signed ones; it then pins a
    changed entry exactly, where without it a range between two checkpoints is named.
    With `trust`, so much as it names is checked of witnesses and of how long the key was good.
    `public_key` is the institution's raw Ed25519 identity key. It, or one of the `earlier_keys` that the log had before
    it, oldest first, comes from outside of the log; the log's rotations lead from each to the next.
    Raises LedgerFault.
    """
    keys = (*earlier_keys, public_key)
    signed = _open_all(notes, origin, keys)
    checkpoints = [checkpoint for checkpoint, _ in signed]
    book = None if evidence is None else _evidence_book(evidence, origin, keys[0])
    believed = leaves if leaves is not None and _signed(leaves, checkpoints) else None
    walk = _Walk(origin, signed, believed, book, trust, KeyBook(origin, keys))
    walk.hear_witnesses(notes)
    with collected_rarely():
        for sequence, data in enumerate(entries):
            walk.read(sequence, data)
    report = walk.finish()
    if leaves is not None and walk.leaves is None:
        raise LedgerFault(None, "list of leaf hashes", "it does not lead to the signed roots; the entries do")
    return report


class _Walk:
    """One pass over the entries."""

    def __init__(
        self,
        origin: str,
        signed: Sequence[tuple[Checkpoint, int]],
        leaves: Sequence[bytes] | None,
        evidence: EvidenceBook | None,
        trust: Trust,
        keys: KeyBook,
    ) -> None:
        self.leaves = leaves
        self._trust = trust
        self.witnessed = None if trust.witnesses is None else WitnessedBook(trust.witnesses)
        self._evidence = evidence
        self._origin = origin
        self._checkpoints = {checkpoint.size: checkpoint for checkpoint, _ in signed}
        self._signers = {checkpoint.size: place for checkpoint, place in signed}
        self._keys = keys
        self._institution = origin.rpartition("/")[2]
        self._size = self._signed_before = 0
        self._tree = Growth()  # of the entries, unless they are compared with leaves that lead to the signed roots
        self._budgets: Budgets = {}
        self._rounds = RoundBook()
        self._governance = GovernanceBook(origin, {size: each.root for size, each in self._checkpoints.items()})
        self._kinds: Counter[str] = Counter()
        self._first_utc: str | None = None
        self._last_utc: str | None = None

    def hear_witnesses(self, notes: Sequence[str]) -> None:
        """Check the cosignatures under the notes. Raises LedgerFault."""
        if self.witnessed is None:
            return
        for number, note in enumerate(notes):
            try:
                self.witnessed.read(note)
            except VerificationError as error:
                raise LedgerFault(None, f"checkpoint {number}", f"{error.what}: {error.why}") from error

    def read(self, sequence: int, data: bytes) -> None:
        """Check one entry. Raises LedgerFault."""
        hashed = leaf_hash(data)
        if self.leaves is not None and (sequence >= len(self.leaves) or self.leaves[sequence] != hashed):
            self._explain_foreign(sequence, data)
        try:
            entry = decode_entry(data)
            self._place(sequence, entry)
            self._check_time(sequence, entry.utc)
            check_figures(entry)
            self._rounds.read(entry, self._budgets)
            if not isinstance(entry, RoundScoped):
                self._governance.read(entry, self._budgets, self._keys.key)
                self._keys.read(entry)
            self._budgets = after(self._budgets, entry, first_running)
            self._rounds.check_balance(entry, self._budgets)
            if self._evidence is not None:
                self._evidence.read(entry)
        except LedgerFault:
            raise
        except CloisterError as error:
            step = error.next_step if isinstance(error, UnknownFormError) else NEXT
            raise LedgerFault(sequence, f"entry {sequence}", f"{error.what}: {error.why}", step) from error
        self._kinds[entry.kind] += 1
        if self._first_utc is None or entry.utc < self._first_utc:
            self._first_utc = entry.utc
        self._size += 1
        if self.leaves is None:
            self._tree.append(hashed)
        checkpoint = self._checkpoints.get(self._size)
        if checkpoint is not None:
            self._pass_checkpoint(checkpoint)

    def finish(self) -> Report:
        """What it adds up to. Raises LedgerFault if entries are missing or none signed for the last ones."""
        missing = [size for size in self._checkpoints if size > self._size]
        if missing:
            why = f"a checkpoint over {missing[0]} entries is signed, but the log ends before this one"
            raise LedgerFault(self._size, f"entry {self._size}", why)
        if self._signed_before != self._size or not self._checkpoints:
            raise LedgerFault(
                self._signed_before, f"entry {self._signed_before}", "no signed checkpoint covers it and those after it"
            )
        try:
            self._keys.finish()
        except VerificationError as error:
            raise LedgerFault(None, error.what, error.why) from error
        return Report(
            origin=self._origin,
            entries=self._size,
            checkpoints=len(self._checkpoints),
            root=self._checkpoints[self._size].root,
            first_utc=self._first_utc,
            last_utc=self._last_utc,
            kinds=dict(sorted(self._kinds.items())),
            populations=report_populations(self._budgets, self._rounds.executed),
            witnesses=None if self.witnessed is None else self.witnessed.report(),
            automatic_without_policy=self._governance.automatic_without_policy,
            covered_by=() if self.witnessed is None else self.witnessed.covered_by(),
            administrators=tuple(sorted(self._governance.governance.administrators)),
            reviews=tuple(self._governance.reviews.values()),
            rotations=tuple(self._keys.rotations),
            evidence=self._compared(),
        )

    def _compared(self) -> EvidenceReport | None:
        try:
            return None if self._evidence is None else self._evidence.finish()
        except VerificationError as error:
            raise LedgerFault(None, error.what, error.why) from error

    def _place(self, sequence: int, entry: AnyEntry) -> None:
        if entry.sequence != sequence:
            why = f"it carries number {entry.sequence}: an entry before it was dropped, doubled or moved"
            raise LedgerFault(sequence, f"entry {sequence}", why)
        if entry.institution != self._institution:
            raise LedgerFault(sequence, f"entry {sequence}", f"it is of {entry.institution}, not of {self._origin}")

    def _check_time(self, sequence: int, utc: str) -> None:
        if utc != self._last_utc:
            self._last_utc = check_order(self._last_utc, utc)
        if self._trust.valid_from is not None and utc < self._trust.valid_from:
            why = f"{utc} is stated, and no key of the log was certified before {self._trust.valid_from}"
            raise VerificationError("utc", why, NEXT)
        if self._trust.valid_until is not None and utc > self._trust.valid_until:
            why = f"{utc} is stated, and the key's certificate was good until {self._trust.valid_until}"
            raise VerificationError("utc", why, NEXT)
        if self.witnessed is not None:
            self.witnessed.check_time(sequence + 1, utc)

    def _explain_foreign(self, sequence: int, data: bytes) -> None:
        """An entry whose hash is not the signed one: say what also is wrong with it, if anything. Raises."""
        try:
            self._place(sequence, decode_entry(data))
        except LedgerFault:
            raise
        except CloisterError as error:
            why = f"it is not the entry that was signed for, and {error.what}: {error.why}"
            raise LedgerFault(sequence, f"entry {sequence}", why) from error
        raise LedgerFault(sequence, f"entry {sequence}", "it is not the entry that was signed for: its hash differs")

    def _pass_checkpoint(self, checkpoint: Checkpoint) -> None:
        if self.leaves is None and checkpoint.root != self._tree.root():
            first, last = self._signed_before, self._size - 1
            span = f"entry {first}" if first == last else f"one of the entries {first} to {last}"
            raise LedgerFault(first, span, f"not what the checkpoint over {self._size} entries was signed for")
        if self._signers[self._size] != self._keys.place:
            why = "its checkpoint is signed by a key that is not the log's at this place: see the key-rotation entries"
            raise LedgerFault(self._size - 1, f"checkpoint of {self._size} entries", why)
        self._signed_before = self._size


def _evidence_book(evidence: Evidence, origin: str, public_key: bytes) -> EvidenceBook:
    try:
        return EvidenceBook(evidence, origin.rpartition("/")[2], public_key)
    except VerificationError as error:
        raise LedgerFault(None, error.what, error.why) from error


def _open_all(notes: Sequence[str], origin: str, keys: Sequence[bytes]) -> list[tuple[Checkpoint, int]]:
    """The checkpoints, verified, their sizes rising, and which key signed each, none after a later one. Raises
    LedgerFault.
    """
    checkpoints: list[tuple[Checkpoint, int]] = []
    ids, place = [key_id(origin, key) for key in keys], 0
    for number, note in enumerate(notes):
        try:
            named = {blob[:4] for name, blob in parse_note(note).signatures if name == origin}
            place = next((later for later in range(place, len(ids)) if ids[later] in named), place)
            checkpoint = open_checkpoint(note, origin, keys[place])
        except VerificationError as error:
            raise LedgerFault(None, f"checkpoint {number}", f"{error.what}: {error.why}") from error
        if checkpoints and checkpoint.size <= checkpoints[-1][0].size:
            raise LedgerFault(None, f"checkpoint {number}", "its size does not rise above the one before it")
        if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
            raise LedgerFault(None, f"checkpoint {number}", "it is over no entries, and has the root of some")
        checkpoints.append((checkpoint, place))
    return checkpoints


def _signed(leaves: Sequence[bytes], checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether a list of leaf hashes leads to every signed root, with nothing beyond."""
    if not checkpoints or checkpoints[-1].size != len(leaves):
        return False
    tree = Growth()
    for checkpoint in checkpoints:
        tree.extend(leaves[tree.size : checkpoint.size])
        if checkpoint.root != tree.root():
            return False
    return True
