"""A party goes on under another identity key: the same ledger, which says so; the same name.

The old key signs for all entries before, both keys sign the change, the new key signs for it and all that comes after.
The ledger is changed first, in one transaction, and the wallet after it; run again, an interrupted change goes on where
it was. Until the ledger has the new key, the change can be abandoned. What a silo and the aggregator have in common:
how the new key is certified, and what must be over before, is theirs.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self

from certs.identity import Identity, fingerprint
from certs.requests import IssuedCertificates
from certs.verify import CertificateFlaw, Kind
from certs.wallet import Wallet
from privacy.errors import ConfigError, ProtocolError
from privacy.key_rotation import KeyRotation
from privacy.ledger.entry import KeyRotationEntry
from runtime.ledger_store import Ledger, LogIdentity


@dataclass(frozen=True)
class Rotated:
    """The entry that says so, and both keys' fingerprints as certs.identity words them.

    `before`: all but some clearing away was done before, and nothing was changed now.
    """

    entry: int
    old: str
    new: str
    before: bool = False

    @classmethod
    def by(cls, entry: KeyRotationEntry, *, before: bool = False) -> Self:
        """What the entry says."""
        old, new = (fingerprint(bytes.fromhex(key)) for key in (entry.old_key, entry.new_key))
        return cls(entry.sequence, old, new, before)


class Step(Protocol):
    """One durable step of the program's database."""

    @property
    def ledger(self) -> Ledger:
        """The ledger, within this step."""

    def with_commitments(self, entry: KeyRotationEntry, /) -> KeyRotationEntry:
        """The entry as it is recorded."""


@dataclass(frozen=True)
class Change:
    """Why the key is changed, who says so (what every entry says: privacy.ledger.entry.Entry), and when."""

    reason: str
    said: Mapping[str, Any]
    now: datetime


def change_key(
    wallet: Wallet,
    writing: Callable[[], AbstractContextManager[Step]],
    change: Change,
    *,
    check: Callable[[], None],
    certify: Callable[[], IssuedCertificates],
) -> Rotated:
    """Put a fresh identity key in the place of the present one.

    `check` is asked before anything is changed; `certify` makes the requests (`Wallet.create`, with a new identity) and
    has them answered. Both raise what stands in the way.
    """
    old = wallet.identity()
    with writing() as step:
        done, signer = next(reversed(step.ledger.rotations()), None), step.ledger.identity.public_key
    if Kind.IDENTITY in wallet.settle() and done is not None and done.new_key == old.public_key.hex():
        return Rotated.by(done, before=True)
    if done is None or done.old_key != old.public_key.hex():  # else the ledger has the new key, and the wallet not yet
        check()
    elif not wallet.has_begun(signer):
        why = f"the ledger goes on under {fingerprint(signer)}, and this wallet has not that key"
        raise ConfigError(
            "change of key", why, f"Put back the newest copy of {wallet.folder}: with that key it goes on."
        )
    issued = certify()
    new = wallet.offered(issued, change.now)
    if new.party != old.party:
        raise ProtocolError("issued certificates", f"name {new.party.uri}", f"Ask the coordinator: {old.party}.")
    with writing() as step:
        if step.ledger.identity.public_key != new.public_key:
            _record(step, old, new, change)
        (*_, newest) = step.ledger.rotations()
    wallet.install(issued, change.now)
    return Rotated.by(newest)


def abandon_change(wallet: Wallet, writing: Callable[[], AbstractContextManager[Step]]) -> None:
    """Forget a change that was begun and that the ledger has not: the present key stays.

    Raises ConfigError if the change was made, but for some clearing away (which is done), or none was begun.
    """
    with writing() as step:
        newest = next(reversed(step.ledger.rotations()), None)
    if Kind.IDENTITY in wallet.settle() and newest is not None and newest.new_key == wallet.identity().public_key.hex():
        why = f"was made: entry {newest.sequence} of the ledger says so"
        raise ConfigError("change of key", why, "The new key stays. If it must not, change it again.")
    if not wallet.identity_changes:
        raise ConfigError("change of key", "none was begun here", "Nothing was changed: the present key stays.")
    wallet.abandon()


def check_vouches(wallet: Wallet, now: datetime, step: str) -> None:
    """The present identity certificate is valid: only such a one can vouch for the change. Raises ConfigError."""
    try:
        wallet.leaf(Kind.IDENTITY).check_time(now)
    except CertificateFlaw as error:
        raise ConfigError("identity certificate", error.why, step) from error


def _record(step: Step, old: Identity, new: Identity, change: Change) -> None:
    ledger = step.ledger
    said = KeyRotation(
        log=ledger.identity.origin,
        size=ledger.size,
        old_key=old.public_key.hex(),
        new_key=new.public_key.hex(),
        reason=change.reason,
    )
    entry = KeyRotationEntry(
        **change.said,
        old_key=said.old_key,
        new_key=said.new_key,
        old_certificate=old.certificate_pem.decode(),
        new_certificate=new.certificate_pem.decode(),
        old_signature=old.sign(said.message()).hex(),
        new_signature=new.sign(said.message()).hex(),
        reason=change.reason,
    )
    if ledger.size:  # an aggregator's may have no entry yet, and nothing to sign for
        ledger.checkpoint(old.sign, change.now)
    ledger.rotate(step.with_commitments(entry), LogIdentity.of(new), new.sign, change.now)
