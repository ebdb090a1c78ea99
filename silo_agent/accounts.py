"""Budgets in silo.db: the pure states of privacy.budget, read and written within the caller's transaction."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from immutables import Map
from sqlalchemy import Connection, Select, Table, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from privacy.accounting import Vector
from privacy.budget import BudgetPolicy, BudgetState, Grant, RoundKey, first_budget, withdraw
from privacy.errors import ConfigError
from privacy.sub_caps import Account, SubCaps
from silo_agent.tables import budgets, grants, job_accounts, reservations, sub_caps

_RESERVED, _CLOSED = "reserved", "closed"
_EVERY_JOB = ""  # the purpose under which the cap of every single job is kept; a plan's purpose is never empty


def find_budget(connection: Connection, population: str, *, whole: bool = False) -> BudgetState | None:
    """The budget of a population, if one was set.

    Of the rounds that are closed it has those of jobs that may still reserve one, unless all are asked for (`whole`):
    no other can be reserved again, and over the years they are many.
    """
    row = connection.execute(select(budgets).where(budgets.c.population == population)).one_or_none()
    if row is None:
        return None
    reserved: dict[RoundKey, Vector] = {}
    closed: dict[RoundKey, None] = {}
    for held in connection.execute(_rounds(population, whole=whole)):
        key = RoundKey(held.job, held.round)
        if held.status == _RESERVED:
            reserved[key] = _vector(held.vector)
        else:
            closed[key] = None
    return BudgetState(
        BudgetPolicy(row.population, row.epsilon, row.delta, row.unit),
        row.filter_order,
        _vector(row.committed),
        Map(reserved),
        Map(closed),
        _grants(connection, population),
        _accounts(connection, population),
        _sub_caps(connection, population),
    )


def _rounds(population: str, *, whole: bool) -> Select[Any]:
    every = select(reservations).where(reservations.c.population == population)
    if whole:
        return every
    going_on = select(grants.c.job).where(grants.c.population == population, grants.c.committed < grants.c.rounds)
    return every.where((reservations.c.status == _RESERVED) | reservations.c.job.in_(going_on))


def _grants(connection: Connection, population: str) -> Map[str, Grant]:
    rows = connection.execute(select(grants).where(grants.c.population == population))
    return Map({held.job: Grant(_vector(held.vector), held.rounds, held.committed) for held in rows})


def _accounts(connection: Connection, population: str) -> Map[str, Account]:
    rows = connection.execute(select(job_accounts).where(job_accounts.c.population == population))
    return Map({held.job: Account(held.purpose, _vector(held.committed)) for held in rows})


def _sub_caps(connection: Connection, population: str) -> SubCaps:
    rows = connection.execute(select(sub_caps).where(sub_caps.c.population == population))
    caps = {row.purpose: row.epsilon for row in rows}
    return SubCaps(caps.pop(_EVERY_JOB, None), Map(caps))


def require_budget(connection: Connection, population: str) -> BudgetState:
    """The budget of a population. Raises ConfigError when none was set."""
    state = find_budget(connection, population)
    if state is None:
        raise ConfigError(
            f"population {population!r}",
            "has no privacy budget",
            f"A steward sets it: `cloister silo budget set {population} --epsilon E --delta D`.",
        )
    return state


def all_budgets(connection: Connection) -> tuple[BudgetState, ...]:
    """Every budget, by population, whole."""
    names = connection.execute(select(budgets.c.population).order_by(budgets.c.population)).scalars().all()
    found = (find_budget(connection, name, whole=True) for name in names)
    return tuple(state for state in found if state is not None)


def open_budget(connection: Connection, policy: BudgetPolicy) -> BudgetState:
    """Set the first budget of a population. Raises Refused when it has one."""
    state = first_budget(find_budget(connection, policy.population), policy)
    connection.execute(
        insert(budgets).values(
            population=policy.population,
            epsilon=policy.epsilon,
            delta=policy.delta,
            unit=policy.unit,
            filter_order=state.filter_order,
            committed=json.dumps(state.committed),
        )
    )
    return state


def change_budget(connection: Connection, population: str, change: Callable[[BudgetState], BudgetState]) -> BudgetState:
    """Read, apply a pure function of privacy.budget, write back. Raises what the function raises; nothing changed."""
    before = require_budget(connection, population)
    after = change(before)
    connection.execute(
        update(budgets)
        .where(budgets.c.population == population)
        .values(epsilon=after.policy.epsilon, filter_order=after.filter_order, committed=json.dumps(after.committed))
    )
    _write_rounds(connection, population, before, after)
    _write_jobs(connection, population, before, after)
    if after.sub_caps != before.sub_caps:
        _write_sub_caps(connection, population, after.sub_caps)
    return after


def _write_rounds(connection: Connection, population: str, before: BudgetState, after: BudgetState) -> None:
    for key in before.reserved:
        if key not in after.reserved:
            row = {"status": _CLOSED, "vector": json.dumps(before.reserved[key])}
            _put(connection, reservations, _round(population, key), row)
    for key, vector in after.reserved.items():
        if before.reserved.get(key) != vector:
            row = {"status": _RESERVED, "vector": json.dumps(vector)}
            _put(connection, reservations, _round(population, key), row)


def _write_jobs(connection: Connection, population: str, before: BudgetState, after: BudgetState) -> None:
    for job, granted in after.grants.items():
        if before.grants.get(job) != granted:
            row = {"rounds": granted.rounds, "vector": json.dumps(granted.vector), "committed": granted.committed}
            _put(connection, grants, {"population": population, "job": job}, row)
    for job in before.grants:
        if job not in after.grants:
            connection.execute(delete(grants).where(grants.c.population == population, grants.c.job == job))
    for job, account in after.accounts.items():
        if before.accounts.get(job) != account:
            kept = {"purpose": account.purpose, "committed": json.dumps(account.committed)}
            _put(connection, job_accounts, {"population": population, "job": job}, kept)


def _write_sub_caps(connection: Connection, population: str, caps: SubCaps) -> None:
    connection.execute(delete(sub_caps).where(sub_caps.c.population == population))
    named = dict(caps.purposes) | ({} if caps.per_job is None else {_EVERY_JOB: caps.per_job})
    for purpose, epsilon in named.items():
        connection.execute(insert(sub_caps).values(population=population, purpose=purpose, epsilon=epsilon))


def withdraw_job(connection: Connection, job: str) -> bool:
    """Take back what any population granted to a job (its plan digest in hex); whether any did."""
    populations = connection.execute(select(grants.c.population).where(grants.c.job == job)).scalars().all()
    for population in populations:
        change_budget(connection, population, lambda budget: withdraw(budget, job))
    return bool(populations)


def _round(population: str, key: RoundKey) -> Mapping[str, object]:
    return {"population": population, "job": key.job, "round": key.round_number}


def _put(connection: Connection, table: Table, named: Mapping[str, object], row: Mapping[str, object]) -> None:
    statement = upsert(table).values(**named, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=list(named), set_=dict(row)))


def _vector(text: str) -> Vector:
    return tuple(float(value) for value in json.loads(text))
