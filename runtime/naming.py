"""Which job a person means."""

from collections.abc import Mapping

from privacy.errors import ConfigError

LEAST_PREFIX = 4


def job_meant(text: str, names: Mapping[str, str]) -> str:
    """The digest of the one job of this name or, if there is none, whose digest begins so; `names` by digest in hex.

    Raises ConfigError unless there is exactly one.
    """
    found = [job for job, name in names.items() if name == text]
    if not found and len(text) >= LEAST_PREFIX:
        found = [job for job in names if job.startswith(text.lower())]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{name} ({job[:12]})" for job, name in names.items()) or "none"
    several = f"means {len(found)} jobs: {', '.join(job[:12] for job in found)}"
    why = several if found else f"is no job here; there are: {known}"
    raise ConfigError(f"job {text!r}", why, "Give the job's name, or enough of its digest.")
