"""What a CA has issued and revoked: one canonical JSON file beside its key, changed under a lock."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from certs.files import exclusive, read_file, write_durably
from certs.names import PartyId
from certs.times import parse_utc, utc_text
from certs.verify import Kind
from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import ConfigError, ProtocolError

_VERSION = "cloister/v1/ca-registry"
_LIMIT = 64 << 20


@dataclass(frozen=True)
class Entry:
    """One certificate that was issued and has not expired."""

    serial: int
    uri: str
    kind: Kind
    not_after_utc: datetime
    revoked_utc: datetime | None


@dataclass
class Register:
    """The entries, and the host names last certified for each aggregator."""

    entries: list[Entry] = field(default_factory=list)
    hosts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def drop_expired(self, now: datetime) -> None:
        """Forget what nobody can use any more, so that neither the register nor the CRL grows for ever."""
        self.entries = [entry for entry in self.entries if entry.not_after_utc >= now]

    def revoke(self, party: PartyId, now: datetime) -> int:
        """Mark every live certificate of `party` revoked; returns how many were."""
        live = [entry for entry in self.entries if entry.uri == party.uri and entry.revoked_utc is None]
        for entry in live:
            place = self.entries.index(entry)
            self.entries[place] = Entry(entry.serial, entry.uri, entry.kind, entry.not_after_utc, now)
        return len(live)

    def revoked(self) -> dict[int, datetime]:
        """Serial number -> moment of revocation."""
        return {entry.serial: entry.revoked_utc for entry in self.entries if entry.revoked_utc is not None}

    def enter(self, entry: Entry, hosts: tuple[str, ...]) -> None:
        """Take down a certificate that is about to be handed out, and the host names in it, if any."""
        self.entries.append(entry)
        if hosts:
            self.hosts[entry.uri] = hosts

    def live_tls(self, party: PartyId, beyond: datetime) -> int:
        """How many TLS certificates of `party` hold beyond this moment and are not revoked."""
        return sum(
            entry.uri == party.uri
            and entry.kind is Kind.TLS
            and entry.revoked_utc is None
            and entry.not_after_utc > beyond
            for entry in self.entries
        )

    def knows(self, party: PartyId) -> bool:
        """Whether `party` was given anything that has not expired, revoked or not."""
        return any(entry.uri == party.uri for entry in self.entries)

    def in_good_standing(self, party: PartyId) -> bool:
        """Whether `party` holds an identity certificate that is neither expired nor revoked."""
        return any(
            entry.uri == party.uri and entry.kind is Kind.IDENTITY and entry.revoked_utc is None
            for entry in self.entries
        )


class RegistryFile:
    """The register on disk. Reads are of a whole, consistent file; changes wait for one another."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Register:
        """The register as last written. Raises ConfigError when it is missing or damaged."""
        next_step = "Restore it from a backup: without it the CA does not know what to revoke."
        try:
            return _decode(parse_canonical(read_file(self._path, next_step, _LIMIT), "CA register"))
        except (ProtocolError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(str(self._path), "is damaged", next_step) from error

    def write(self, register: Register) -> None:
        """Replace the file durably."""
        write_durably(self._path, canonical_json(_encode(register)))

    @contextlib.contextmanager
    def change(self) -> Iterator[Register]:
        """Read, let the caller change, write; nothing is written when the caller raises."""
        with exclusive(self._path.with_suffix(".lock")):
            register = self.read()
            yield register
            self.write(register)


def _encode(register: Register) -> dict[str, Any]:
    entries = [
        {
            "kind": entry.kind.value,
            "not_after_utc": utc_text(entry.not_after_utc),
            "party": entry.uri,
            "revoked_utc": None if entry.revoked_utc is None else utc_text(entry.revoked_utc),
            "serial": f"{entry.serial:x}",
        }
        for entry in register.entries
    ]
    hosts = {uri: list(names) for uri, names in register.hosts.items()}
    return {"entries": entries, "hosts": hosts, "version": _VERSION}


def _decode(value: Any) -> Register:  # noqa: ANN401 - parsed JSON
    if value["version"] != _VERSION:
        raise ValueError(value["version"])
    entries = [
        Entry(
            int(item["serial"], 16),
            PartyId.parse(item["party"]).uri,
            Kind(item["kind"]),
            parse_utc(item["not_after_utc"]),
            None if item["revoked_utc"] is None else parse_utc(item["revoked_utc"]),
        )
        for item in value["entries"]
    ]
    return Register(entries, {uri: tuple(names) for uri, names in value["hosts"].items()})
