"""The budget office: changes of budgets that two people sign, put on record in silo.db.

Every change is a proposal first: a file that says what would be changed from what to what, which people sign on their
own machines. Recording one checks everything again, in the transaction that changes the budget.
"""

from datetime import datetime

from sqlalchemy import Connection

from certs.times import utc_text
from privacy.budget import BudgetState
from privacy.budget_change import change_epsilon, change_sub_cap
from privacy.errors import Refused
from privacy.ledger.codec import decode_entry
from privacy.ledger.entry import AdminEntry, BudgetChangeEntry, SubCapEntry
from privacy.ledger.governance import GOVERNED, governance_of
from privacy.ledger.parts import Balance
from privacy.two_person import (
    AdminChange,
    BudgetChange,
    ChangeStatement,
    Governance,
    Place,
    Proposal,
    SubCapChange,
    changed,
    signers_of,
)
from runtime.ledger_store import Ledger
from silo_agent.accounts import change_budget, require_budget
from silo_agent.entries import Author, as_typed
from silo_agent.home import Home
from silo_agent.store import Transaction
from silo_agent.tables import LEDGER


def governance(connection: Connection) -> Governance:
    """Whose signatures count here, and how many changes there have been."""
    ledger = Ledger(connection, LEDGER)
    return governance_of(map(decode_entry, ledger.entries_of(GOVERNED)), ledger.identity.origin, ledger.keys())


def propose_budget(home: Home, population: str, epsilon: float, reason: str, expires: datetime) -> Proposal:
    """Another lifetime cap, recorded until `expires` or never.

    Raises ConfigError or Refused for one that could not be recorded.
    """
    with home.store.reading() as connection:
        before = require_budget(connection, population)
        change_epsilon(before, epsilon)
        with as_typed(f"budget of {before.policy.population}"):
            change = BudgetChange(population=population, epsilon_before=before.policy.epsilon, epsilon=epsilon)
        return _proposal(connection, change, reason, expires)


def propose_sub_cap(
    home: Home, population: str, purpose: str | None, epsilon: float | None, reason: str, expires: datetime
) -> Proposal:
    """Another cap for a purpose (None: for every single job). Raises ConfigError or Refused as above."""
    with home.store.reading() as connection:
        before = require_budget(connection, population)
        change_sub_cap(before, purpose, epsilon)
        cap = before.sub_caps.of(purpose)
        with as_typed(f"sub-cap of {before.policy.population}"):
            change = SubCapChange(population=population, purpose=purpose, epsilon_before=cap, epsilon=epsilon)
        return _proposal(connection, change, reason, expires)


def propose_admin(home: Home, change: AdminChange, reason: str, expires: datetime) -> Proposal:
    """A person more or less whose signature counts."""
    with home.store.reading() as connection:
        return _proposal(connection, change, reason, expires)


def _proposal(
    connection: Connection, change: BudgetChange | SubCapChange | AdminChange, reason: str, expires: datetime
) -> Proposal:
    log, found = Ledger(connection, LEDGER).identity, governance(connection)
    with as_typed("proposal"):
        statement = ChangeStatement(
            log=log.origin,
            key=log.public_key.hex(),
            number=found.number,
            change=change,
            reason=reason,
            expires=utc_text(expires),
        )
        return Proposal(statement=statement, signers=signers_of(found, change))


def record(home: Home, proposal: Proposal, by: Author) -> None:
    """Make the change, if it has the signatures it takes. Raises Refused naming what is missing; nothing is changed."""
    with home.store.writing() as tx:
        log = tx.ledger.identity
        place = Place(log.origin, log.public_key.hex(), utc_text(by.now))
        changed(governance(tx.connection), proposal.statement, proposal.approvals, place)
        _record_change(tx, proposal, by)
        tx.ledger.checkpoint(home.identity.sign, by.now)


def _record_change(tx: Transaction, proposal: Proposal, by: Author) -> None:
    signed = proposal.statement
    said = {**by.fields(), "number": signed.number, "key": signed.key, "expires": signed.expires}
    said |= {"reason": signed.reason, "approvals": proposal.approvals}
    match proposal.statement.change:
        case BudgetChange() as change:
            after = _change(tx, change, change.epsilon_before)
            facts = change.model_dump(exclude={"kind"})
            tx.record(BudgetChangeEntry(**said, **facts, balance=Balance.of(after)))
        case SubCapChange() as change:
            _change(tx, change, change.epsilon_before)
            tx.record(SubCapEntry(**said, **change.model_dump(exclude={"kind"})))
        case AdminChange() as change:
            tx.record(AdminEntry(**said, **change.model_dump(exclude={"kind"})))


def _change(tx: Transaction, change: BudgetChange | SubCapChange, before: float | None) -> BudgetState:
    state = require_budget(tx.connection, change.population)
    is_so = state.policy.epsilon if isinstance(change, BudgetChange) else state.sub_caps.of(change.purpose)
    if is_so != before:
        raise Refused("proposal", f"it changes {before}, and {is_so} is so now", "Propose it anew.")
    if isinstance(change, BudgetChange):
        return change_budget(tx.connection, change.population, lambda b: change_epsilon(b, change.epsilon))
    return change_budget(tx.connection, change.population, lambda b: change_sub_cap(b, change.purpose, change.epsilon))
