"""Approving and refusing a job: the same checks and records for the steward's command and for the policy file."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from privacy.accounting import by_record_event, rdp_epsilon, rdp_vector
from privacy.budget import BudgetRefusal, grant
from privacy.errors import (
    CloisterError,
    ConfigError,
    InternalError,
    ProtocolError,
    Refused,
    Unavailable,
    VerificationError,
)
from privacy.forecast import Forecast
from privacy.job_budget import job_epsilon, require_job
from privacy.ledger.parts import NotBudget
from privacy.plan import JobPlan
from privacy.roll import JobRefusal
from privacy.tasks import ModelTask
from runtime.models import check_weights, resolve_model
from silo_agent import entries
from silo_agent.accounts import change_budget, find_budget, require_budget, withdraw_job
from silo_agent.admission import check_budget, check_pins, check_plan, check_price, check_rounds
from silo_agent.entries import NOTHING_SAID, Author, Charged, References
from silo_agent.home import Home
from silo_agent.jobs import NOT_JOINED, TAKING_PART, WAITING, JobMoved, JobState, require_job_record, set_job_state
from silo_agent.peers import trusted_peers
from silo_agent.policy import assumption, note_policy
from silo_agent.register import RegisteredDataset, require_dataset
from silo_agent.statements import say
from silo_agent.store import Transaction

if TYPE_CHECKING:
    from silo_agent.datasets import Dataset

Reason = Literal["steward", "budget", "cannot-run"]
CODES: tuple[tuple[type[CloisterError], NotBudget], ...] = (
    (Refused, "not-fit"),
    (VerificationError, "wrong-digest"),
    (ConfigError, "not-ready"),
    (ProtocolError, "wrong-message"),
)


@dataclass(frozen=True)
class Terms:
    """What an approval grants beyond the plan's rounds, for rounds that fail, and what a steward says it rests on.

    A job that shares its noise needs `accept_shared_noise`: its promise is not this silo's alone to keep.
    """

    extra_rounds: int = 0
    references: References = NOTHING_SAID
    accept_shared_noise: bool = False


PLAIN = Terms()
WITHDRAWN = "refused by a steward after it was joined: no further round is trained here"


@dataclass(frozen=True)
class ByRecord:
    """For a job that protects patients: what the same training would leave the patient with the most records, were the
    promise made to records instead. For the steward's eyes: it is a fact about the data.
    """

    most_records: int
    epsilon: float  # of the job, to each patient
    epsilon_by_record: float | None  # to that patient; None: nothing at all


@dataclass(frozen=True)
class Examined:
    """A job that may be approved: on which data (None: a rehearsal), what it charges and would do to their budget."""

    dataset: RegisteredDataset | None
    charged: Charged | None
    forecast: Forecast | None
    by_record: ByRecord | None = None


def examine(home: Home, plan: JobPlan, dataset_name: str | None, rounds: int) -> Examined:
    """Everything that can be checked before any key, gradient or budget. Changes nothing.

    Raises ConfigError (a peer not pinned, no such dataset, model or budget), ProtocolError (another silo's plan),
    VerificationError (other weights), Refused (too small a dataset, no price), _BudgetRefused (with what would fit).
    """
    check_price(plan)
    check_plan(plan, plan.digest(), home.settings.federation, home.name, home.identity.public_key)
    with home.store.reading() as connection:
        check_pins(plan, home.name, trusted_peers(connection))
        dataset = require_dataset(connection, dataset_name) if dataset_name is not None else None
    if not isinstance(plan.task, ModelTask):
        return Examined(None, None, None)
    charged = charged_of(plan, dataset)
    if dataset is None or charged is None:
        raise InternalError(f"job {plan.name!r}", "trains on data and charges nobody", "Report this.")
    with home.store.reading() as connection:
        budget = find_budget(connection, dataset.population)
    try:
        forecast = check_budget(plan, dataset.population, budget, rounds)
    except BudgetRefusal as refusal:
        raise _BudgetRefused(refusal, charged) from refusal
    check_weights(model_folder(home, plan.task), plan.task.model.weights_sha256)
    from silo_agent.datasets import require_fit, require_small_delta

    records = loaded(home, dataset)
    require_fit(records, plan)
    if budget is not None:
        require_small_delta(records, budget.policy.delta, "population's budget's")
    return Examined(dataset, charged, forecast, _by_record(charged, records, rounds))


def _by_record(charged: Charged, records: "Dataset", rounds: int) -> ByRecord | None:
    """None where the unit is the record, or no patient has two."""
    most, dp = records.training.most_records, charged.dp
    if records.unit != "patient" or most < 2:
        return None
    steps = rounds * dp.steps_per_round
    event = by_record_event(dp, steps, most)
    by_record = None if event is None else rdp_epsilon(rdp_vector(event), dp.delta)
    return ByRecord(most, job_epsilon(charged.plan, dp.delta, rounds), by_record)


def model_folder(home: Home, task: ModelTask) -> Path:
    """Where the job's model lies, of those the operator mapped or lets fetch. Raises ConfigError when it is none."""
    hub = home.settings.models_hub.allow
    return resolve_model(task.model.source, task.model.revision, home.model_folders(), hub)


def loaded(home: Home, dataset: RegisteredDataset) -> "Dataset":
    """The registered dataset's records. Raises ConfigError naming the column or row that is wrong, or a file that has
    changed since.
    """
    from silo_agent.dataset_spec import DatasetSpec
    from silo_agent.datasets import load_dataset
    from silo_agent.register import check_unchanged, data_files

    spec = DatasetSpec.model_validate_json(dataset.spec)
    files = data_files(spec.files(dataset.folder))
    with home.store.reading() as connection:
        check_unchanged(connection, dataset, files)
    return load_dataset(spec, dataset.folder)


def charged_of(plan: JobPlan, dataset: RegisteredDataset | None) -> Charged | None:
    """What the rounds of a job charge; None for a rehearsal. Raises ConfigError for a job on data without any."""
    if plan.dp is None:
        return None
    if dataset is None:
        raise ConfigError(
            f"job {plan.name!r}", "trains on data, and no dataset is named", "Name a registered one with --dataset."
        )
    return Charged(plan, plan.dp, dataset.population, dataset.name)


def approve(home: Home, plan: JobPlan, dataset_name: str | None, by: Author, terms: Terms = PLAIN) -> Examined:
    """Examine, then grant the job its rounds: they, and no others, may ever be charged.

    Raises what `examine` raises; Refused for a job that was decided, or whose shared noise is not accepted;
    BudgetRefusal only once it is on record, by a decision that was made again in the transaction that records it;
    Unavailable if that one came out otherwise.
    """
    rounds = check_rounds(plan, terms.extra_rounds)
    if plan.dp is not None and plan.dp.noise == "shared" and not terms.accept_shared_noise:
        step = "If that may be relied on, approve it with --accept-shared-noise; if not, refuse it."
        raise Refused(f"job {plan.name!r}", assumption(plan, plan.dp.delta, rounds), step)
    try:
        examined = examine(home, plan, dataset_name, rounds)
    except _BudgetRefused as found:
        _settle(home, plan, dataset_name, found.charged, by, terms, grants=False)
        why = "the budget moved while the job was examined"
        raise Unavailable(f"job {plan.name!r}", why, "Do it again.") from found
    forecast = _settle(home, plan, dataset_name, examined.charged, by, terms, grants=True)
    return replace(examined, forecast=forecast)


class _BudgetRefused(Exception):  # noqa: N818 - a decision that is not on record yet
    """The budget does not admit the job, as it was a moment ago."""

    def __init__(self, refusal: BudgetRefusal, charged: Charged) -> None:
        super().__init__(refusal.why)
        self.charged = charged


def _settle(
    home: Home, plan: JobPlan, dataset: str | None, charged: Charged | None, by: Author, terms: Terms, *, grants: bool
) -> Forecast | None:
    """Decide by the budget as it now is, and record that; an approval only if `grants`.

    Raises BudgetRefusal once it is on record; with nothing recorded ConfigError if a peer is not pinned any more, and
    Refused if it is pinned with another key.
    """
    rounds, forecast, of = plan.rounds + terms.extra_rounds, None, None
    refusal: BudgetRefusal | None = None
    with home.store.writing() as tx:
        if require_job_record(tx.connection, plan.digest()).state is not JobState.SEEN:
            raise JobMoved(f"job {plan.name!r}", "was decided meanwhile", "`cloister silo jobs` says how.")
        if charged is not None:
            of = (charged, require_budget(tx.connection, charged.population))
            try:
                forecast = require_job(of[1], plan.digest().hex(), plan.purpose, charged.dp, rounds)
            except BudgetRefusal as error:
                refusal = error
                tx.record(entries.budget_refusal_entry(by, charged, of[1], rounds, refusal.code))
        if refusal is None and grants:
            check_pins(plan, home.name, trusted_peers(tx.connection))  # as they are by now
            if charged is not None:
                _grant(tx, charged, rounds)
            if by.role == "agent":
                note_policy(tx, home.settings.policy, by)
            tx.record(entries.approval_entry(by, plan, rounds, of, terms.references))
            job, state = plan.digest(), JobState.APPROVED
            set_job_state(tx.connection, job, state, by.now, expected=WAITING, dataset=dataset, decided_by=by.actor)
        tx.ledger.checkpoint(home.identity.sign, by.now)
    if refusal is not None:
        raise refusal
    return forecast


def _grant(tx: Transaction, charged: Charged, rounds: int) -> None:
    job, purpose = charged.plan.digest().hex(), charged.plan.purpose
    change_budget(
        tx.connection, charged.population, lambda b: grant(b, job, charged.charge(b.policy).rdp, rounds, purpose)
    )


def refuse(
    home: Home,
    plan: JobPlan,
    reason: Reason,
    error: CloisterError | None,
    by: Author,
    expected: Collection[JobState] = NOT_JOINED,
) -> None:
    """Take no part in a job: on record, and signed for the aggregator; both hear a code only.

    `error` says why, None if a steward just declines. A refusal by the budget is on record already.
    Raises JobMoved, with nothing said, unless the job is in one of the `expected` states.
    """
    job = plan.digest()
    why = "refused by a steward" if error is None else f"{error.what}: {error.why}"
    with home.store.writing() as tx:
        set_job_state(tx.connection, job, JobState.REFUSED, by.now, why, expected=expected, decided_by=by.actor)
        say(tx.connection, 0, JobRefusal(plan=job.hex(), silo=home.name, reason=reason), home.identity.sign)
        withdraw_job(tx.connection, job.hex())
        if reason != "budget":
            decision: entries.Decision = "steward" if reason == "steward" else "preflight"
            tx.record(entries.refuse_entry(by, plan, decision, _code(error)))
            tx.ledger.checkpoint(home.identity.sign, by.now)


def withdraw(home: Home, plan: JobPlan, by: Author) -> None:
    """Train no further round of a job that was joined: on record, by taking its approval back.

    A round that is reserved goes on to its end. The silo stays a member: it withdraws from every further round, so that
    nobody waits for it, and checks and opens their sums. Raises Refused for a rehearsal, which has no approval to take
    back, and for a job that this was done to before; JobMoved unless the job is joined and not over.
    """
    job, what = plan.digest(), f"job {plan.name!r}"
    if plan.dp is None:
        step = "To take no part stop the agent, or ask the coordinator to cancel the job."
        raise Refused(what, "is a rehearsal and joined: it touches no data and spends no budget", step)
    with home.store.writing() as tx:
        state = require_job_record(tx.connection, job).state
        set_job_state(tx.connection, job, state, by.now, WITHDRAWN, expected=TAKING_PART, decided_by=by.actor)
        if not withdraw_job(tx.connection, job.hex()):
            raise Refused(what, "trains no further round already", "What was spent stays spent.")
        tx.record(entries.refuse_entry(by, plan, "steward", "declined"))
        tx.ledger.checkpoint(home.identity.sign, by.now)


def _code(error: CloisterError | None) -> NotBudget:
    if error is None:
        return "declined"
    return next((code for kind, code in CODES if isinstance(error, kind)), "not-ready")
