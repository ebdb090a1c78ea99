"""What stays of a round: the entry in the aggregator's own ledger, and the record anybody can check offline."""

from collections import defaultdict
from datetime import datetime

from cloister.wire import RoundPhase

from aggregator.rebuild import context_of, roll_of
from aggregator.store import JobRow, Kind, Transaction
from aggregator.tables import LEDGER
from certs.identity import Identity
from certs.times import utc_text
from privacy.errors import ProtocolError
from privacy.ledger.entry import RoundEntry
from privacy.plan import JobPlan
from privacy.record import RoundRecord, SignedText
from privacy.statement import Signed, read
from privacy.transcript import Applied, RoundCommit, commit_digest, transcript_digest
from runtime.ledger_store import Ledger, LogIdentity


def record_round(tx: Transaction, job: bytes, number: int, identity: Identity, now: datetime) -> None:
    """Put a closed round into the ledger and sign a checkpoint, in the transaction that closes it."""
    row = tx.round(job, number)
    if row is None:
        return
    commit = _commit(tx, job, number)
    statement = None if commit is None else read(commit, RoundCommit)
    members = () if statement is None else tuple(member.silo for member in statement.members)
    transcript = None if commit is None else _transcript(tx, job, number, commit, members)
    entry = RoundEntry(
        institution=identity.party.name,
        actor=identity.party.uri,
        role="aggregator",
        utc=utc_text(now),
        job=job.hex(),
        round=number,
        outcome="published" if row.phase is RoundPhase.PUBLISHED else "aborted",
        members=members,
        transcript_sha256=None if transcript is None else transcript.hex(),
        sum_sha256=None if statement is None else statement.sum_root,
        adapter_before_sha256=row.adapter.hex(),
        adapter_after_sha256=None if row.result is None else row.result.hex(),
        reason=row.reason[:400] or None,
    )
    ledger = Ledger.begin(tx.connection, LEDGER, LogIdentity.of(identity))
    ledger.append(entry)
    ledger.checkpoint(identity.sign, now)


def round_record(tx: Transaction, row: JobRow, plan: JobPlan, number: int) -> RoundRecord:
    """One round's whole transcript. Raises ProtocolError for a round that was never committed."""
    found, commit = tx.round(row.job, number), _commit(tx, row.job, number)
    deal = next(iter(tx.statements(row.job, 0, Kind.KEY_DEAL).values()), None)
    if found is None or commit is None:
        raise ProtocolError(
            f"round {number} of job {row.name}", "has no commit, so there is no transcript", "See `aggregator rounds`."
        )
    ctx, headers = context_of(row.job, found), tx.statements(row.job, number, Kind.HEADER)
    members = [member.silo for member in read(commit, RoundCommit).members]
    return RoundRecord(
        plan=row.plan.decode(),
        job_joins=tuple(SignedText.of(join) for join in roll_of(tx, row, plan).joins),
        deal=None if deal is None else SignedText.of(deal),
        round=number,
        adapter_digest=ctx.adapter_digest.hex(),
        participants=ctx.participants,
        round_joins=_texts(tx, row.job, number, Kind.ROUND_JOIN),
        commit=SignedText.of(commit),
        headers=tuple(SignedText.of(headers[silo]) for silo in members),
        fingerprints=_texts(tx, row.job, number, Kind.FINGERPRINT),
        consents=_texts(tx, row.job, number, Kind.CONSENT),
        releases=_texts(tx, row.job, number, Kind.RELEASE),
        applied=_agreeing(tx, row.job, number, found.result),
    )


def _agreeing(tx: Transaction, job: bytes, number: int, result: bytes | None) -> tuple[SignedText, ...]:
    """What silos signed of the next adapter, as far as it is the published one, with what most say of the validation.

    One that says something else of either ends a job that is not over, and is logged; its word makes no record of the
    others' false. It stays in the database.
    """
    groups: defaultdict[str, list[SignedText]] = defaultdict(list)
    for signed in tx.statements(job, number, Kind.APPLIED).values():
        applied = read(signed, Applied)
        if result is None or applied.adapter == result.hex():
            groups[f"{applied.adapter} {applied.validation}"].append(SignedText.of(signed))
    most: list[SignedText] = max(groups.values(), key=len, default=[])
    return tuple(most)


def _texts(tx: Transaction, job: bytes, number: int, kind: Kind) -> tuple[SignedText, ...]:
    return tuple(SignedText.of(signed) for signed in tx.statements(job, number, kind).values())


def _transcript(tx: Transaction, job: bytes, number: int, commit: Signed, members: tuple[str, ...]) -> bytes | None:
    """H(tau2); None before all members' fingerprints are there."""
    headers, fingerprints = (tx.statements(job, number, kind) for kind in (Kind.HEADER, Kind.FINGERPRINT))
    if tuple(fingerprints) != members:
        return None
    committed = commit_digest(commit, [headers[silo] for silo in members])
    return transcript_digest(committed, list(fingerprints.values()))


def _commit(tx: Transaction, job: bytes, number: int) -> Signed | None:
    return next(iter(tx.statements(job, number, Kind.COMMIT).values()), None)
