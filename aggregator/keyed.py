"""Rounds with one-time keys, as far as an aggregator looks: fresh keys, and what it relays is what was signed."""

from collections.abc import Mapping
from functools import lru_cache

from aggregator.attachments import release_body_bytes, release_mail_bytes, slices
from aggregator.live import LiveJob
from aggregator.rebuild import roll_of
from aggregator.store import Kind, Transaction
from privacy.ckks.layouts import layout_of
from privacy.errors import InternalError, ProtocolError
from privacy.keyed import (
    KeyedRoundJoin,
    Release,
    RoundRoll,
    check_round_roll,
    mail_digests,
    receivers_of,
    require_mails,
)
from privacy.plan import JobPlan, RoundContext
from privacy.statement import Signed, read


def require_fresh_keys(join: KeyedRoundJoin, stored: Mapping[str, Signed]) -> None:
    """No key of a join is in another's: a copy would make the round's joins no roll for anybody."""
    keys = {join.share_key, join.open_key}
    for silo, signed in stored.items():
        other = read(signed, KeyedRoundJoin)
        if silo != join.silo and keys & {other.share_key, other.open_key}:
            why = f"has a key of {silo}'s"
            step = "Join with keys made for this round; it was not accepted."
            raise ProtocolError(f"join of {join.silo}", why, step, sender=join.silo, step="join")


@lru_cache(maxsize=8)
def checked_round_roll(plan: JobPlan, ctx: RoundContext, joins: tuple[Signed, ...]) -> RoundRoll:
    """`check_round_roll`; remembered for a few rounds, as each join has two keys to look at and every silo asks."""
    return check_round_roll(plan, ctx, joins)


def receivers_in(tx: Transaction, live: LiveJob, ctx: RoundContext) -> dict[str, bytes]:
    """Whom releases of a round are sealed to, in order."""
    row = tx.job(live.job)
    if row is None:
        raise InternalError(f"job {live.plan.name}", "is in memory and not in the database", "Report this.")
    joins = tuple(tx.statements(live.job, ctx.round_number, Kind.ROUND_JOIN).values())
    return receivers_of(roll_of(tx, row, live.plan), checked_round_roll(live.plan, ctx, joins))


def require_release(plan: JobPlan, release: Release, body: bytes, mails: bytes, receivers: int) -> None:
    """Body and mails have their right sizes, and the mails are those that were signed. Raises ProtocolError."""
    for what, data, size in (
        ("body", body, release_body_bytes(layout_of(plan))),
        ("mails", mails, receivers * release_mail_bytes()),
    ):
        if len(data) != size:
            why = f"has {len(data)} bytes, expected {size}"
            step = "Send the stored release whole."
            raise ProtocolError(f"release, {what}", why, step, sender=release.silo, step="release")
    require_mails(release.mails, mail_digests(slices(mails, receivers)), receivers, sender=release.silo, step="release")
