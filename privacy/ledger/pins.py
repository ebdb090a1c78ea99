"""Whose keys a log says that its owner holds others to, and whether the plans that it worked under name the same."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping

from privacy.errors import VerificationError
from privacy.ledger.entry import KeyEntry
from privacy.plan import JobPlan

_NEXT = "Compare the fingerprint with the party's own, by another way."


class PinBook:
    """Follows a log's pins, fingerprints (SHA-256 in hex of a raw Ed25519 key) by party (URI), in order."""

    def __init__(self) -> None:
        self._pins: dict[str, list[str]] = defaultdict(list)
        self._unpinned: set[tuple[str, str]] = set()  # party and fingerprint

    def read(self, entry: KeyEntry) -> None:
        """Take a pin; the newest counts."""
        if entry.action == "pinned":
            self._pins[entry.party].append(entry.fingerprint)

    def check(self, plan: JobPlan, institution: str) -> None:
        """The plan's other members have the keys that are pinned now, where there is a pin at all.

        Raises VerificationError naming the first that has another.
        """
        members = [("silo", name, key) for name, key in plan.identity_keys.items()]
        members.append(("aggregator", plan.aggregator.name, bytes.fromhex(plan.aggregator.identity_key)))
        for role, name, key in members:
            party, fingerprint = f"cloister://{plan.federation}/{role}/{name}", hashlib.sha256(key).hexdigest()
            pins = self._pins.get(party)
            if name == institution:
                continue
            if pins is None:
                self._unpinned.add((party, fingerprint))
            elif pins[-1] != fingerprint:
                why = f"names {party} with key {fingerprint[:16]}, and {pins[-1][:16]} was pinned (SHA-256)"
                raise VerificationError(f"plan of job {plan.name}", why, _NEXT)

    @property
    def pins(self) -> Mapping[str, tuple[str, ...]]:
        """All fingerprints that ever were pinned, by party."""
        return {party: tuple(found) for party, found in sorted(self._pins.items())}

    @property
    def unpinned(self) -> int:
        """How many members' keys stand in plans and are pinned nowhere: they rest on the plan alone."""
        return len(self._unpinned)
