"""Several institutions' bundles, verified and laid side by side, in words: what `cloister ledger compare` prints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certs.names import Role
from certs.verify import load_ca
from federation.verification import trusted_by_ca, verified
from privacy.errors import CloisterError
from privacy.ledger.account import Account, account_of
from privacy.ledger.codec import decode_entry
from privacy.ledger.compare import Comparison, compare
from runtime.bundle import opened_bundle
from runtime.files import read_file


@dataclass(frozen=True)
class ComparedBundles:
    """What bundles say, and what came out."""

    accounts: tuple[Account, ...]
    comparison: Comparison

    def value(self) -> dict[str, Any]:
        """For a program."""
        return {
            "agree": self.comparison.agree,
            "logs": [_log(account) for account in self.accounts],
            "disagreements": [
                {"job": d.key and d.key.job, "round": d.key and d.key.round_number, "who": d.who, "what": d.what}
                for d in self.comparison.disagreements
            ],
            "undetermined": [
                {"job": u.key and u.key.job, "round": u.key and u.key.round_number, "who": [u.who], "what": u.what}
                | {"after_utc": u.after_utc, "next_step": _next(u.who, u.after_utc)}
                for u in self.comparison.undetermined
            ],
        }

    def lines(self) -> Iterator[str]:
        """For a person; what to do about what is undetermined is said once for each institution."""
        yield from (_line(account) for account in self.accounts)
        found, unknown = self.comparison.disagreements, self.comparison.undetermined
        yield from (f"{each.key or 'log'}: {each.what}" for each in found)
        yield from (f"{each.key or 'log'}: undetermined: {each.what}" for each in unknown)
        if found:
            yield f"{len(found)} disagreements"
        if unknown:
            yield f"{len(unknown)} undetermined: this is no agreement"
        for who in sorted({each.who for each in unknown}):
            after = max(each.after_utc for each in unknown if each.who == who)
            yield f"  next: {_next(who, after)}"
        if self.comparison.agree:
            yield "They agree on every round that they speak of."


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
            report = verified(bundle, trusted)
            return account_of(
                report,
                bundle.leaves(),
                (decode_entry(body) for body in bundle.entries()),
                keeps_updates=trusted.party is not None and trusted.party.role is Role.SILO,
            )
    except CloisterError as fault:
        if fault.what != str(path):
            fault.what = f"{path}: {fault.what}"
        raise


def _next(who: str, after_utc: str) -> str:
    return f"Ask {who} for a fresh export, made and cosigned by a witness after {after_utc}."


def _log(account: Account) -> dict[str, Any]:
    return {
        "origin": account.origin,
        "entries": len(account.leaves),
        "last_utc": account.last_utc,
        "cosigned_utc": account.cosigned_utc,
    }


def _line(account: Account) -> str:
    witnessed = f"last cosigned {account.cosigned_utc}" if account.cosigned_utc else "cosigned by nobody"
    return f"{account.origin}: verified, {len(account.leaves)} entries, until {account.last_utc}, {witnessed}"
