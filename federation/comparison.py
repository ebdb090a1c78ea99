"""Several institutions' bundles, verified and laid side by side, in words: what `cloister ledger compare` prints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certs.names import Role
from certs.verify import load_ca
from federation.verification import trusted_by_ca, verified
from privacy.errors import CloisterError
from privacy.ledger.codec import decode_entry
from privacy.ledger.compare import Account, Disagreement, account_of, compare
from runtime.bundle import opened_bundle
from runtime.files import read_file


@dataclass(frozen=True)
class ComparedBundles:
    """What bundles say, and what came out."""

    accounts: tuple[Account, ...]
    found: tuple[Disagreement, ...]

    def value(self) -> dict[str, Any]:
        """For a program."""
        return {
            "agree": not self.found,
            "logs": [_log(account) for account in self.accounts],
            "disagreements": [
                {"job": d.key and d.key.job, "round": d.key and d.key.round_number, "who": d.who, "what": d.what}
                for d in self.found
            ],
        }

    def lines(self) -> Iterator[str]:
        """For a person."""
        for each in self.accounts:
            yield f"{each.origin}: verified, {len(each.leaves)} entries, until {each.last_utc}"
        yield from (f"{each.key or 'log'}: {each.what}" for each in self.found)
        yield f"{len(self.found)} disagreements" if self.found else "They agree on every round that they speak of."


def compared(paths: Sequence[Path], ca: Path) -> ComparedBundles:
    """Verify the bundles under the federation's CA and compare them. Raises the error of the first that is not right.

    Errors about a bundle name its file: ConfigError, VerificationError.
    """
    load_ca(read_file(ca, "Name the federation's ca.pem."))  # what is wrong with it is no bundle's
    accounts = tuple(_read(path, ca) for path in paths)
    return ComparedBundles(accounts, compare(accounts))


def _read(path: Path, ca: Path) -> Account:
    try:
        with opened_bundle(path) as bundle:
            trusted = trusted_by_ca(bundle, ca)
            verified(bundle, trusted)
            return account_of(
                trusted.origin,
                bundle.leaves(),
                (decode_entry(body) for body in bundle.entries()),
                keeps_updates=trusted.party is not None and trusted.party.role is Role.SILO,
            )
    except CloisterError as fault:
        if fault.what != str(path):
            fault.what = f"{path}: {fault.what}"
        raise


def _log(account: Account) -> dict[str, Any]:
    return {
        "origin": account.origin,
        "entries": len(account.leaves),
        "last_utc": account.last_utc,
    }
