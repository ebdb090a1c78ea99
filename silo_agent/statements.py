"""What this silo said, once: rounds and signed statements in silo.db, within the caller's transaction."""

from collections.abc import Callable

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from privacy.errors import InternalError
from privacy.roll import JobJoin, JobRefusal
from privacy.statement import Signed, Statement, message_to_sign
from silo_agent.journal import decode_state, encode_state
from silo_agent.round_states import Idle, State
from silo_agent.tables import rounds, statements

Sign = Callable[[bytes], bytes]
_JOIN, _REFUSAL = JobJoin.label(), JobRefusal.label()
_CONTRARY = {_JOIN: _REFUSAL, _REFUSAL: _JOIN}  # who said the one never says the other


def round_state(connection: Connection, job: bytes, round_number: int) -> State:
    """Where this silo stands in a round; Idle if nothing was ever said about it."""
    columns = select(rounds.c.state, rounds.c.document)
    row = connection.execute(columns.where(rounds.c.job == job, rounds.c.round == round_number)).one_or_none()
    return Idle() if row is None else decode_state(row.state, row.document.encode())


def put_round_state(connection: Connection, job: bytes, round_number: int, before: State, state: State) -> None:
    """Record where this silo now stands. Raises InternalError unless it stood at `before` until now."""
    found = round_state(connection, job, round_number)
    if found != before:
        raise InternalError(
            f"round {round_number}",
            f"is {type(found).__name__}, and was {type(before).__name__} when it was looked at",
            "Does a second agent run on this state folder?",
        )
    name, document = encode_state(state)
    row = {"state": name, "document": document.decode()}
    statement = upsert(rounds).values(job=job, round=round_number, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["job", "round"], set_=row))


def put_record(connection: Connection, job: bytes, round_number: int, record: bytes) -> None:
    """Keep a certified round's transcript (privacy.record.RoundRecord) as evidence."""
    where = (rounds.c.job == job, rounds.c.round == round_number)
    connection.execute(update(rounds).where(*where).values(record=record))


def journalled_rounds(connection: Connection, job: bytes) -> dict[int, State]:
    """Every round of a job that something was said about, in order."""
    rows = connection.execute(select(rounds).where(rounds.c.job == job).order_by(rounds.c.round))
    return {row.round: decode_state(row.state, row.document.encode()) for row in rows}


def round_records(connection: Connection, job: bytes) -> dict[int, bytes]:
    """The transcripts kept for a job, by round."""
    rows = connection.execute(select(rounds).where(rounds.c.job == job).order_by(rounds.c.round))
    return {row.round: row.record for row in rows if row.record is not None}


def say(connection: Connection, round_number: int, statement: Statement, sign: Sign) -> Signed:
    """Sign a statement and store it before it is sent; 0 is the round number of a job's own statements.

    The same statement again gives the stored bytes. Raises InternalError if another one of its type, or its contrary,
    was made for this job and round: this silo says each thing once, ever.
    """
    job = bytes.fromhex(statement.plan)
    stored = said(connection, job, round_number, statement.once)
    if stored is not None:
        if stored.body != statement.body():
            raise InternalError(
                f"statement {statement.type}",
                f"another one was signed for round {round_number} of job {statement.plan[:12]}",
                "Nothing was signed. If silo.db was restored from a backup, refuse the job.",
            )
        return stored
    contrary = _CONTRARY.get(statement.type)
    if contrary is not None and said(connection, job, round_number, contrary) is not None:
        raise InternalError(
            f"statement {statement.type}", f"this silo said {contrary} of job {statement.plan[:12]}", "Report this."
        )
    signed = Signed(statement.body(), sign(message_to_sign(statement)))
    connection.execute(
        insert(statements).values(
            job=job,
            round=round_number,
            type=statement.once,
            body=signed.body,
            signature=signed.signature,
            delivered=False,
        )
    )
    return signed


def said(connection: Connection, job: bytes, round_number: int, kind: str) -> Signed | None:
    """What was signed under this name (`Statement.once`; for nearly all its type), if anything was."""
    row = connection.execute(select(statements).where(*_is(job, round_number, kind))).one_or_none()
    return None if row is None else Signed(row.body, row.signature)


def undelivered(connection: Connection, job: bytes, round_number: int, kind: str) -> Signed | None:
    """The statement of this type if the aggregator has not confirmed it yet."""
    query = select(statements).where(*_is(job, round_number, kind), statements.c.delivered.is_(False))
    row = connection.execute(query).one_or_none()
    return None if row is None else Signed(row.body, row.signature)


def mark_delivered(connection: Connection, job: bytes, round_number: int, kind: str) -> None:
    """The aggregator has it, or no longer wants it."""
    connection.execute(update(statements).where(*_is(job, round_number, kind)).values(delivered=True))


def _is(job: bytes, round_number: int, kind: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    columns = statements.c
    return (columns.job == job, columns.round == round_number, columns.type == kind)
