"""What the aggregator shows of a round, judged: announcement, commit and sum, certificate.

Steps 0, 3, 5 and 6 of docs/reference/protocol.md. Every check raises; what comes back was verified to the last byte
that anything later depends on.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cloister import wire

from privacy.errors import ProtocolError
from privacy.keyed import KeyedRoundJoin
from privacy.plan import RoundContext
from privacy.record import RoundRecord, SignedText
from privacy.statement import Signed, SiloStatement, read
from privacy.transcript import (
    CheckedCommit,
    CheckedTranscript,
    Consent,
    HeaderCheck,
    RoundJoin,
    check_certificate,
    check_commit,
    check_fingerprints,
    check_round,
    require_own_header,
)
from silo_agent.membership import Membership
from silo_agent.round_states import Fingerprinted, State, Submitted
from silo_agent.sums import FetchedSum, judged


def check_announcement(membership: Membership, number: int, view: wire.Round, own_adapter: bytes) -> RoundContext:
    """Step 0: the context of a round, if it is one this silo may sign. Raises ProtocolError."""
    ctx = RoundContext(membership.job, number, view.adapter_digest, view.participants)
    check_round(membership.plan, membership.roll, ctx)
    if ctx.adapter_digest != own_adapter:
        raise ProtocolError(
            f"round {number}",
            "starts from another global adapter than this silo's",
            "The silo did not join; see whether it refused or missed an earlier round (`cloister silo status`).",
            sender=membership.plan.aggregator.name,
            step="announce",
        )
    return ctx


@dataclass(frozen=True)
class CommitCheck:
    """Steps 3 and 5: checks a commit, its headers, fingerprints and sum, from where this silo stands in the round."""

    membership: Membership
    ctx: RoundContext
    headers: HeaderCheck
    own_header: Signed | None
    state: State

    def check(
        self, view: wire.Round, fetched: FetchedSum, fetch: Callable[[], Iterable[wire.SumPart]]
    ) -> CheckedTranscript:
        """Step 5: the whole transcript, verified, with its sum on disk; `fetch` brings it when it is not here yet.

        Raises Rejected naming what does not hold; what `fetch` raises passes through and says nothing about the round.
        """
        with judged():
            checked = check_fingerprints(self.membership.plan, self.ctx, self._commit(view), view.fingerprints)
        fetched.bring(checked, fetch)
        return checked

    def commit(self, view: wire.Round) -> CheckedCommit:
        """Step 3: the commit and its headers, verified. Raises Rejected."""
        with judged():
            return self._commit(view)

    def _commit(self, view: wire.Round) -> CheckedCommit:
        if view.commit is None:
            raise ProtocolError(
                f"round {self.ctx.round_number}", "is committed, and no commit is shown", "Nothing was consented to."
            )
        member = self.membership
        checked = check_commit(member.plan, self.ctx, self.headers, view.commit, view.headers)
        self._require_later(checked)
        self._require_own(checked)
        return checked

    def _require_later(self, checked: CheckedCommit) -> None:
        """Another commit than the one this silo answered must come after it: or the aggregator equivocates."""
        state, attempt = self.state, checked.commit.attempt
        if isinstance(state, Fingerprinted) and checked.digest != state.commit and attempt <= state.attempt:
            raise ProtocolError(
                f"commit of round {checked.commit.round}",
                f"has number {attempt}, after another, number {state.attempt}, which this silo answered before",
                "Nothing was consented to or opened; this silo's stored fingerprint names the other.",
                sender=checked.commit.aggregator,
                step="commit",
            )

    def _require_own(self, checked: CheckedCommit) -> None:
        """In the sum exactly once if it was submitted; never with a header that this silo did not sign."""
        named = self.membership.silo in checked.members
        if self.own_header is not None and (named or self._must_be_in(checked)):
            require_own_header(checked, self.own_header)
        elif named:
            raise ProtocolError(
                f"commit of round {self.ctx.round_number}",
                "holds an update in this silo's name, which sent none",
                "No consent was given; the identity key may be in other hands.",
                sender=checked.commit.aggregator,
                step="commit",
            )

    def _must_be_in(self, checked: CheckedCommit) -> bool:
        """Whether the aggregator confirmed all it asked for so far. It may leave out whose fingerprint did not come."""
        attempt = checked.commit.attempt
        match self.state:
            case Submitted():
                return attempt == 1
            case Fingerprinted(attempt=answered, accepted=accepted):
                return attempt == answered or (accepted and attempt == answered + 1)
        return False


def check_certified(membership: Membership, ctx: RoundContext, view: wire.Round, checked: CheckedTranscript) -> bytes:
    """Step 6: the certificate; returns the round's record, to be kept as evidence. Raises Rejected.

    The record has the statements by their signers, in whatever order they were shown: so everybody's is the same.
    """
    with judged():
        check_certificate(membership.plan, ctx, checked.digest, view.consents)
        if view.commit is None:
            raise ProtocolError(f"round {ctx.round_number}", "shows no commit", "Nothing was opened.")
        joins = _by_silo(view.joins, KeyedRoundJoin if membership.plan.suite.keyed else RoundJoin)
        consents = _by_silo(view.consents, Consent)
    record = RoundRecord(
        plan=membership.plan.encode().decode(),
        job_joins=_texts(membership.roll.joins),
        deal=None if membership.deal is None else SignedText.of(membership.deal),
        round=ctx.round_number,
        adapter_digest=ctx.adapter_digest.hex(),
        participants=ctx.participants,
        round_joins=joins,
        commit=SignedText.of(view.commit),
        headers=_texts(view.headers),
        fingerprints=_texts(view.fingerprints),
        consents=consents,
        releases=(),
        applied=(),
    )
    return record.encode()


def _by_silo(statements: Iterable[Signed], kind: type[SiloStatement]) -> tuple[SignedText, ...]:
    signed_by = {read(signed, kind).silo: signed for signed in statements}
    return _texts(signed_by[silo] for silo in sorted(signed_by))


def _texts(statements: Iterable[Signed]) -> tuple[SignedText, ...]:
    return tuple(SignedText.of(signed) for signed in statements)
