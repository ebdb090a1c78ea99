"""From a job file to a prepared job: a folder with the plan's canonical bytes and the starting adapter.

A job file (TOML) says what the coordinator wants; the roster comes from the aggregator's list of members. A job on data
is planned by `silo_agent.planning` (which reads the model, so needs torch); a rehearsal is planned here, without.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from privacy.errors import ConfigError
from privacy.fields import Name, Positive, PositiveReal, Strict, Text, first_complaint
from privacy.plan import Cohort, Deadlines, Grid, JobPlan, RosterMember
from privacy.suites import Suite
from privacy.tasks import Rehearsal
from runtime.config import read_toml, validated
from silo_agent.choices import OpenTo, ServerChoice, Wanted, settle

PLAN_FILE = "plan.json"
ARTIFACT_FILE = "adapter.safetensors"


@dataclass(frozen=True)
class Membership:
    """Who is enrolled: what a roster is made of."""

    federation: str
    aggregator: RosterMember
    silos: tuple[RosterMember, ...]

    def roster(self, wanted: Sequence[str]) -> tuple[RosterMember, ...]:
        """The silos of these names (all when none is named), sorted. Raises ConfigError for one not enrolled."""
        by_name = {silo.name: silo for silo in self.silos}
        unknown = sorted(set(wanted) - by_name.keys())
        enrolled = ", ".join(sorted(by_name)) or "none"
        if unknown:
            raise ConfigError(
                "roster", f"{', '.join(unknown)} not enrolled; enrolled are: {enrolled}",
                "Invite them first (cloister aggregator invite), or leave them out.",
            )  # fmt: skip
        if len(by_name) < 2:
            raise ConfigError("roster", f"needs two silos or more; enrolled are: {enrolled}", "Invite more silos.")
        return tuple(by_name[name] for name in sorted(set(wanted) or by_name))

    def require_federation(self, name: str) -> None:
        """The job file must be about this federation. Raises ConfigError."""
        if name != self.federation:
            raise ConfigError("job file, federation", f"{name!r}, and this is {self.federation!r}", "Correct the file.")


class RehearsalChoice(Strict):
    """[rehearsal]: how many values to send around, and their range."""

    values: Positive
    update_range: PositiveReal = 1.0


class RehearsalCohort(Strict):
    """[cohort] of a rehearsal."""

    minimum: Annotated[int, Field(ge=2)] | None = (
        None  # none: all silos, or for ckks-multikey the fewest that can open a sum
    )
    tolerated_colluders: Annotated[int, Field(ge=0)] | None = None  # none: what is usual for the suite


class RehearsalDeadlines(Strict):
    """[deadlines] of a rehearsal, in seconds; shorter than those of a job on data, since nobody has to decide."""

    join_job_s: PositiveReal = 120.0
    join_round_s: PositiveReal = 60.0
    submit_s: PositiveReal = 600.0
    consent_s: PositiveReal = 300.0
    apply_s: PositiveReal = 300.0


class RehearsalFile(Strict):
    """A job file with a [rehearsal]: no data, no model, no budget; it tries the machinery."""

    name: Name
    federation: Name
    purpose: Text = "rehearsal"
    rounds: Positive = 1
    round_attempts: Positive | None = None
    suite: Annotated[Suite, Field(strict=False)] | None = None  # none: ckks-multikey from four silos up
    parameters: Text | None = None  # none: the suite's set with the fewest bytes
    open_to: OpenTo = "silos"
    grid_bits: int = 16
    rehearsal: RehearsalChoice
    server: ServerChoice = ServerChoice()
    cohort: RehearsalCohort = RehearsalCohort()
    deadlines: RehearsalDeadlines = RehearsalDeadlines()

    @property
    def wanted(self) -> Wanted:
        """What it says, and leaves open, about suite and cohort."""
        cohort = self.cohort
        return Wanted(self.suite, self.parameters, cohort.tolerated_colluders, cohort.minimum, self.grid_bits)


def prepare(
    job_file: Path, out: Path, members: Membership, *, silos: Sequence[str] = (), model_folder: Path | None = None
) -> JobPlan:
    """Plan a job file and write the prepared job to `out`. Raises ConfigError naming the key that is wrong."""
    tables = read_toml(job_file, "job file")
    roster = members.roster(silos)
    now = datetime.now(UTC)
    if "rehearsal" in tables:
        wanted = validated(RehearsalFile, tables, f"job file {job_file}")
        plan, artifact = rehearsal_plan(wanted, members, roster, now), None
    else:
        plan, artifact = _training_plan(tables, job_file, members, roster, model_folder)
    write_prepared(out, plan, artifact)
    return plan


def _training_plan(
    tables: dict[str, Any],
    job_file: Path,
    members: Membership,
    roster: tuple[RosterMember, ...],
    model_folder: Path | None,
) -> tuple[JobPlan, bytes]:
    from runtime.models import find_model
    from silo_agent.job_file import JobFile
    from silo_agent.planning import Parties, make_plan

    job = validated(JobFile, tables, f"job file {job_file}")
    members.require_federation(job.federation)
    folders = {job.model.source: model_folder} if model_folder is not None else None
    base = find_model(job.model.source, job.model.revision, folders)
    return make_plan(job, job_file.parent, base, Parties(roster, members.aggregator), datetime.now(UTC))


def rehearsal_plan(
    wanted: RehearsalFile, members: Membership, roster: tuple[RosterMember, ...], now: datetime
) -> JobPlan:
    """The plan of a rehearsal. Raises ConfigError naming what the plan cannot be."""
    import numpy as np

    from privacy.flatten import adapter_digest

    members.require_federation(wanted.federation)
    chosen = settle(wanted.wanted, len(roster), wanted.rehearsal.values)
    try:
        return JobPlan(
            version="cloister/v1",
            name=wanted.name,
            federation=wanted.federation,
            purpose=wanted.purpose,
            task=Rehearsal(kind="rehearsal", **wanted.rehearsal.model_dump()),
            dp=None,
            server=wanted.server.fixed(),
            rounds=wanted.rounds,
            round_attempts=wanted.round_attempts or 2 * wanted.rounds,
            suite=chosen.suite,
            parameters=chosen.parameters,
            open_to=wanted.open_to,
            grid=Grid(bits=wanted.grid_bits),
            initial_adapter=adapter_digest(np.zeros(wanted.rehearsal.values, np.float32)).hex(),
            cohort=Cohort(
                roster=roster,
                minimum=chosen.minimum,
                tolerated_colluders=chosen.tolerated_colluders,
                minimum_dataset_size=1,
            ),
            aggregator=members.aggregator,
            deadlines=Deadlines(**wanted.deadlines.model_dump()),
            created_utc=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            nonce=secrets.token_hex(32),
        )
    except ValidationError as error:
        raise ConfigError("job file", first_complaint(error), "Correct the file.") from error


def write_prepared(folder: Path, plan: JobPlan, artifact: bytes | None) -> None:
    """Write a prepared job. The folder must not hold one."""
    if (folder / PLAN_FILE).exists():
        raise ConfigError(f"folder {folder}", "already holds a prepared job", "Name another folder with --out.")
    folder.mkdir(parents=True, exist_ok=True)
    if artifact is not None:
        (folder / ARTIFACT_FILE).write_bytes(artifact)
    (folder / PLAN_FILE).write_bytes(plan.encode())


def read_plan(folder: Path) -> JobPlan:
    """The plan of a prepared job. Raises ConfigError when there is none, ProtocolError when it is wrong."""
    path = folder / PLAN_FILE
    if not path.exists():
        raise ConfigError(
            f"folder {folder}", f"has no {PLAN_FILE}", "Make one: cloister job plan JOB.toml --out FOLDER."
        )
    return JobPlan.decode(path.read_bytes())
