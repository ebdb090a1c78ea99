"""Which adapter each round of a job started from: the plan's at first, then the one that the round before it gave."""

from privacy.errors import VerificationError
from privacy.ledger.entry import ReserveEntry, RoundEntry

_NEXT = "Ask the institution and another member of the job for the round's transcript."


class AdapterBook:
    """Follows each job's global adapter, by its SHA-256 in hex, through a log that is read once, in order."""

    def __init__(self) -> None:
        self._newest: dict[str, str] = {}  # by job

    def read(self, entry: ReserveEntry | RoundEntry, initial: str | None) -> None:
        """Check an entry about a round. `initial` is what the job's plan starts from, None where the plan is not there.

        Raises VerificationError for a reservation or a published round that starts from another adapter than the
        rounds before it gave, and for a published one that gave none.
        """
        match entry:
            case ReserveEntry():
                self._require("adapter_sha256", entry.job, entry.adapter_sha256, initial)
            case RoundEntry(outcome="published", adapter_before_sha256=before, adapter_after_sha256=after):
                self._require("adapter_before_sha256", entry.job, before, initial)
                if after is None:
                    raise VerificationError("adapter_after_sha256", "is missing, and the round was published", _NEXT)
                self._newest[entry.job] = after
            case _:
                pass

    def _require(self, what: str, job: str, stated: str, initial: str | None) -> None:
        newest = self._newest.setdefault(job, initial or stated)
        if stated != newest:
            raise VerificationError(what, f"{stated} is stated, and the rounds before it gave {newest}", _NEXT)
