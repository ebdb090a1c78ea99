"""Whose identity keys are pinned in silo.db, by role and name: a name means one party only together with its role."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert as upsert

from certs.names import Role
from certs.times import utc_text
from privacy.errors import Refused
from silo_agent.tables import peers

Pins = Mapping[tuple[Role, str], str]  # fingerprints (certs.identity.fingerprint)


def trust_peer(connection: Connection, role: Role, name: str, fingerprint: str, now: datetime) -> None:
    """Pin a party's identity fingerprint, replacing the one pinned before. For a person's command only."""
    row = {"fingerprint": fingerprint, "trusted_utc": utc_text(now)}
    statement = upsert(peers).values(role=role, name=name, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["role", "name"], set_=row))


def trust_first_aggregator(connection: Connection, name: str, fingerprint: str, now: datetime) -> None:
    """Pin the aggregator that enrolment brought, unless it is pinned. Raises Refused when another name or key is."""
    check_aggregator(connection, name, fingerprint)
    trust_peer(connection, Role.AGGREGATOR, name, fingerprint, now)


def check_aggregator(connection: Connection, name: str, fingerprint: str, then: str = "enrols again") -> None:
    """No other aggregator than this one is pinned. Raises Refused: enrolment never changes a pin.

    `then` is what a steward does who has pinned it.
    """
    pinned = {known: key for (role, known), key in trusted_peers(connection).items() if role is Role.AGGREGATOR}
    if pinned and pinned.get(name) != fingerprint:
        listed = ", ".join(f"{known} {key}" for known, key in pinned.items())
        raise Refused(
            f"aggregator {name}",
            f"its identity is {fingerprint}; pinned here is {listed}",
            "No pin was changed. Ask the coordinator by telephone; if the change is meant, a steward runs "
            f"`{trust_command(Role.AGGREGATOR, name)}`, then {then}.",
        )


def trust_command(role: Role, name: str) -> str:
    """What a steward runs to pin a party, with the fingerprint that its operator says."""
    return f"cloister silo peers trust {name} FINGERPRINT" + ("" if role is Role.SILO else f" --role {role}")


def trusted_peers(connection: Connection) -> dict[tuple[Role, str], str]:
    """Pinned fingerprints, by role and name."""
    rows = connection.execute(select(peers).order_by(peers.c.role, peers.c.name))
    return {(Role(row.role), row.name): row.fingerprint for row in rows}
