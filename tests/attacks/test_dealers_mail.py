"""The mail that carries the cohort's key: opened, altered or re-addressed on its way, or dealt in two versions.

The aggregator relays every mail. The dealer signs the digest of each; each opens under its receiver's key alone, for
this roll, sender and receiver; and what comes out must be the one key that the dealer committed to.

In OpenFL's secure aggregation the aggregator is sent the shares of all its collaborators' seeds and keys, rebuilds
every one of them before training begins, and so can take every mask off: who adds there also opens.
"""

import hashlib
import json

import pytest
from cloister.wire import JobPhase

from aggregator.store import Kind
from privacy.ckks.group import GroupKey
from privacy.errors import ProtocolError
from privacy.mail import MailKey, seal_mail
from privacy.roll import KeyDeal, MailDigest, check_roll
from privacy.statement import read
from silo_agent import deal
from silo_agent.jobs import JobState
from silo_agent.vault import Secret
from tests.attacks.lying import NAMES


@pytest.fixture
def dealt(world):
    """The dealer has dealt; nobody was given a mail yet. Their mails are the attacker's to deal with."""
    world.show_job(lambda _silo, job: job.model_copy(update={"phase": min(job.phase, JobPhase.DEALING), "deal": None}))
    world.run(until=lambda: any(world.said(name, KeyDeal) for name in NAMES))
    return world


def dealer_and_receivers(world):
    (dealer,) = (name for name in NAMES if world.said(name, KeyDeal))
    return dealer, *(name for name in NAMES if name != dealer)


def mail_to(world, silo):
    with world.store.reading() as tx:
        return tx.mail(world.job, silo)


def roll_of(world):
    """As everybody knows it."""
    with world.store.reading() as tx:
        return check_roll(world.runner.live(world.job).plan, tx.statements(world.job, 0, Kind.JOB_JOIN).values())


def has_key(world, silo):
    return world.silos[silo].home.vault.has(world.job, Secret.COHORT_KEY)


def test_who_relays_the_mails_opens_none(dealt):
    """It tries a key of its own, and each silo's mail with another silo's key: that of a colluder."""
    dealer, one, other = dealer_and_receivers(dealt)
    binding = roll_of(dealt).digest
    colluder = MailKey(dealt.silos[other].home.vault.get(dealt.job, Secret.MAIL_KEY))
    for key in (MailKey.generate(), colluder):
        for receiver in (one, other):
            with pytest.raises(ProtocolError, match="does not open"):
                key.open(mail_to(dealt, one), binding=binding, sender=dealer, receiver=receiver)


def flipped(world, dealer, victim, other):
    mail = bytearray(mail_to(world, victim))
    mail[-1] ^= 1
    return bytes(mail)


def readdressed(world, dealer, victim, other):
    return mail_to(world, other)


def of_the_aggregators_making(world, dealer, victim, other):
    """A key that the aggregator knows, properly sealed to the victim."""
    roll = roll_of(world)
    public = roll.mail_keys[victim]
    return seal_mail(GroupKey.generate().to_bytes(), public, binding=roll.digest, sender=dealer, receiver=victim)


@pytest.mark.parametrize("change", [flipped, readdressed, of_the_aggregators_making])
def test_a_mail_that_the_dealer_did_not_sign_is_not_opened(dealt, change):
    dealer, victim, other = dealer_and_receivers(dealt)
    forged = change(dealt, dealer, victim, other)
    dealt.show_job(lambda silo, job: job.model_copy(update={"mail": forged}) if silo == victim else job)
    for _ in range(3):
        dealt.turn()
    assert f"the mail to {victim} is not the one that was signed" in dealt.complaints[victim].why
    assert not has_key(dealt, victim)
    assert dealt.silos[victim].job_state is JobState.JOINED
    assert has_key(dealt, other)


def test_a_deal_of_the_aggregators_own_is_not_taken(dealt):
    """A whole deal in the dealer's name, of a key that the aggregator knows: all but the dealer's signature."""
    dealer, *receivers = dealer_and_receivers(dealt)
    roll, key = roll_of(dealt), GroupKey.generate()
    mails = {
        name: seal_mail(key.to_bytes(), roll.mail_keys[name], binding=roll.digest, sender=dealer, receiver=name)
        for name in receivers
    }
    forged = dealt.sign(
        KeyDeal(
            plan=dealt.job.hex(), silo=dealer, roll=roll.digest.hex(), key_commitment=key.commitment(roll.digest).hex(),
            mails=tuple(MailDigest(to=to, sha256=hashlib.sha256(mail).hexdigest()) for to, mail in mails.items()),
        )
    )  # fmt: skip
    dealt.show_job(lambda silo, job: job.model_copy(update={"deal": forged, "mail": mails.get(silo, b"")}))
    for _ in range(3):
        dealt.turn()
    for name in receivers:
        assert dealt.complaints[name].why == f"the signature is not {dealer}'s"
        assert not has_key(dealt, name)


def test_a_dealer_that_mails_two_keys_is_named(world, monkeypatch):
    """A malicious dealer: its deal is signed and whole, and west's mail has another key than the others'."""
    honest = deal._seal_mails

    def two_keys(key, roll, silo):
        mails, others = (json.loads(honest(each, roll, silo)) for each in (key, GroupKey.generate()))
        victim = max(mails)
        return json.dumps({**mails, victim: others[victim]}).encode()

    monkeypatch.setattr(deal, "_seal_mails", two_keys)
    world.run(until=lambda: world.complaints)
    dealer, _, victim = dealer_and_receivers(world)
    assert world.complaints[victim].why == f"{dealer} mailed this silo another key than the one it signed"
    assert not has_key(world, victim)
    assert read(world.said(dealer, KeyDeal)[0], KeyDeal).silo == dealer
