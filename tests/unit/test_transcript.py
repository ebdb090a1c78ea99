"""Joins, deals, commits and certificates: what holds is accepted, every alteration is refused for its reason."""

import dataclasses
import hashlib

import pytest

from privacy.errors import ProtocolError
from privacy.mail import seal_mail
from privacy.plan import RoundContext
from privacy.roll import JobJoin, KeyDeal, MailDigest, check_deal, check_roll, dealer_of
from privacy.statement import Signed, verify
from privacy.transcript import (
    Consent,
    check_certificate,
    check_commit,
    check_fingerprints,
    check_header,
    check_round,
    group_headers,
    require_own_header,
)
from tests.parties import KEY_COMMITMENT, Cohort, transcript_of

SILOS = ["a", "b", "c", "d"]


def headers_of(cohort):
    return group_headers(cohort.plan, cohort.ctx, KEY_COMMITMENT)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return Cohort(*SILOS)


def commit_of(cohort: Cohort, names: list[str] = SILOS) -> tuple[Signed, list[Signed]]:
    headers = [cohort.header(name) for name in names]
    return cohort.commit(headers, names), headers


def test_an_honest_round_checks(cohort: Cohort) -> None:
    commit, headers = commit_of(cohort)
    checked = check_commit(cohort.plan, cohort.ctx, headers_of(cohort), commit, headers)
    require_own_header(checked, headers[2])
    fingerprints = [cohort.fingerprint(name, checked.digest) for name in SILOS]
    transcript = check_fingerprints(cohort.plan, cohort.ctx, checked, fingerprints)
    consents = [cohort.consent(name, transcript.digest) for name in ("d", "a", "b")]
    certificate = check_certificate(cohort.plan, cohort.ctx, transcript.digest, consents)
    assert [consent.silo for consent in certificate] == ["a", "b", "d"]
    assert checked.members == ("a", "b", "c", "d")
    assert transcript.digest == transcript_of(commit, headers, fingerprints)


def test_the_roll_does_not_depend_on_order_and_names_one_dealer(cohort: Cohort) -> None:
    joins = [cohort.job_join(name) for name in SILOS]
    roll = check_roll(cohort.plan, joins)
    again = check_roll(cohort.plan, reversed(joins))
    assert roll.digest == again.digest
    assert dealer_of(cohort.plan.digest(), roll) == dealer_of(cohort.plan.digest(), again)
    assert check_roll(cohort.plan, joins[:3]).digest != roll.digest


@pytest.mark.parametrize(
    ("joins", "reason"),
    [
        (["a"], "of 4 in the roster it takes 3"),
        (["a", "b"], "has 2 silos; of 4 in the roster it takes 3"),
        (["a", "a", "b", "c"], "a joined twice"),
    ],
)
def test_rolls_that_do_not_hold(cohort: Cohort, joins: list[str], reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        check_roll(cohort.plan, [cohort.job_join(name) for name in joins])


def test_a_mail_key_nobody_can_seal_to_is_refused_when_it_joins(cohort: Cohort) -> None:
    honest = cohort.mail_keys["a"].public_bytes
    for bad in (honest[:-32] + bytes(32), bytes(len(honest)), b"\xff" * len(honest)):
        with pytest.raises(ProtocolError, match="mail key of a"):
            JobJoin(plan=cohort.plan.digest().hex(), silo="a", mail_key=bad.hex())


@pytest.mark.parametrize("silos", range(2, 33))
def test_two_rolls_and_two_participant_lists_share_an_honest_silo(cohort: Cohort, silos: int) -> None:
    roster = cohort.plan.cohort.roster[:1] * silos
    for colluders in (0, 1, 3):
        tolerant = cohort.plan.cohort.model_copy(update={"tolerated_colluders": colluders, "roster": roster})
        least = cohort.plan.model_copy(update={"cohort": tolerant}).least_participants
        shared_by_any_two = 2 * least - silos
        assert shared_by_any_two > colluders


def deal_of(cohort: Cohort, **changes: object) -> tuple[Signed, dict[str, bytes]]:
    roll = check_roll(cohort.plan, [cohort.job_join(name) for name in SILOS])
    dealer = dealer_of(cohort.plan.digest(), roll)
    mails = {
        name: seal_mail(b"key", roll.mail_keys[name], binding=roll.digest, sender=dealer, receiver=name)
        for name in SILOS
        if name != dealer
    }
    fields = {
        "plan": cohort.plan.digest().hex(), "silo": dealer, "roll": roll.digest.hex(), "key_commitment": "c" * 64,
        "mails": [MailDigest(to=name, sha256=hashlib.sha256(mail).hexdigest()) for name, mail in mails.items()],
    }  # fmt: skip
    return cohort.sign(KeyDeal.model_validate({**fields, **changes})), mails


def test_a_deal_opens_for_its_receiver_only(cohort: Cohort) -> None:
    roll = check_roll(cohort.plan, [cohort.job_join(name) for name in SILOS])
    deal, mails = deal_of(cohort)
    statement = check_deal(cohort.plan, roll, deal, mails)
    receiver, other = (name for name in list(mails)[:2])
    opened = cohort.mail_keys[receiver].open(
        mails[receiver], binding=roll.digest, sender=statement.silo, receiver=receiver
    )
    assert opened == b"key"
    with pytest.raises(ProtocolError, match="does not open"):
        cohort.mail_keys[other].open(mails[receiver], binding=roll.digest, sender=statement.silo, receiver=other)
    with pytest.raises(ProtocolError, match="does not open"):
        cohort.mail_keys[receiver].open(
            mails[receiver], binding=b"another job", sender=statement.silo, receiver=receiver
        )


def test_deals_that_do_not_hold(cohort: Cohort) -> None:
    roll = check_roll(cohort.plan, [cohort.job_join(name) for name in SILOS])
    dealer = dealer_of(cohort.plan.digest(), roll)
    other = next(name for name in SILOS if name != dealer)
    deal, mails = deal_of(cohort)
    with pytest.raises(ProtocolError, match=f"the mail to {other} is not the one"):
        check_deal(cohort.plan, roll, deal, {other: mails[other] + b"x"})
    with pytest.raises(ProtocolError, match="this roll's dealer is"):
        check_deal(cohort.plan, roll, deal_of(cohort, silo=other)[0], {})
    with pytest.raises(ProtocolError, match="another roll"):
        check_deal(cohort.plan, roll, deal_of(cohort, roll="d" * 64)[0], {})
    with pytest.raises(ProtocolError, match="exactly one mail"):
        check_deal(cohort.plan, roll, deal_of(cohort, mails=())[0], {})


def test_a_round_must_have_this_plan_enough_members_and_a_number_in_range(cohort: Cohort) -> None:
    roll = check_roll(cohort.plan, [cohort.job_join(name) for name in SILOS])
    check_round(cohort.plan, roll, cohort.ctx)
    for changes, reason in (
        ({"plan_digest": b"x" * 32}, "another plan"),
        ({"round_number": 5}, "outside 1-4"),
        ({"participants": ("a", "b")}, "of 4 in the roster it takes 3"),
        ({"participants": ("a", "z")}, "not members of the roll"),
        ({"participants": ("b", "a")}, "sorted"),
    ):
        with pytest.raises(ProtocolError, match=reason):
            check_round(cohort.plan, roll, dataclasses.replace(cohort.ctx, **changes))


def test_an_altered_or_foreign_signature_is_refused(cohort: Cohort) -> None:
    header = cohort.header("a")
    flipped = Signed(header.body, bytes([header.signature[0] ^ 1]) + header.signature[1:])
    with pytest.raises(ProtocolError, match="signature is not a's"):
        check_header(cohort.plan, cohort.ctx, KEY_COMMITMENT, flipped)
    relabelled = Signed(header.body.replace(b'"silo":"a"', b'"silo":"b"'), header.signature)
    with pytest.raises(ProtocolError, match="signature is not b's"):
        check_header(cohort.plan, cohort.ctx, KEY_COMMITMENT, relabelled)
    stranger = Cohort("a", "mallory")
    with pytest.raises(ProtocolError, match="not in the roster"):
        check_header(cohort.plan, cohort.ctx, KEY_COMMITMENT, stranger.header("mallory"))
    with pytest.raises(ProtocolError):  # a header never stands for a consent
        verify(header, Consent, cohort.plan.identity_keys)


def test_a_replayed_header_is_refused(cohort: Cohort) -> None:
    earlier = RoundContext(cohort.plan.digest(), 2, b"a" * 32, cohort.ctx.participants)
    with pytest.raises(ProtocolError, match="replayed"):
        check_header(cohort.plan, cohort.ctx, KEY_COMMITMENT, cohort.header("a", earlier))
    other_view = dataclasses.replace(cohort.ctx, participants=("a", "b"))
    with pytest.raises(ProtocolError, match="different view"):
        check_header(cohort.plan, cohort.ctx, KEY_COMMITMENT, cohort.header("a", other_view))


def test_headers_of_another_length_or_key_are_refused(cohort: Cohort) -> None:
    with pytest.raises(ProtocolError, match="the plan has 1000"):
        check_header(cohort.plan, cohort.ctx, KEY_COMMITMENT, cohort.header("a", values=999))
    with pytest.raises(ProtocolError, match="another key"):
        check_header(cohort.plan, cohort.ctx, KEY_COMMITMENT, cohort.header("a", key_commitment="0" * 64))


def test_commits_that_do_not_hold(cohort: Cohort) -> None:
    plan, ctx = cohort.plan, cohort.ctx
    headers = [cohort.header(name) for name in SILOS]
    honest = cohort.commit(headers, SILOS)
    doubled = cohort.commit([headers[0], *headers], ["a", *SILOS])
    for commit, shown, reason in (
        (honest, headers[:3], "members are not those"),
        (doubled, [headers[0], *headers], "exactly once"),
        (honest, [headers[1], headers[0], *headers[2:]], "sorted"),
        (cohort.commit(headers[:1], ["a"]), headers[:1], "minimum is 2"),
        (cohort.commit(headers, SILOS, ctx="0" * 64), headers, "another context"),
        (Signed(honest.body, b"\0" * 64), headers, "signature is not aggregator's"),
    ):
        with pytest.raises(ProtocolError, match=reason):
            check_commit(plan, ctx, headers_of(cohort), commit, shown)


def test_a_silo_that_was_left_out_does_not_consent(cohort: Cohort) -> None:
    commit, headers = commit_of(cohort, ["a", "b", "c"])
    checked = check_commit(cohort.plan, cohort.ctx, headers_of(cohort), commit, headers)
    with pytest.raises(ProtocolError, match="own update is not in it"):
        require_own_header(checked, cohort.header("d"))


def test_certificates_that_do_not_hold(cohort: Cohort) -> None:
    commit, headers = commit_of(cohort)
    tau = transcript_of(commit, headers, [])
    three = [cohort.consent(name, tau) for name in ("a", "b", "c")]
    for consents, reason in (
        (three[:2], "2 consents of 3"),
        ([three[0], three[0], three[0]], "1 consents of 3"),
        ([*three, cohort.consent("d", b"z" * 32)], "d consented to another transcript"),
        (
            [cohort.consent("a", tau, dataclasses.replace(cohort.ctx, round_number=2)), *three[1:]],
            "another context",
        ),
    ):
        with pytest.raises(ProtocolError, match=reason):
            check_certificate(cohort.plan, cohort.ctx, tau, consents)


@pytest.mark.parametrize("participants", range(2, 33))
@pytest.mark.parametrize("colluders", [0, 1, 3])
def test_two_certificates_share_an_honest_signer(cohort: Cohort, participants: int, colluders: int) -> None:
    cohort_with = cohort.plan.cohort.model_copy(update={"tolerated_colluders": colluders})
    threshold = cohort.plan.model_copy(update={"cohort": cohort_with}).threshold(participants)
    shared_by_any_two = 2 * threshold - participants
    assert shared_by_any_two > colluders
