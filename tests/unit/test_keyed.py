"""Rounds with one-time keys: joins, headers, share mails and releases, honest and not."""

import dataclasses
import hashlib

import pytest
from pydantic import ValidationError

from privacy.errors import ProtocolError
from privacy.keyed import (
    KeyedRoundJoin,
    KeyedUpdateHeader,
    Release,
    check_keyed_header,
    check_mail,
    check_release,
    check_round_roll,
    mail_digests,
    mails_digest,
    receivers_of,
)
from privacy.keyed_mail import open_release, open_share, seal_release, seal_shares
from privacy.mail import MailKey
from privacy.plan import RoundContext
from privacy.roll import check_roll
from tests.parties import Cohort

SILOS = ("a", "b", "c")
TAU = b"t" * 32


class Round:
    """One round whose joins are honest."""

    def __init__(self) -> None:
        self.cohort = Cohort(*SILOS)
        self.ctx = self.cohort.ctx
        self.share = {name: MailKey.generate() for name in SILOS}
        self.open = {name: MailKey.generate() for name in SILOS}
        self.joins = [self.join(name) for name in SILOS]
        self.roll = check_round_roll(self.cohort.plan, self.ctx, self.joins)
        shares = [name.encode() * 40 for name in SILOS]
        self.mails = seal_shares(self.ctx, self.roll, "a", shares)

    def join(self, name: str, ctx: RoundContext | None = None, **keys: MailKey):
        pair = {"share_key": self.share[name], "open_key": self.open[name], **keys}
        fields = {field: key.public_bytes.hex() for field, key in pair.items()}
        return self.cohort.sign(KeyedRoundJoin.model_validate({**self.cohort.bound(name, ctx), **fields}))

    def header(self, **changes: object):
        fields = {
            "values": self.cohort.plan.values,
            "roll": self.roll.digest.hex(),
            "residues_root": "9" * 64,
            "mails": mails_digest(mail_digests(self.mails)),
        }
        return self.cohort.sign(KeyedUpdateHeader.model_validate({**self.cohort.bound("a"), **fields, **changes}))


@pytest.fixture(scope="module", name="held")
def _held() -> Round:
    return Round()


def test_a_round_s_roll_is_the_same_whatever_the_order_of_its_joins(held: Round) -> None:
    again = check_round_roll(held.cohort.plan, held.ctx, reversed(held.joins))
    assert again.digest == held.roll.digest
    assert [held.roll.point(name) for name in SILOS] == [1, 2, 3]
    assert held.roll.share_keys["b"] == held.share["b"].public_bytes


def test_joins_that_make_no_roll(held: Round) -> None:
    plan, ctx = held.cohort.plan, held.ctx
    other = dataclasses.replace(ctx, round_number=2)
    for joins, reason in (
        (held.joins[:2], "goes on without a join of c"),
        ([*held.joins, held.joins[0]], "two joins of a"),
        ([*held.joins[:2], held.join("c", other)], "another context"),
        ([*held.joins[:2], held.join("c", share_key=held.share["a"])], "one key in two joins"),
    ):
        with pytest.raises(ProtocolError, match=reason):
            check_round_roll(plan, ctx, joins)


def test_one_key_for_both_uses_is_refused(held: Round) -> None:
    with pytest.raises(ValidationError, match="must be two keys"):
        held.join("a", open_key=held.share["a"])


def test_headers_that_do_not_hold(held: Round) -> None:
    plan, ctx, roll = held.cohort.plan, held.ctx, held.roll
    assert check_keyed_header(plan, ctx, roll, held.header()).silo == "a"
    for change, reason in (
        ({"values": 5}, "covers 5 values"),
        ({"roll": "0" * 64}, "other joins"),
        ({"ctx": "0" * 64}, "another context"),
    ):
        with pytest.raises(ProtocolError, match=reason):
            check_keyed_header(plan, ctx, roll, held.header(**change))


def test_a_mail_is_the_one_that_its_sender_signed_for_that_place(held: Round) -> None:
    stated, digests = mails_digest(mail_digests(held.mails)), mail_digests(held.mails)
    of_b = held.mails[1]
    check_mail(stated, digests, 3, 1, of_b, sender="a", step="fingerprint")
    shorter = held.mails[:2]
    for stated_, digests_, count, place, mail, reason in (
        (stated, digests, 3, 2, of_b, "is not the one that was signed"),
        (stated, digests, 3, 1, of_b[:-1] + b"x", "is not the one that was signed"),
        (stated, digests[::-1], 3, 1, of_b, "are not the 3 that were signed"),
        (stated, digests[:64], 3, 1, of_b, "are not the 3 that were signed"),
        (mails_digest(mail_digests(shorter)), mail_digests(shorter), 3, 1, of_b, "are not the 3 that were signed"),
    ):
        with pytest.raises(ProtocolError, match=reason) as refused:
            check_mail(stated_, digests_, count, place, mail, sender="a", step="fingerprint")
        assert (refused.value.sender, refused.value.step) == ("a", "fingerprint")


def test_a_share_is_read_by_its_receiver_alone(held: Round) -> None:
    def opened(key: MailKey, mail: bytes, to: str = "b", sender: str = "a", ctx: RoundContext = held.ctx) -> bytes:
        return open_share(key, ctx, held.roll, mail, sender=sender, to=to)

    of_b, of_c = held.mails[1:]
    assert opened(held.share["b"], of_b) == b"b" * 40
    for key, mail, named in (
        (held.share["c"], of_b, {}),
        (held.open["b"], of_b, {}),
        (held.share["b"], of_b, {"ctx": dataclasses.replace(held.ctx, round_number=2)}),
        (held.share["b"], of_b, {"sender": "c"}),
        (held.share["b"], of_b, {"to": "c"}),
        (held.share["b"], of_c, {}),
    ):
        with pytest.raises(ProtocolError, match="does not open"):
            opened(key, mail, **named)


def test_what_is_released_goes_to_participants_and_to_those_who_were_away(held: Round) -> None:
    """`b` is not on a round's list of a and c: its mail key of the job stands in for one of the round."""
    ctx = dataclasses.replace(held.ctx, participants=("a", "c"))
    joins = [held.join(name, ctx) for name in ("a", "c")]
    roll = check_roll(held.cohort.plan, [held.cohort.job_join(name) for name in SILOS])
    receivers = receivers_of(roll, check_round_roll(held.cohort.plan, ctx, joins))
    assert list(receivers) == ["a", "c", "b"]
    assert receivers["c"] == held.open["c"].public_bytes
    assert receivers["b"] == held.cohort.mail_keys["b"].public_bytes


def test_a_release_is_read_by_every_receiver_and_bound_to_its_transcript(held: Round) -> None:
    sealed = seal_release(held.ctx, TAU, "c", b"s" * 64, held.roll.open_keys)
    fields = {
        "transcript": TAU.hex(),
        "body_sha256": hashlib.sha256(sealed.body).hexdigest(),
        "mails": mails_digest(mail_digests(sealed.mails)),
    }
    plan = held.cohort.plan

    def said(**changes: object):
        return held.cohort.sign(Release.model_validate({**held.cohort.bound("c"), **fields, **changes}))

    assert check_release(plan, held.ctx, TAU, said()).silo == "c"
    assert check_release(plan, held.ctx, TAU, said(), sealed.body).silo == "c"
    for change, body, reason in (
        ({"transcript": "0" * 64}, None, "another transcript"),
        ({"ctx": "0" * 64}, None, "another context"),
        ({}, sealed.body[:-1], "another body"),
    ):
        with pytest.raises(ProtocolError, match=reason):
            check_release(plan, held.ctx, TAU, said(**change), body)

    def opened(name: str, *, transcript: bytes = TAU, body: bytes = sealed.body, sender: str = "c") -> bytes:
        return open_release(
            held.open[name], held.ctx, transcript, body, sealed.mails[SILOS.index(name)], sender=sender, to=name
        )

    assert [opened(name) for name in SILOS] == [b"s" * 64] * 3
    for change in ({"transcript": b"u" * 32}, {"sender": "a"}, {"body": sealed.body[:-1] + b"x"}):
        with pytest.raises(ProtocolError, match="does not open"):
            opened("a", **change)


def test_two_releases_of_one_sum_share_no_key(held: Round) -> None:
    first, second = (seal_release(held.ctx, TAU, "c", b"s" * 64, held.roll.open_keys) for _ in range(2))
    assert first.body != second.body
