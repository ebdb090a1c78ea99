"""How a silo's status, jobs and budgets read to a person: in lines that no terminal's width cuts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.reviews_shown import due_lines

Facts = Mapping[str, Any]


def status_lines(facts: Facts) -> list[str]:
    """What the daemon last said; what it does not know yet is left out."""
    alive = "connected" if facts["connected"] else "not connected" if facts["running"] else "not running"
    as_of = f", as of {facts['updated_utc']}" if facts["updated_utc"] else ""
    lines = [f"{facts['name']}: {alive}{as_of}"]
    job = f"{facts['job_name']} {facts['job'][:12]} {facts['job_phase']}".split()
    lines.append(f"job      {' '.join(job) or 'none yet'}")
    if facts["round"]:
        lines.append(f"round    {facts['round']} of {facts['rounds']} planned, {facts['phase']}{_step(facts)}")
    if facts["population"]:
        lines.append(
            f"budget   {facts['population']}: epsilon {facts['epsilon_spent']:.3f} of {facts['epsilon_cap']:g} spent,"
            f" {facts['epsilon_left']:.3f} left"
        )
    lines.append(f"sent     {facts['bytes_sent']} bytes of sealed updates")
    lines.append(f"message  {facts['message'] or '-'}")
    lines += due_lines(facts["reviews_due"])
    lines += [
        f"ledger   {log} CONTRADICTS itself: cloister silo witnesses list, and telephone the institution"
        for log in facts["rewritten_ledgers"]
    ]
    return lines


def _step(facts: Facts) -> str:
    return f" (step {facts['step']} of {facts['steps']})" if facts["steps"] else ""


def jobs_lines(listed: Sequence[Facts]) -> list[str]:
    """The jobs; each that waits for its steward with the command that decides it."""
    return [line for item in listed for line in _job(item)] or ["no jobs yet"]


def _job(item: Facts) -> list[str]:
    cost, dataset = "no data, no budget", ""
    if item["delta"]:
        epsilon = "no epsilon at all" if item["epsilon"] is None else f"epsilon {item['epsilon']:g}"
        cost, dataset = f"{epsilon} at delta {item['delta']:g}", " --dataset NAME"
    lines = [
        f"{item['name']}  {item['job'][:12]}  {item['state']}",
        f"    for     {item['purpose']}",
        f"    costs   {item['rounds']} rounds, {cost}",
        f"    suite   {item['suite']}, the model goes to {item['open_to'].replace('+', ' and ')}",
    ]
    if item["decided_by"]:
        lines.append(f"    decided by {item['decided_by']}, dataset {item['dataset'] or '-'}")
    if item["why"]:
        lines.append(f"    because {item['why']}")
    if item["state"] == "seen":
        name = item["name"]
        lines.append(f"    decide  cloister silo approve {name}{dataset}   or   cloister silo refuse {name}")
    return lines


def budgets_lines(rows: Sequence[Facts]) -> list[str]:
    """Cap, spent, reserved and left of every population."""
    if not rows:
        return ["no budget yet; next: cloister silo budget set POPULATION --epsilon E --delta D"]
    return [line for row in rows for line in _budget(row)]


def _budget(row: Facts) -> list[str]:
    cap, charged = row["epsilon_cap"], row["spent"] + row["reserved"]
    refunded = f", {row['rounds_refunded']} refunded" if row["rounds_refunded"] else ""
    lines = [
        f"{row['population']}: each {row['unit']} is protected, at delta {row['delta']:g}",
        f"    {_bar(charged / cap)} {_percent(charged / cap)} of a lifetime is spent or reserved",
        f"    epsilon {cap:g} in all: {row['spent']:.4g} spent, {row['reserved']:.4g} reserved,"
        f" {row['left']:.4g} left; {row['rounds_charged']} rounds charged{refunded}",
    ]
    if row["job_cap"] is not None:
        lines.append(f"    any one job: at most epsilon {row['job_cap']:g}")
    for each in row["purposes"]:
        limit = "" if each["cap"] is None else f" of at most {each['cap']:g}"
        lines.append(f"    for {each['purpose']!r}: epsilon {each['spent']:.4g}{limit}")
    return lines


def _bar(share: float, width: int = 30) -> str:
    """A bar that is full only when the share is 1."""
    full = min(width, math.floor(share * width)) if share < 1 else width
    return f"[{'#' * full}{'.' * (width - full)}]"


def _percent(share: float) -> str:
    """Whole percents; 0% is nothing, and 100% is all."""
    if 0 < share < 0.01:
        return "less than 1%"
    return "more than 99%" if 0.99 < share < 1 else f"{share:.0%}"


def what_if_lines(found: Facts) -> list[str]:
    """What a job from a file would cost, and what its noise does to made-up data."""
    lines = [
        f"{found['name']}: {found['rounds']} rounds, noise multiplier {found['noise_multiplier']:.4g}, each"
        f" {found['unit']} at delta {found['delta']:g}",
        *forecast_lines(found["name"], found["budgets"]),
    ]
    if (run := found["synthetic"]) is not None:
        lines += _synthetic(run)
    return lines


def _synthetic(run: Facts) -> list[str]:
    """What was trained on made-up data, what of the job it stands for, and what came of it."""
    silos, records, batch = run["silos"], run["records_run"], run["batch_run"]
    stands, whole = f" that stand for {run['records']:,}" if records < run["records"] else "", "as in the job"
    if batch < run["expected_batch_size"]:
        whole = f"for {run['expected_batch_size']:,g} in the job, with as much less noise"
    lines = [
        f"on made-up data: {silos} silos of {records:,} records{stands}, {run['classes']} classes, a linear model",
        f"    batches of {batch:,g} {whole}",
    ]
    if (run["rounds_run"], run["steps_run"]) != (run["rounds"], run["steps_per_round"]):
        lines.append(
            f"    {run['rounds_run']} rounds of {run['steps_run']} steps were run, for {run['rounds']} of"
            f" {run['steps_per_round']} in the job: more takes long"
        )
    lines.append(
        f"    accuracy {run['without_noise']:.3f} without the noise, {run['with_noise']:.3f} with it: a hint for yours,"
        " no promise"
    )
    return lines


def witnesses_lines(found: Facts) -> list[str]:
    """Who cosigned this ledger, what it witnesses, and what contradicts itself."""
    lines = [f"{found['log']}: {found['entries']} entries; agent and updates wait for {found['quorum']} witnesses"]
    lines += [
        f"    {each['witness']} cosigned {each['entries']} entries at {each['utc']}{_uncounted(each)}"
        for each in found["witnesses"]
    ]
    if not found["witnesses"]:
        lines.append("    nobody has cosigned it yet: an older copy of this folder would look as good as this one")
    lines += [f"witnessed here: {each['log']}, {each['entries']} entries" for each in found["witnessed"]]
    lines += [
        f"CONTRADICTION: {each['log']} signed two states of which neither continues the other, noticed at"
        f" {each['noticed_utc']}; --json shows both"
        for each in found["contradictions"]
    ]
    return lines


def _uncounted(witness: Facts) -> str:
    return "" if witness["counts"] else "; not counted: its key is not pinned here"


def forecast_lines(job: str, rows: Sequence[Facts]) -> list[str]:
    """What a job's rounds would make of every population's budget."""
    return [line for row in rows for line in _forecast(job, row)] or budgets_lines(rows)


def _forecast(job: str, row: Facts) -> list[str]:
    """In shares of the lifetime's epsilon, as `budget show` has them; how many rounds fit stands beside, named."""
    cap, before, after = row["epsilon_cap"], row["before"], row["after"]
    if row["why_not"]:
        return [f"{row['population']}: {job} does not fit: {row['why_not']}"]
    change = f"{row['rounds_asked']} rounds would bring epsilon from {before:.4g} to {after:.4g} of {cap:g}"
    rounds = f"{row['rounds_that_fit']} such rounds still fit"
    if not row["fits"]:
        return [
            f"{row['population']}: {job} does not fit",
            f"    {change} at delta {row['delta']:g}",
            f"    {rounds}; all of them would take a cap of {row['epsilon_needed']:.4g}",
        ]
    return [
        f"{row['population']}: {job} fits",
        f"    {_bar(after / cap)} {_percent(after / cap)} of a lifetime would be spent or reserved; now it is"
        f" {_percent(before / cap)}",
        f"    {change} at delta {row['delta']:g}",
        f"    {rounds}, and these are {row['rounds_asked']} of them",
    ]
