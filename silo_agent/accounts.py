"""Budgets in silo.db: the pure states of privacy.budget, read and written within the caller's transaction."""

import json
from collections.abc import Callable

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from privacy.accounting import Vector
from privacy.budget import BudgetPolicy, BudgetState, Grant, RoundKey, first_budget, withdraw
from privacy.errors import ConfigError
from silo_agent.tables import budgets, grants, reservations

_RESERVED, _CLOSED = "reserved", "closed"


def find_budget(connection: Connection, population: str) -> BudgetState | None:
    """The budget of a population, if one was set."""
    row = connection.execute(select(budgets).where(budgets.c.population == population)).one_or_none()
    if row is None:
        return None
    reserved: dict[RoundKey, Vector] = {}
    closed: set[RoundKey] = set()
    for held in connection.execute(select(reservations).where(reservations.c.population == population)):
        key = RoundKey(held.job, held.round)
        if held.status == _RESERVED:
            reserved[key] = _vector(held.vector)
        else:
            closed.add(key)
    granted = {
        held.job: Grant(_vector(held.vector), held.rounds, held.committed)
        for held in connection.execute(select(grants).where(grants.c.population == population))
    }
    policy = BudgetPolicy(row.population, row.epsilon, row.delta, row.unit)
    return BudgetState(policy, row.filter_order, _vector(row.committed), reserved, frozenset(closed), granted)


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
    """Every budget, by population."""
    names = connection.execute(select(budgets.c.population).order_by(budgets.c.population)).scalars().all()
    return tuple(require_budget(connection, name) for name in names)


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
        .values(filter_order=after.filter_order, committed=json.dumps(after.committed))
    )
    for key in after.closed - before.closed:
        _put(connection, population, key, _CLOSED, before.reserved.get(key, ()))
    for key, vector in after.reserved.items():
        if before.reserved.get(key) != vector:
            _put(connection, population, key, _RESERVED, vector)
    for job, granted in after.grants.items():
        if before.grants.get(job) != granted:
            _put_grant(connection, population, job, granted)
    for job in before.grants.keys() - after.grants.keys():
        connection.execute(delete(grants).where(grants.c.population == population, grants.c.job == job))
    return after


def withdraw_job(connection: Connection, job: str) -> bool:
    """Take back what any population granted to a job (its plan digest in hex); whether any did."""
    populations = connection.execute(select(grants.c.population).where(grants.c.job == job)).scalars().all()
    for population in populations:
        change_budget(connection, population, lambda budget: withdraw(budget, job))
    return bool(populations)


def _put_grant(connection: Connection, population: str, job: str, granted: Grant) -> None:
    row = {"rounds": granted.rounds, "vector": json.dumps(granted.vector), "committed": granted.committed}
    statement = upsert(grants).values(population=population, job=job, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["population", "job"], set_=row))


def _put(connection: Connection, population: str, key: RoundKey, status: str, vector: Vector) -> None:
    row = {"status": status, "vector": json.dumps(vector)}
    named = {"population": population, "job": key.job, "round": key.round_number}
    statement = upsert(reservations).values(**named, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=list(named), set_=row))


def _vector(text: str) -> Vector:
    return tuple(float(value) for value in json.loads(text))
