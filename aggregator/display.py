"""How jobs, rounds and members look: as JSON facts, and as tables."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cloister.wire import JobStatus, Member, RoundStatus, SiloStatus

from runtime.console import bytes_text, table
from runtime.reviews_shown import due_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

BARS = "▁▂▃▄▅▆▇█"


def job_facts(job: JobStatus) -> dict[str, Any]:
    """A job as JSON."""
    facts = job.model_dump(mode="python", exclude={"job", "phase", "round_phase", "silos", "validations"})
    silos = [silo.model_dump(mode="python") for silo in job.silos]
    return facts | {
        "job": job.job.hex(),
        "phase": job.phase.name,
        "round_phase": job.round_phase.name,
        "silos": silos,
        "validations": [each.model_dump(mode="python") for each in job.validations],
    }


def round_facts(found: RoundStatus) -> dict[str, Any]:
    """A round as JSON."""
    return found.model_dump(mode="python", exclude={"phase"}) | {"phase": found.phase.name}


def member_facts(member: Member) -> dict[str, Any]:
    """An enrolled party as JSON, with the fingerprint to compare by telephone."""
    from certs.identity import fingerprint

    return {
        "name": member.name,
        "role": member.role,
        "identity_key": member.identity_key.hex(),
        "fingerprint": fingerprint(member.identity_key),
        "connected": member.connected,
    }


def status_shown(
    members: Sequence[Member], jobs: Sequence[JobStatus], reviews_due: Sequence[Mapping[str, Any]]
) -> "list[RenderableType]":
    """Members, jobs, and what is due of reviews."""
    people = [(each.role, each.name, "connected" if each.connected else "") for each in members]
    return [table(("role", "name", ""), people, title="Members"), jobs_table(jobs), *due_lines(reviews_due)]


def jobs_table(jobs: Iterable[JobStatus]) -> "RenderableType":
    """A line a job."""
    rows = [
        (
            job.name,
            job.job.hex()[:12],
            job.phase.name,
            f"{job.rounds_published}/{job.rounds_planned}",
            f"{job.round} {job.round_phase.name}" if job.round else "",
            job.reason,
        )
        for job in jobs
    ]
    return table(("job", "digest", "phase", "rounds", "now", "reason"), rows, title="Jobs") if rows else "no jobs yet"


def rounds_shown(name: str, found: Sequence[RoundStatus]) -> "list[RenderableType]":
    """A line a round."""
    rows = [
        (
            each.round,
            each.phase.name,
            f"{len(each.members)} of {len(each.participants)}",
            f"{each.seconds:.1f}" if each.closed_utc else "-",
            bytes_text(each.bytes_received),
            each.reason,
        )
        for each in found
    ]
    if not rows:
        return [f"{name}: no round yet"]
    rounds = table(("round", "phase", "in the sum", "seconds", "received", "reason"), rows, title=name)
    published = [each for one in found for each in one.validations]
    if not published:
        return [rounds]
    figures = [
        (
            each.round,
            f"{each.accuracy:.3f}",
            f"{each.accuracy_error:.3f}",
            f"{each.loss:.3f}",
            f"{each.units:.0f}",
        )
        for each in published
    ]
    heads = ("round", "accuracy", "noise (one deviation)", "loss", "held-out units")
    return [rounds, table(heads, figures, title="What the round started from, on all held-out parts")]


def print_lines(changes: Iterable[JobStatus]) -> None:
    """A JSON line for every change."""
    for job in changes:
        sys.stdout.write(json.dumps(job_facts(job), sort_keys=True) + "\n")
        sys.stdout.flush()


def show_live(changes: Iterable[JobStatus]) -> None:
    """A table that follows the jobs."""
    from rich.console import Console, Group
    from rich.live import Live

    jobs: dict[bytes, JobStatus] = {}
    with Live(jobs_table(()), console=Console(highlight=False), auto_refresh=False) as live:
        for job in changes:
            jobs[job.job] = job
            still_open = [each for each in jobs.values() if not each.phase.closed]
            live.update(Group(jobs_table(jobs.values()), *map(_silos_table, still_open)), refresh=True)


def _silos_table(job: JobStatus) -> "RenderableType":
    rows = [(silo.silo, _doing(silo), bytes_text(silo.bytes_received)) for silo in job.silos]
    return table(("silo", "", "received"), rows, title=f"{job.name}{curve_text(job)}")


def curve_text(job: JobStatus) -> str:
    """The accuracies that its rounds published, as a line of bars between the lowest and the highest, and the last."""
    if not job.validations:
        return ""
    accuracies, last = [each.accuracy for each in job.validations], job.validations[-1]
    low, high = min(accuracies), max(accuracies)
    steps = (round((each - low) / (high - low or 1) * (len(BARS) - 1)) for each in accuracies)
    bars = "".join(BARS[step] for step in steps)
    return (
        f": held-out accuracy {bars} {last.accuracy:.3f} (noise {last.accuracy_error:.3f}), loss {last.loss:.3f}, "
        f"at the start of round {last.round}"
    )


def _doing(silo: SiloStatus) -> str:
    """The furthest thing a silo has done."""
    steps = (
        (silo.refused, "refused the job"),
        (not silo.connected, "not connected"),
        (not silo.joined, "has not joined the job"),
        (not silo.in_round, "waits for the next round"),
        (silo.applied, "applied the new adapter"),
        (silo.consented, "consented"),
        (silo.submitted, "submitted"),
    )
    return next((text for holds, text in steps if holds), "joining or training")
