"""What is said in a round, and how anybody checks it: joins, commit, fingerprints, consents, certificate.

Step numbers are those of docs/reference/protocol.md. Every check raises ProtocolError naming the sender and the step;
none returns False. The aggregator is a party like any other here: its commit is signed, so that two commits for one
attempt at a round are evidence.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from privacy.canonical import digest
from privacy.ckks.fingerprint import Value, add_values, decode
from privacy.ckks.layouts import layout_of
from privacy.envelope import AnyHeader, UpdateHeader, header_digest
from privacy.errors import ProtocolError
from privacy.fields import Hex32, Name, Strict
from privacy.plan import JobPlan, RoundContext
from privacy.roll import Roll, require_plan
from privacy.statement import RoundNumber, RoundStatement, Signed, Statement, verify

HeaderCheck = Callable[[Signed], AnyHeader]  # step 1 for one header; raises ProtocolError

COMMIT_LABEL = "cloister/v1/committed"
TRANSCRIPT_LABEL = "cloister/v1/transcript"


class RoundJoin(RoundStatement):
    """Step 0: a silo takes part in this round, with this participant list and this global adapter, and no other."""

    type: Literal["cloister/v1/round-join"] = "cloister/v1/round-join"


class Withdrawal(RoundStatement):
    """A participant will send nothing this round; the others need not wait for it."""

    type: Literal["cloister/v1/withdrawal"] = "cloister/v1/withdrawal"


class CommitMember(Strict):
    """A member of the sum and the digest of its header."""

    silo: Name
    header: Hex32


class RoundCommit(Statement):
    """Step 2: the aggregator fixes the sum: who is in it, and the RFC 6962 root over its residue chunks, H(C).

    `attempt` is 1, and one more for every commit that leaves out whose fingerprint did not come or did not hold.
    """

    type: Literal["cloister/v1/commit"] = "cloister/v1/commit"
    aggregator: Name
    round: RoundNumber
    ctx: Hex32
    attempt: Annotated[int, Field(ge=1, le=100)]
    members: tuple[CommitMember, ...] = Field(strict=False, min_length=1)
    sum_root: Hex32

    @property
    def signer(self) -> str:
        """The aggregator."""
        return self.aggregator


class Fingerprint(RoundStatement):
    """Step 3: the fingerprint of this silo's own ciphertext, under the challenge that this commit draws."""

    type: Literal["cloister/v1/fingerprint"] = "cloister/v1/fingerprint"
    commit: Hex32  # H(tau1): `CheckedCommit.digest`
    unopened: Annotated[tuple[Name, ...], Field(strict=False, max_length=100)] = ()  # members of no use to it: multikey
    value: Annotated[str, Field(pattern=r"^([0-9a-f]{16}){1,200}$")]

    @property
    def once(self) -> str:
        """One for every commit of a round."""
        return fingerprint_under(bytes.fromhex(self.commit))


def fingerprint_under(commit: bytes) -> str:
    """What a party's fingerprint under this commit is stored by (`Statement.once`)."""
    return f"cloister/v1/fingerprint/{commit.hex()}"


class Consent(RoundStatement):
    """Step 5: the silo checked the transcript with this digest and lets its sum be opened. One a round, ever."""

    type: Literal["cloister/v1/consent"] = "cloister/v1/consent"
    transcript: Hex32


class Applied(RoundStatement):
    """Step 8: the digest of the next global adapter as this silo computed it, and the opened validation sums.

    Those are the members' grid values, added: empty where the plan has none (privacy.metrics).
    """

    type: Literal["cloister/v1/applied"] = "cloister/v1/applied"
    adapter: Hex32
    validation: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(default=(), strict=False, max_length=3)


def check_round(plan: JobPlan, roll: Roll, ctx: RoundContext) -> None:
    """The rules on a round's announcement: this plan, a number in range, enough members, sorted, each once."""

    def wrong(why: str) -> ProtocolError:
        return ProtocolError(
            f"round {ctx.round_number}", why, "The silo did not join it.", sender="aggregator", step="announce"
        )

    if ctx.plan_digest != plan.digest():
        raise wrong("is of another plan")
    if not 1 <= ctx.round_number <= plan.round_attempts:
        raise wrong(f"is outside 1-{plan.round_attempts}")
    if list(ctx.participants) != sorted(set(ctx.participants)) or not set(ctx.participants) <= set(roll.members):
        raise wrong("its participants are not members of the roll, sorted, each once")
    least, roster = plan.least_participants, len(plan.cohort.roster)
    if len(ctx.participants) < least:
        raise wrong(f"has {len(ctx.participants)} participants; of {roster} in the roster it takes {least}")


def check_joins(plan: JobPlan, ctx: RoundContext, joins: Iterable[Signed]) -> None:
    """Step 0, its end, of `ckks-group`: exactly one RoundJoin of every participant, to this context."""
    joined = []
    for signed in joins:
        join = verify(signed, RoundJoin, plan.identity_keys)
        require_plan(plan, join)
        require_round(ctx, join)
        joined.append(join.silo)
    if sorted(joined) != list(ctx.participants):
        raise ProtocolError(
            f"round {ctx.round_number}",
            f"goes on with joins of {', '.join(sorted(joined)) or 'nobody'}; its participants are "
            + ", ".join(ctx.participants),
            "Nothing was trained or opened on it.",
            sender=plan.aggregator.name,
            step="announce",
        )


def require_round(ctx: RoundContext, statement: RoundStatement | RoundCommit) -> None:
    """The statement must be about exactly this round and context. Raises ProtocolError."""
    if statement.round != ctx.round_number or statement.ctx != ctx.digest().hex():
        raise ProtocolError(
            f"statement {statement.type}",
            f"is bound to round {statement.round} in another context (replayed, or a different view of the round)",
            "It was not accepted.",
            sender=statement.signer,
        )
    if isinstance(statement, RoundStatement) and statement.silo not in ctx.participants:
        raise ProtocolError(
            f"statement {statement.type}",
            f"{statement.silo} is not a participant of round {ctx.round_number}",
            "It was not accepted.",
            sender=statement.silo,
        )


def group_headers(plan: JobPlan, ctx: RoundContext, key_commitment: bytes) -> HeaderCheck:
    """What `check_commit` checks headers of the suite `ckks-group` with."""
    return lambda signed: check_header(plan, ctx, key_commitment, signed)


def check_header(plan: JobPlan, ctx: RoundContext, key_commitment: bytes, signed: Signed) -> UpdateHeader:
    """Step 1: a header is its silo's, of this round, of the planned length, under the cohort's key."""
    header = verify(signed, UpdateHeader, plan.identity_keys)
    require_plan(plan, header)
    require_round(ctx, header)
    if header.values != plan.sent_values:
        raise ProtocolError(
            "update header", f"covers {header.values} values; the plan has {plan.sent_values}", "It was not accepted.",
            sender=header.silo, step="submit",
        )  # fmt: skip
    if header.key_commitment != key_commitment.hex():
        raise ProtocolError(
            "update header", "was sealed under another key than the deal's", "It was not accepted.",
            sender=header.silo, step="submit",
        )  # fmt: skip
    return header


def commit_digest(commit: Signed, headers: Sequence[Signed]) -> bytes:
    """H(tau1): the commit and all headers with their signatures, in the commit's order. Draws the fingerprints' rho."""
    return digest(COMMIT_LABEL, *_bytes_of(commit, *headers))


def transcript_digest(commit: bytes, fingerprints: Sequence[Signed]) -> bytes:
    """H(tau2): H(tau1) and the fingerprints of all members with their signatures, in the commit's order."""
    return digest(TRANSCRIPT_LABEL, commit, *_bytes_of(*fingerprints))


def _bytes_of(*statements: Signed) -> list[bytes]:
    return [part for signed in statements for part in (signed.body, signed.signature)]


@dataclass(frozen=True)
class CheckedCommit:
    """A commit whose every header was verified. `digest` is H(tau1)."""

    commit: RoundCommit
    headers: tuple[AnyHeader, ...]
    digest: bytes

    @property
    def members(self) -> tuple[str, ...]:
        """The members of the sum, U, sorted."""
        return tuple(header.silo for header in self.headers)


def check_commit(
    plan: JobPlan,
    ctx: RoundContext,
    check: HeaderCheck,
    commit: Signed,
    headers: Sequence[Signed],
) -> CheckedCommit:
    """Steps 3 and 5: the aggregator's signature, every header's (`check`), the rules on U.

    Does not look at the sum itself: `sum_root` must be compared with the residues that came (layout.chunks_root), and
    their fingerprint with the members' (`require_sum`).
    """
    statement = verify(commit, RoundCommit, {plan.aggregator.name: bytes.fromhex(plan.aggregator.identity_key)})
    require_plan(plan, statement)
    require_round(ctx, statement)

    def wrong(why: str) -> ProtocolError:
        return ProtocolError(
            f"commit of round {ctx.round_number}",
            why,
            "No consent was given.",
            sender=statement.aggregator,
            step="commit",
        )

    checked = [check(signed) for signed in headers]
    names = [header.silo for header in checked]
    if names != sorted(set(names)):
        raise wrong("its headers are not sorted by silo, each silo exactly once")
    expected = [CommitMember(silo=h.silo, header=header_digest(s).hex()) for h, s in zip(checked, headers, strict=True)]
    if list(statement.members) != expected:
        raise wrong("its members are not those of its headers")
    if len(names) < plan.cohort.minimum:
        raise wrong(f"sums {len(names)} updates; the plan's minimum is {plan.cohort.minimum}")
    return CheckedCommit(statement, tuple(checked), commit_digest(commit, headers))


def require_own_header(checked: CheckedCommit, own: Signed) -> None:
    """A silo that submitted must find its own header in the commit exactly once, byte for byte."""
    mine = header_digest(own).hex()
    if [member.header for member in checked.commit.members].count(mine) != 1:
        raise ProtocolError(
            f"commit of round {checked.commit.round}",
            "this silo's own update is not in it exactly once",
            "No consent was given; ask the coordinator why the update was left out or changed.",
            sender=checked.commit.aggregator,
            step="commit",
        )


@dataclass(frozen=True)
class CheckedTranscript:
    """A commit with the fingerprints of all its members. `digest` is H(tau2): what consents name."""

    commit: CheckedCommit
    fingerprints: tuple[Fingerprint, ...]
    digest: bytes


def check_fingerprints(
    plan: JobPlan, ctx: RoundContext, commit: CheckedCommit, fingerprints: Sequence[Signed]
) -> CheckedTranscript:
    """Step 5: exactly one fingerprint of every member of the sum, signed by it, under this commit."""
    found = []
    for signed in fingerprints:
        statement = verify(signed, Fingerprint, plan.identity_keys)
        require_plan(plan, statement)
        require_round(ctx, statement)
        require_commit(commit.digest, statement)
        require_unopened(plan, commit.members, statement)
        found.append(statement)
    if tuple(statement.silo for statement in found) != commit.members:
        raise ProtocolError(
            f"fingerprints of round {ctx.round_number}",
            "are not those of the sum's members, sorted, each once",
            "No consent was given.",
            sender=plan.aggregator.name,
            step="fingerprint",
        )
    return CheckedTranscript(commit, tuple(found), transcript_digest(commit.digest, fingerprints))


def require_commit(commit: bytes, fingerprint: Fingerprint) -> None:
    """The fingerprint must be under this very commit. Raises ProtocolError."""
    if fingerprint.commit != commit.hex():
        raise ProtocolError(
            "fingerprint", f"is under another commit of round {fingerprint.round}", "Fetch the round again.",
            sender=fingerprint.silo, step="fingerprint",
        )  # fmt: skip


def require_unopened(plan: JobPlan, members: Sequence[str], fingerprint: Fingerprint) -> None:
    """Whose share mails did not open: members of the sum, sorted, each once; none where there are no shares."""
    named = fingerprint.unopened
    if list(named) != sorted(set(named)) or not set(named) <= set(members) or (named and not plan.suite.keyed):
        raise ProtocolError(
            "fingerprint", "names mails that there are none of", "It was not accepted.",
            sender=fingerprint.silo, step="fingerprint",
        )  # fmt: skip


def require_sum(plan: JobPlan, checked: CheckedTranscript, sum_value: Value) -> None:
    """Step 5: the sum's fingerprint is the sum of the members'. Raises ProtocolError.

    Then the sum is that of the ciphertexts which the members signed for, but for 2^-144 (privacy.ckks.fingerprint).
    """
    moduli = layout_of(plan).moduli
    values = [decode(statement.value, moduli, statement.silo) for statement in checked.fingerprints]
    if add_values(values, moduli) != sum_value:
        commit = checked.commit.commit
        raise ProtocolError(
            f"sum of round {commit.round}",
            "is not the sum of its members' ciphertexts: the fingerprints differ",
            "No consent was given, nothing is opened; keep the transcript as evidence.",
            sender=commit.aggregator,
            step="fingerprint",
        )


def check_certificate(
    plan: JobPlan, ctx: RoundContext, transcript: bytes, consents: Iterable[Signed]
) -> tuple[Consent, ...]:
    """Step 6: consents of at least `threshold` distinct participants to this very transcript."""
    given: dict[str, Consent] = {}
    for signed in consents:
        consent = verify(signed, Consent, plan.identity_keys)
        require_plan(plan, consent)
        require_round(ctx, consent)
        if consent.transcript != transcript.hex():
            raise ProtocolError(
                "certificate",
                f"{consent.silo} consented to another transcript of round {ctx.round_number}",
                "The aggregator showed different silos different sums; keep both as evidence. Nothing was opened.",
                sender=plan.aggregator.name,
                step="release",
            )
        given[consent.silo] = consent
    needed = plan.threshold(len(ctx.participants))
    if len(given) < needed:
        raise ProtocolError(
            "certificate",
            f"has {len(given)} consents of {needed}",
            "Nothing was opened.",
            sender=plan.aggregator.name,
            step="release",
        )
    return tuple(given[name] for name in sorted(given))
