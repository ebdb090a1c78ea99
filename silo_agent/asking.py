"""Asking the aggregator how a job stands, and when to ask no more: a job that is only named must not keep a place."""

from cloister import wire

from privacy.errors import CloisterError, Unavailable
from silo_agent.client import AggregatorPort
from silo_agent.home import Home
from silo_agent.jobs import find_job

MOST_UNANSWERED = 20  # looks in a row, some eight minutes


class Unanswered(Unavailable):
    """The aggregator gives no answer about a job for so long that the job keeps no place in the agent any more."""


class Asking:
    """About one job."""

    def __init__(self, home: Home, port: AggregatorPort, job: bytes) -> None:
        self._home = home
        self._port = port
        self._job = job
        self._unanswered = 0

    def look(self) -> wire.Job:
        """The job as it stands. Raises what the aggregator answers instead, and Unavailable while it is away.

        Raises Unanswered at the MOST_UNANSWERED-th look in a row that brings no answer; about a job that is known here
        only if the aggregator refuses to answer, since one that is away comes back.
        """
        try:
            view = self._port.get_job(self._job)
        except CloisterError as error:
            self._unanswered += 1
            away = isinstance(error, Unavailable)
            if self._unanswered < MOST_UNANSWERED or (away and self._known_here()):
                raise
            raise Unanswered(
                f"job {self._job.hex()[:12]}",
                f"the aggregator did not answer for it {self._unanswered} times; the last: {error.why}",
                "Its place is free for other jobs. It is taken up again when the aggregator next names it, or when the "
                "agent is started.",
            ) from error
        self._unanswered = 0
        return view

    def _known_here(self) -> bool:
        with self._home.store.reading() as connection:
            return find_job(connection, self._job) is not None
