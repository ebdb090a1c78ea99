"""What silos say to the aggregator, as plain calls: `silo` is whom the caller's certificate names.

Every statement is checked (who, which job, which round, signature), stored once, and told to the machines, in that
order and in one transaction. The same bytes again change nothing; other bytes are refused as a contradiction.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

import structlog
from cloister.wire import RoundPhase

from aggregator import job as jobs
from aggregator.accumulate import StagedUpdate, Upload, passing_chunks, update_paths
from aggregator.job_events import JobEvent, KeyDealt, SiloJoined, SiloRefused
from aggregator.keyed import checked_round_roll, receivers_in, require_fresh_keys, require_release
from aggregator.live import LiveJob, Turn
from aggregator.reading import announced_row, members_of, only, roster_job
from aggregator.rebuild import context_of
from aggregator.round_events import (
    RoundEvent,
    RoundJoined,
    SiloApplied,
    SiloConsented,
    SiloFingerprinted,
    SiloReleased,
    SiloWithdrew,
    UpdateStored,
)
from aggregator.runner import Runner
from aggregator.store import Kind, Transaction
from privacy.ckks.fingerprint import Value, decode, fingerprint_of
from privacy.ckks.layouts import layout_of
from privacy.envelope import header_kind
from privacy.errors import ProtocolError
from privacy.keyed import KeyedRoundJoin, Release, check_release, keyed_headers
from privacy.plan import RoundContext
from privacy.roll import JobJoin, JobRefusal, KeyDeal, check_deal, require_plan
from privacy.statement import RoundStatement, Signed, SiloStatement, plan_named, read, verify
from privacy.transcript import (
    Applied,
    Consent,
    Fingerprint,
    HeaderCheck,
    RoundJoin,
    Withdrawal,
    commit_digest,
    group_headers,
    require_commit,
    require_round,
    require_unopened,
    transcript_digest,
)
from privacy.validation import require_validation

LOG = structlog.get_logger("aggregator")
TAKES_RELEASES = (RoundPhase.SHARING, RoundPhase.RELEASING, RoundPhase.PUBLISHED)
S = TypeVar("S", bound=SiloStatement)
R = TypeVar("R", bound=RoundStatement)


class StatementDesk:
    """Takes statements and updates. Raises ProtocolError (the silo's fault), Refused, Unavailable (our disk)."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._releasing = threading.Lock()
        self._expected_values: dict[tuple[bytes, str], tuple[bytes, Value]] = {}  # by job and silo: commit, fingerprint

    # -- what a silo says about a job ----------------------------------------------------------------------------------

    def join_job(self, silo: str, signed: Signed) -> None:
        """A JobJoin."""
        self._about_job(silo, signed, JobJoin, Kind.JOB_JOIN, SiloJoined(silo, signed))

    def refuse_job(self, silo: str, signed: Signed) -> None:
        """A JobRefusal."""
        self._about_job(silo, signed, JobRefusal, Kind.JOB_REFUSAL, SiloRefused(silo))

    def _about_job(self, silo: str, signed: Signed, kind: type[SiloStatement], label: Kind, event: JobEvent) -> None:
        live = self._of_statement(silo, signed, kind)
        with self._runner.turn(live.job) as turn:
            if turn.tx.once(live.job, 0, label, silo, signed, turn.now):
                turn.tell_job(event)

    def deal_key(self, silo: str, signed: Signed, mails: Mapping[str, bytes]) -> None:
        """The dealer's KeyDeal with one mail for every other member."""
        live = self._of_statement(silo, signed, KeyDeal)
        with self._runner.turn(live.job) as turn:
            known = turn.tx.statement(live.job, 0, Kind.KEY_DEAL, silo)
            if known is None and isinstance(turn.job, jobs.Dealing):
                check_deal(live.plan, turn.job.roll, signed, mails)
                if len(mails) != len(turn.job.roll.members) - 1:
                    raise ProtocolError(
                        "key deal", "not every mail that was signed came", "Send it whole.", sender=silo, step="deal"
                    )
                turn.tx.add_mails(live.job, mails)
            if turn.tx.once(live.job, 0, Kind.KEY_DEAL, silo, signed, turn.now):
                turn.tell_job(KeyDealt(silo))

    # -- what a silo says about a round --------------------------------------------------------------------------------

    def join_round(self, silo: str, signed: Signed) -> None:
        """Step 0: a RoundJoin, or with one-time keys a KeyedRoundJoin whose keys are nobody else's."""
        live = self._job_of(silo, signed)
        kind = KeyedRoundJoin if live.plan.suite.keyed else RoundJoin
        _, join = self._round_statement(silo, signed, kind)
        self._runner.heard_of(silo, live.job)
        with self._runner.turn(live.job) as turn:
            if isinstance(join, KeyedRoundJoin):
                require_fresh_keys(join, turn.tx.statements(live.job, join.round, Kind.ROUND_JOIN))
            self._take(turn, join, signed, Kind.ROUND_JOIN, RoundJoined(silo))

    def withdraw(self, silo: str, signed: Signed) -> None:
        """Step 1: nothing will come."""
        live, withdrawal = self._round_statement(silo, signed, Withdrawal)
        with self._runner.turn(live.job) as turn:
            self._take(turn, withdrawal, signed, Kind.WITHDRAWAL, SiloWithdrew(silo))

    def fingerprint(self, silo: str, signed: Signed) -> None:
        """Step 3: the fingerprint of the silo's own ciphertext, compared with that of the update that came.

        One that differs counts for the round as none. It is computed before the turn, for it reads a whole update.
        """
        live, said = self._round_statement(silo, signed, Fingerprint)
        with self._runner.store.reading() as tx:
            if tx.statement(live.job, said.round, Kind.FINGERPRINT, silo) == signed:
                return
        expected, spent_ns = self._expected(live, said)
        holds = decode(said.value, layout_of(live.plan).moduli, silo) == expected
        with self._runner.turn(live.job) as turn:
            require_commit(_committed(turn.tx, said), said)
            commit = only(turn.tx.statements(live.job, said.round, Kind.COMMIT))
            require_unopened(live.plan, members_of(commit) if commit else (), said)
            if holds:
                event = SiloFingerprinted(silo, holds=True, unopened=frozenset(said.unopened))
                if self._take(turn, said, signed, Kind.FINGERPRINT, event):
                    turn.tx.add_aggregation(live.job, said.round, spent_ns)
            else:
                turn.tell_round(SiloFingerprinted(silo, holds=False), said.round)
        if not holds:
            LOG.warning("fingerprint differs", silo=silo, round=said.round, job=live.job.hex()[:12])
            raise ProtocolError(
                "fingerprint", "is not that of the update that was sent", "The round goes on without this silo's.",
                sender=silo, step="fingerprint",
            )  # fmt: skip

    def _expected(self, live: LiveJob, said: Fingerprint) -> tuple[Value, int]:
        """The fingerprint of what this silo sent (not read for another commit), and the processor time it took."""
        started = time.thread_time_ns()
        with self._runner.store.reading() as tx:
            row = announced_row(tx, live, said.round)
            header, committed = tx.statement(live.job, said.round, Kind.HEADER, said.silo), _committed(tx, said)
        require_round(context_of(live.job, row), said)
        if header is None or row.phase is not RoundPhase.FINGERPRINTING:
            why = f"it is {row.phase.name} and takes no fingerprint of {said.silo}"
            raise ProtocolError(f"round {said.round}", why, "Ask for the round (GetRound).", sender=said.silo)
        require_commit(committed, said)
        known = self._expected_values.get((live.job, said.silo))
        if known is not None and known[0] == committed:
            return known[1], 0  # whoever asks again costs no second pass over its update
        folder = self._runner.blobs.sum(live.job, said.round, 1).parent
        residues, _ = update_paths(folder, said.silo, header, live.plan)
        layout = layout_of(live.plan)
        value = fingerprint_of(layout, committed, passing_chunks(residues, layout.chunk_bytes(0)))
        self._expected_values[live.job, said.silo] = committed, value
        return value, time.thread_time_ns() - started

    def consent(self, silo: str, signed: Signed) -> None:
        """Step 5: a Consent to the transcript of this round."""
        live, consent = self._round_statement(silo, signed, Consent)
        with self._runner.turn(live.job) as turn:
            self._check_transcript(turn, consent)
            self._take(turn, consent, signed, Kind.CONSENT, SiloConsented(silo))

    def release(self, silo: str, signed: Signed, body: bytes, mails: bytes) -> None:
        """Step 6 with one-time keys: a Release, and what it is of: on disk before it counts."""
        live, release = self._round_statement(silo, signed, Release)
        with self._runner.store.reading() as tx:
            row, known = announced_row(tx, live, release.round), tx.statement(*_released(live, release))
            if known == signed:
                return
            if row.phase not in TAKES_RELEASES or live.forgotten or not live.plan.suite.keyed:
                why, step = f"is {row.phase.name} and takes no release of shares", "Ask for the round (GetRound)."
                raise ProtocolError(f"round {release.round}", why, step, sender=silo, step="release")
            transcript = self._transcript(tx, live, release)
            receivers = receivers_in(tx, live, context_of(live.job, row))
        check_release(live.plan, context_of(live.job, row), transcript, signed, body)
        require_release(live.plan, release, body, mails, len(receivers))
        with self._releasing:  # or a refused one could take away the file of its repetition, which is accepted
            self._keep_release(live, release, signed, body + mails)

    def _keep_release(self, live: LiveJob, release: Release, signed: Signed, sealed: bytes) -> None:
        path = self._runner.blobs.release(live.job, release.round, signed)
        self._runner.blobs.write(path, sealed)
        try:
            with self._runner.turn(live.job) as turn:
                if self._take(turn, release, signed, Kind.RELEASE, SiloReleased(release.silo)):
                    size = len(sealed) + len(signed.body) + len(signed.signature)
                    turn.tx.add_upload(live.job, release.round, release.silo, size)
        except BaseException:
            with self._runner.store.reading() as tx:
                if tx.statement(*_released(live, release)) != signed:
                    path.unlink(missing_ok=True)
            raise

    def _transcript(self, tx: Transaction, live: LiveJob, said: RoundStatement) -> bytes:
        """H(tau2) of a round as it stands."""
        fingerprints = tuple(tx.statements(live.job, said.round, Kind.FINGERPRINT).values())
        return transcript_digest(_committed(tx, said), fingerprints)

    def applied(self, silo: str, signed: Signed) -> None:
        """Step 8: the digest of the next global adapter, and the opened validation sums."""
        live, applied = self._round_statement(silo, signed, Applied)
        require_validation(live.plan, applied)
        self._runner.heard_of(silo, live.job)
        with self._runner.turn(live.job) as turn:
            event = SiloApplied(silo, bytes.fromhex(applied.adapter), applied.validation)
            self._take(turn, applied, signed, Kind.APPLIED, event)

    def _take(self, turn: Turn, said: RoundStatement, signed: Signed, kind: Kind, event: RoundEvent) -> bool:
        """Check the round, store once, tell the machine. False if it was known already."""
        require_round(turn.context(said.round), said)
        fresh = turn.tx.once(turn.live.job, said.round, kind, said.silo, signed, turn.now)
        if fresh:
            turn.tell_round(event, said.round)
        return fresh

    def _check_transcript(self, turn: Turn, consent: Consent) -> None:
        require_round(turn.context(consent.round), consent)
        fingerprints = tuple(turn.tx.statements(turn.live.job, consent.round, Kind.FINGERPRINT).values())
        if not fingerprints:
            return  # the machine refuses it: the round is not at this step
        if consent.transcript != transcript_digest(_committed(turn.tx, consent), fingerprints).hex():
            raise ProtocolError(
                "consent", f"{consent.silo} consents to another transcript of round {consent.round}",
                "It was not accepted; fetch the round again.", sender=consent.silo, step="consent",
            )  # fmt: skip

    # -- updates -------------------------------------------------------------------------------------------------------

    def open_upload(self, silo: str, signed: Signed) -> Upload | None:
        """Check an update's header before any of its bytes. None if this very update was accepted before."""
        kind = header_kind(self._job_of(silo, signed).plan.suite)
        live, header = self._round_statement(silo, signed, kind)
        with self._runner.store.reading() as tx:
            row = announced_row(tx, live, header.round)
            known = tx.statement(live.job, header.round, Kind.HEADER, silo)
            withdrawn = tx.statement(live.job, header.round, Kind.WITHDRAWAL, silo)
            if known is None:
                self._headers(tx, live, context_of(live.job, row), silo)(signed)
        if known == signed:
            return None
        if known is not None:
            raise ProtocolError(
                f"header for round {header.round} by {silo}",
                "differs from the one that was accepted before (equivocation)",
                "A silo submits once a round; the first stands and both are evidence. Send the stored bytes again.",
                sender=silo, step="submit",
            )  # fmt: skip
        if not live.collects(header.round) or withdrawn is not None:
            why = "the silo withdrew" if withdrawn is not None else f"it is {row.phase.name} and takes no update"
            raise ProtocolError(f"round {header.round}", why, "Ask for the round (GetRound).", sender=silo)
        folder = self._runner.blobs.round(live.job, header.round)
        return Upload(folder, live.plan, len(row.participants), header, signed)

    def _headers(self, tx: Transaction, live: LiveJob, ctx: RoundContext, silo: str) -> HeaderCheck:
        """What a header of this round must fit."""
        if not live.plan.suite.keyed:
            deal = only(tx.statements(live.job, 0, Kind.KEY_DEAL))
            commitment = b"" if deal is None else bytes.fromhex(read(deal, KeyDeal).key_commitment)
            return group_headers(live.plan, ctx, commitment)
        if not live.collects(ctx.round_number):
            step = "Ask for the round (GetRound)."
            raise ProtocolError(f"round {ctx.round_number}", "takes no update", step, sender=silo)
        joins = tuple(tx.statements(live.job, ctx.round_number, Kind.ROUND_JOIN).values())
        return keyed_headers(live.plan, ctx, checked_round_roll(live.plan, ctx, joins))

    def uploading(self, upload: Upload, cancel: Callable[[], object]) -> AbstractContextManager[None]:
        """While an update comes: `cancel` is called when its silo sends another, or the round goes on without it."""
        header = upload.header
        return self._runner.uploading(bytes.fromhex(header.plan), header.round, header.silo, cancel)

    def accept(self, update: StagedUpdate) -> None:
        """Add a whole, checked update to the sum, and let it count; if it cannot, its bytes are removed."""
        header = update.statement
        live = self._runner.live(bytes.fromhex(header.plan))
        running_sum = live.running_sum
        if running_sum is not None and live.number == header.round:
            running_sum.add(update)
        try:
            with self._runner.turn(live.job) as turn:
                if self._take(turn, header, update.header, Kind.HEADER, UpdateStored(update.silo)):
                    turn.tx.add_upload(live.job, header.round, update.silo, update.bytes_received)
        except BaseException:
            self._discard(live, header.round, update)
            raise

    def _discard(self, live: LiveJob, number: int, update: StagedUpdate) -> None:
        with self._runner.store.reading() as tx:
            accepted = tx.statement(live.job, number, Kind.HEADER, update.silo)
        if accepted != update.header:
            for path in (update.residues, update.attachment):
                path.unlink(missing_ok=True)

    # -- who and what --------------------------------------------------------------------------------------------------

    def _job_of(self, silo: str, signed: Signed) -> LiveJob:
        """The job that a statement of either suite is about."""
        return roster_job(self._runner, silo, plan_named(signed))

    def _of_statement(self, silo: str, signed: Signed, kind: type[S]) -> LiveJob:
        return self._checked(silo, signed, kind)[0]

    def _round_statement(self, silo: str, signed: Signed, kind: type[R]) -> tuple[LiveJob, R]:
        return self._checked(silo, signed, kind)

    def _checked(self, silo: str, signed: Signed, kind: type[S]) -> tuple[LiveJob, S]:
        """The job a statement is about, and the statement, if it is the caller's own and properly signed."""
        claimed = read(signed, kind)
        if claimed.silo != silo:
            raise ProtocolError(
                f"statement {kind.__name__}", f"is by {claimed.silo}, and the caller is {silo}",
                "Each silo speaks for itself; it was not accepted.", sender=silo,
            )  # fmt: skip
        live = roster_job(self._runner, silo, bytes.fromhex(claimed.plan))
        statement = verify(signed, kind, live.plan.identity_keys)
        require_plan(live.plan, statement)
        return live, statement


def _released(live: LiveJob, release: Release) -> tuple[bytes, int, Kind, str]:
    return live.job, release.round, Kind.RELEASE, release.silo


def _committed(tx: Transaction, said: RoundStatement) -> bytes:
    """H(tau1) of a round as it stands. Raises ProtocolError before there is a commit."""
    job = bytes.fromhex(said.plan)
    commit = only(tx.statements(job, said.round, Kind.COMMIT))
    if commit is None:
        step = "Ask for the round (GetRound)."
        raise ProtocolError(f"round {said.round}", "has no commit yet", step, sender=said.silo)
    headers = tx.statements(job, said.round, Kind.HEADER)
    return commit_digest(commit, [headers[name] for name in members_of(commit)])
