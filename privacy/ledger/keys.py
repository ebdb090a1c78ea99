"""Which key signs which checkpoint of a log: one after the other, each change an entry that both have signed."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from privacy.errors import VerificationError
from privacy.key_rotation import KeyRotation
from privacy.ledger.entry import AnyEntry, KeyRotationEntry

_NEXT = "Ask the institution which keys its log has had, and compare with what it told you before."


@dataclass(frozen=True)
class KeyChain:
    """A log's keys, raw, oldest first; `sizes` are the most entries that each but the newest signs for."""

    keys: tuple[bytes, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, rotations: Iterable[KeyRotationEntry], newest: bytes) -> Self:
        """Of a log with these rotations, oldest first, whose newest key this is."""
        found = tuple(rotations)
        return cls((*(bytes.fromhex(each.old_key) for each in found), newest), tuple(each.sequence for each in found))

    def at(self, size: int) -> bytes:
        """The key that signs a checkpoint of so many entries."""
        return self.keys[bisect_left(self.sizes, size)]


def rotation_of(entry: KeyRotationEntry, log: str) -> KeyRotation:
    """What the two keys of an entry of this log have signed."""
    return KeyRotation(log=log, size=entry.sequence, old_key=entry.old_key, new_key=entry.new_key, reason=entry.reason)


class KeyBook:
    """Follows a log's keys, as somebody else names them, through its entries, which are read once, in order."""

    def __init__(self, log: str, keys: Sequence[bytes]) -> None:
        self._log = log
        self._keys = [key.hex() for key in keys]
        self.place = 0  # of the key that signs from here on
        self.rotations: list[KeyRotationEntry] = []

    @property
    def key(self) -> str:
        """What signs from here on, in hex."""
        return self._keys[self.place]

    def read(self, entry: AnyEntry) -> None:
        """Check an entry. Raises VerificationError for a change to another key, or one that a key has not signed."""
        if not isinstance(entry, KeyRotationEntry):
            return
        if self._keys[self.place : self.place + 2] != [entry.old_key, entry.new_key]:
            why = f"it goes from {entry.old_key[:16]} to {entry.new_key[:16]}, which are not its keys in their order"
            raise VerificationError("key rotation", why, _NEXT)
        rotation_of(entry, self._log).check(entry.old_signature, entry.new_signature)
        self.place += 1
        self.rotations.append(entry)

    def finish(self) -> None:
        """Every key was reached. Raises VerificationError."""
        if self.place != len(self._keys) - 1:
            why = f"no entry changes from {self._keys[self.place][:16]} to {self._keys[self.place + 1][:16]}"
            raise VerificationError("the log's keys", why, _NEXT)
