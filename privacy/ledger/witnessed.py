"""What witnesses say of a log that is verified: whose cosignatures stand under its checkpoints, and since when."""

from collections.abc import Mapping
from dataclasses import dataclass

from privacy.errors import VerificationError
from privacy.ledger.checkpoint import parse_note
from privacy.ledger.clock import CLOCK_TOLERANCE, instant
from privacy.ledger.cosignature import Cosignature, cosignatures

_SECOND = "%Y-%m-%dT%H:%M:%SZ"
_NEXT = "Ask the witness what it cosigned, and when."


@dataclass(frozen=True)
class WitnessReport:
    """One witness: how many checkpoints it cosigned, the most entries of those, and when it last did."""

    witness: str
    checkpoints: int
    entries: int
    utc: str


class WitnessedBook:
    """Collects the cosignatures of a log's notes, which are read in their order."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = keys
        self._found: dict[str, WitnessReport] = {}
        self._by_size: dict[int, tuple[Cosignature, ...]] = {}

    def read(self, note: str) -> None:
        """Take a note that its log has signed. Raises VerificationError for a cosignature that is wrong or nobody's."""
        parsed = parse_note(note)
        strangers = {name for name, _ in parsed.signatures} - {parsed.checkpoint.origin} - self._keys.keys()
        if strangers:
            why = f"{min(strangers)} signed it, whose certificate is not there"
            raise VerificationError(f"checkpoint of {parsed.checkpoint.size} entries", why, _NEXT)
        found = cosignatures(note, self._keys)
        if 1 + len(found) != len(parsed.signatures):
            raise VerificationError(f"checkpoint of {parsed.checkpoint.size} entries", "a signature is nobody's", _NEXT)
        self._by_size[parsed.checkpoint.size] = found
        for each in found:
            before = self._found.get(each.witness)
            count = 1 if before is None else before.checkpoints + 1
            when = f"{each.utc:{_SECOND}}"
            latest = when if before is None else max(before.utc, when)
            self._found[each.witness] = WitnessReport(each.witness, count, parsed.checkpoint.size, latest)

    def check_time(self, size: int, last_utc: str) -> None:
        """The last entry under a checkpoint was written before anybody cosigned that, give or take CLOCK_TOLERANCE.

        Raises VerificationError if all who cosigned it did so before the entry says it was written.
        """
        found = self._by_size.get(size, ())
        if found and all(each.utc < instant(last_utc) - CLOCK_TOLERANCE for each in found):
            latest = max(each.utc for each in found)
            why = f"{last_utc} is stated, but every witness had cosigned it by {latest:{_SECOND}}"
            raise VerificationError("utc", why, _NEXT)

    def report(self) -> tuple[WitnessReport, ...]:
        """All witnesses, by name."""
        return tuple(self._found[name] for name in sorted(self._found))

    def covered_by(self) -> tuple[int, ...]:
        """How many entries the largest checkpoint has that one witness cosigned, that two did, and so on."""
        counted = {size: len(found) for size, found in self._by_size.items()}
        most = max(counted.values(), default=0)
        return tuple(max(size for size, count in counted.items() if count >= n) for n in range(1, most + 1))
