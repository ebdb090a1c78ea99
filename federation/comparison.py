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
from privacy.ledger.evidence import Scope
from runtime.bundle import opened_bundle
from runtime.files import read_file


@dataclass(frozen=True)
class ComparedBundle:
    """A bundle that verified: what it says, what was asked for, and how many rounds came without their transcripts."""

    account: Account
    scope: Scope
    without_transcript: int


@dataclass(frozen=True)
class ComparedBundles:
    """Bundles, and what came out."""

    bundles: tuple[ComparedBundle, ...]
    comparison: Comparison

    def value(self) -> dict[str, Any]:
        """For a program."""
        return {
            "agree": self.comparison.agree,
            "logs": [_log(bundle) for bundle in self.bundles],
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
        for bundle in self.bundles:
            yield from _bundle_lines(bundle)
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
    bundles = tuple(_read(path, ca) for path in paths)
    return ComparedBundles(bundles, compare([bundle.account for bundle in bundles]))


def _read(path: Path, ca: Path) -> ComparedBundle:
    try:
        with opened_bundle(path) as bundle:
            trusted, evidence = trusted_by_ca(bundle, ca), bundle.evidence()
            report = verified(bundle, trusted)
            account = account_of(
                report,
                (*trusted.earlier_keys, trusted.public_key),
                bundle.leaves(),
                (decode_entry(body) for body in bundle.entries()),
                evidence,
                keeps_updates=trusted.party is not None and trusted.party.role is Role.SILO,
            )
    except CloisterError as fault:
        if fault.what != str(path):
            fault.what = f"{path}: {fault.what}"
        raise
    absent = 0 if report.evidence is None else report.evidence.rounds_out_of_scope
    return ComparedBundle(account, evidence.scope, absent)


def _next(who: str, after_utc: str) -> str:
    return f"Ask {who} for a fresh export, made and cosigned by a witness after {after_utc}."


def _log(bundle: ComparedBundle) -> dict[str, Any]:
    account = bundle.account
    return {
        "origin": account.origin,
        "entries": len(account.leaves),
        "last_utc": account.last_utc,
        "cosigned_utc": account.cosigned_utc,
        "scope": {"job": bundle.scope.job, "since": bundle.scope.since_utc},
        "rounds_without_transcript": bundle.without_transcript,
    }


def _bundle_lines(bundle: ComparedBundle) -> Iterator[str]:
    account, scope = bundle.account, bundle.scope
    witnessed = f"last cosigned {account.cosigned_utc}" if account.cosigned_utc else "cosigned by nobody"
    yield f"{account.origin}: verified, {len(account.leaves)} entries, until {account.last_utc}, {witnessed}"
    asked = {"job": scope.job, "since": scope.since_utc}
    if any(asked.values()):
        only = ", ".join(f"{name} {value}" for name, value in asked.items() if value)
        yield (
            f"  the export was of {only}: {bundle.without_transcript} of its published rounds were not compared with a "
            "transcript in it"
        )
