"""Texts of which an entry holds a commitment alone, so that an export can leave them out and the tree still verifies.

The name of a person who approved a job is no business of everybody who audits budgets. Such a text stands in the entry
as `sha256:` and SHA-256 over a salt of 32 random bytes and the text (privacy.canonical.digest); the text and its salt
are kept beside the ledger, as an *opening*. Who has the opening can check it, who has not can neither read nor guess.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from privacy.canonical import digest
from privacy.errors import ConfigError, VerificationError
from privacy.fields import Hex32, Strict, Text
from privacy.ledger.entry import AnyEntry, Entry

PREFIX: Final = "sha256:"
LABEL: Final = "cloister/v1/opening"
REDACTED: Final = "(left out)"
COMMITTABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "policy": ("actor", "reason", "legal_basis", "dpia"),
    "job-approval": ("actor", "reason", "legal_basis", "dpia"),
    "budget-change": ("actor",),
    "sub-cap": ("actor",),
    "admin": ("actor",),
    "key": ("actor", "reason"),
    "key-rotation": ("actor",),
    "refuse": ("actor",),
}
"""What may be committed to, by kind: texts that people write, and that no check but a reader needs."""

FIELDS: Final = tuple(sorted({name for names in COMMITTABLE.values() for name in names}))
_COMMITMENT = re.compile(PREFIX + r"[0-9a-f]{64}")
_NEXT = "Ask the institution for a fresh export."


class Opening(Strict):
    """A text that an entry commits to, and the salt (hex of 32 bytes)."""

    sha256: Hex32
    salt: Hex32
    value: Text

    @classmethod
    def of(cls, value: str, salt: bytes) -> "Opening":
        """Commit to a text. Raises ConfigError for one that looks like a commitment itself."""
        if value.startswith(PREFIX):
            raise ConfigError(f"text {value[:20]!r}", f"begins like a commitment ({PREFIX})", "Choose other words.")
        return cls(sha256=_hashed(salt, value), salt=salt.hex(), value=value)

    @property
    def text(self) -> str:
        """What stands in the entry."""
        return PREFIX + self.sha256

    def check(self) -> None:
        """The text and the salt are those of the commitment. Raises VerificationError."""
        if _hashed(bytes.fromhex(self.salt), self.value) != self.sha256:
            raise VerificationError(f"opening {self.sha256[:12]}", "is not of this commitment", _NEXT)


Openings = Mapping[str, Opening]
"""By their commitment, in hex."""


def committable(entry: Entry, names: Iterable[str]) -> dict[str, str]:
    """Which of these fields of an entry a person wrote, and may be committed to: their texts."""
    if entry.role == "agent":
        return {}
    allowed = COMMITTABLE.get(getattr(entry, "kind", ""), ())
    values = {name: getattr(entry, name) for name in names if name in allowed}
    return {name: value for name, value in values.items() if value is not None}


def commitments(entry: AnyEntry) -> dict[str, str]:
    """The commitments that stand in an entry, in hex, by field."""
    texts = {name: getattr(entry, name) for name in COMMITTABLE.get(entry.kind, ())}
    return {name: text[len(PREFIX) :] for name, text in texts.items() if text and _COMMITMENT.fullmatch(text)}


def readable(entry: AnyEntry, openings: Openings) -> AnyEntry:
    """The entry with open texts in the place of commitments; where there is none it says so. For readers alone."""
    found = commitments(entry)
    if not found:
        return entry
    texts = {name: openings[of].value if of in openings else REDACTED for name, of in found.items()}
    return entry.model_copy(update=texts)


class OpeningsBook:
    """Holds a bundle's openings against the entries they are of, which are read in their order.

    `left_out` are the fields that the bundle says it leaves out.
    """

    def __init__(self, openings: Iterable[Opening], left_out: Iterable[str] = ()) -> None:
        self._may_miss = frozenset(left_out)
        self._unused: dict[str, Opening] = {}
        for opening in openings:
            opening.check()
            if opening.sha256 in self._unused:
                raise VerificationError(f"opening {opening.sha256[:12]}", "stands there twice", _NEXT)
            self._unused[opening.sha256] = opening
        self.opened = 0
        self.left_out: dict[str, int] = {}  # by field

    def read(self, entry: AnyEntry) -> None:
        """Count what is open of an entry, and what is not.

        Raises VerificationError unless just the fields that the bundle says it left out are not open.
        """
        for name, of in commitments(entry).items():
            missing = self._unused.pop(of, None) is None
            if missing != (name in self._may_miss):
                why = (
                    "its text is not there, and was not left out" if missing else "its text was left out, and is there"
                )
                raise VerificationError(name, f"{why}, by what the export says of itself", _NEXT)
            if missing:
                self.left_out[name] = self.left_out.get(name, 0) + 1
            else:
                self.opened += 1

    def finish(self) -> None:
        """Every opening is of an entry. Raises VerificationError."""
        if self._unused:
            raise VerificationError(f"opening {min(self._unused)[:12]}", "is of no entry", _NEXT)


def _hashed(salt: bytes, value: str) -> str:
    return digest(LABEL, salt, value.encode()).hex()
