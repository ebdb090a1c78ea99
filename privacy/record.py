"""RoundRecord: one round's whole transcript as a file, and its offline check (public keys only, no network).

The aggregator exports it, anybody checks it: every signature under the plan's roster, the roll and its deal, the
commit against its headers, the fingerprints, the certificate. It holds digests, not ciphertexts: that the residues have
the committed root and the fingerprint that the members' add up to is checked by whoever has them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from privacy.canonical import parse_canonical
from privacy.ckks.fingerprint import root_and_fingerprint
from privacy.ckks.layouts import layout_of
from privacy.document import Document
from privacy.errors import VerificationError
from privacy.fields import Hex32, Name, Strict
from privacy.keyed import check_release, check_round_roll, keyed_headers
from privacy.plan import JobPlan, RoundContext
from privacy.roll import Roll, check_deal, check_roll, require_plan
from privacy.statement import Signed, verify
from privacy.transcript import (
    Applied,
    CheckedTranscript,
    Consent,
    HeaderCheck,
    check_certificate,
    check_commit,
    check_fingerprints,
    check_joins,
    check_round,
    group_headers,
    require_round,
    require_sum,
)
from privacy.validation import require_validation

NEXT_STEP = "Ask the aggregator for the record again; if it stays so, keep it as evidence."


class SignedText(Strict):
    """A signed statement inside a record: its canonical JSON as text, its signature in hex."""

    body: Annotated[str, Field(min_length=2)]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    @classmethod
    def of(cls, signed: Signed) -> "SignedText":
        """From the form that travels."""
        return cls(body=signed.body.decode(), signature=signed.signature.hex())

    @property
    def signed(self) -> Signed:
        """The form that travels."""
        return Signed(self.body.encode(), bytes.fromhex(self.signature))


_BY_SIGNER = ("job_joins", "round_joins", "headers", "fingerprints", "consents", "releases", "applied")
Statements = Annotated[tuple[SignedText, ...], Field(strict=False, max_length=100)]


class RoundRecord(Document):
    """Everything said about one round, from the plan to the digests of the next adapter."""

    what: ClassVar[str] = "round record"
    next_step: ClassVar[str] = NEXT_STEP

    version: Literal["cloister/v1/round-record"] = "cloister/v1/round-record"
    plan: str
    job_joins: Statements
    deal: SignedText | None  # of the suite ckks-group
    round: Annotated[int, Field(ge=1)]
    adapter_digest: Hex32
    participants: tuple[Name, ...] = Field(strict=False)
    round_joins: Statements
    commit: SignedText
    headers: Statements
    fingerprints: Statements
    consents: Statements
    releases: Statements  # of the suite ckks-multikey
    applied: Statements


@dataclass(frozen=True)
class RecordVerdict:
    """What a record proves."""

    plan: JobPlan
    participants: tuple[str, ...]
    transcript: CheckedTranscript
    consents: tuple[Consent, ...]
    released: tuple[str, ...]  # whose sums of shares there are: threshold many open the sum
    adapters: dict[str, str]  # by silo: the digest of the next global adapter it signed


def check_record(record: RoundRecord) -> RecordVerdict:
    """Check a record from end to end; a round has one: the statements of a kind stand by their signers, one of each.

    Raises ProtocolError or VerificationError naming the first thing wrong.
    """
    plan = JobPlan.decode(record.plan.encode())
    roll = check_roll(plan, [join.signed for join in record.job_joins])
    ctx = RoundContext(plan.digest(), record.round, bytes.fromhex(record.adapter_digest), record.participants)
    check_round(plan, roll, ctx)
    check = header_check(
        plan, ctx, roll, _signed(record.round_joins), None if record.deal is None else record.deal.signed
    )
    commit = check_commit(plan, ctx, check, record.commit.signed, _signed(record.headers))
    transcript = check_fingerprints(plan, ctx, commit, _signed(record.fingerprints))
    consents = check_certificate(plan, ctx, transcript.digest, _signed(record.consents))
    releases = [check_release(plan, ctx, transcript.digest, each) for each in _signed(record.releases)]
    released = tuple(sorted({release.silo for release in releases}))
    adapters = _adapters(plan, ctx, record)
    _require_sorted(record)
    return RecordVerdict(plan, ctx.participants, transcript, consents, released, adapters)


def header_check(
    plan: JobPlan, ctx: RoundContext, roll: Roll, round_joins: Sequence[Signed], deal: Signed | None
) -> HeaderCheck:
    """Step 0, checked: what all participants joined with, and so what their headers must fit.

    Raises ProtocolError or VerificationError unless everybody joined, and the suite's keys were made as it says.
    """
    if (deal is None) != plan.suite.keyed:
        raise VerificationError(f"round {ctx.round_number}", f"has no key deal as {plan.suite} has it", NEXT_STEP)
    if deal is None:
        return keyed_headers(plan, ctx, check_round_roll(plan, ctx, round_joins))
    check_joins(plan, ctx, round_joins)
    return group_headers(plan, ctx, bytes.fromhex(check_deal(plan, roll, deal, {}).key_commitment))


def check_sum(verdict: RecordVerdict, chunks: Iterable[bytes]) -> None:
    """That a sum is the committed one and its members' sum: sizes, residues, H(C), fingerprint.

    `chunks` are its residue chunks in order (privacy.ckks.layout). Raises ProtocolError or VerificationError.
    """
    commit = verdict.transcript.commit
    root, value = root_and_fingerprint(layout_of(verdict.plan), commit.digest, chunks)
    if root.hex() != commit.commit.sum_root:
        what = f"sum of round {commit.commit.round}"
        raise VerificationError(what, "is not the committed one: H(C) differs", NEXT_STEP)
    require_sum(verdict.plan, verdict.transcript, value)


def _signed(texts: Iterable[SignedText]) -> list[Signed]:
    return [text.signed for text in texts]


def _require_sorted(record: RoundRecord) -> None:
    """By their signers, one of each; all are verified before."""
    for kind in _BY_SIGNER:
        silos = [parse_canonical(text.body.encode(), kind)["silo"] for text in getattr(record, kind)]
        if silos != sorted(set(silos)):
            why = f"its {kind} are not sorted by silo, each silo once"
            raise VerificationError(f"round {record.round}", why, NEXT_STEP)


def _adapters(plan: JobPlan, ctx: RoundContext, record: RoundRecord) -> dict[str, str]:
    adapters, validations = {}, set()
    for text in record.applied:
        applied = verify(text.signed, Applied, plan.identity_keys)
        require_plan(plan, applied)
        require_round(ctx, applied)
        require_validation(plan, applied)
        adapters[applied.silo] = applied.adapter
        validations.add(applied.validation)
    if len(validations) > 1:
        why = "silos signed different validation sums: " + ", ".join(sorted(adapters))
        raise VerificationError(f"round {record.round}", why, NEXT_STEP)
    if len(set(adapters.values())) > 1:
        raise VerificationError(
            f"round {record.round}", "silos signed different next adapters: " + ", ".join(sorted(adapters)), NEXT_STEP
        )
    return adapters
