"""The aggregator puts its own mail key into the roll, to be mailed the cohort's key in a silo's name.

Flower relays the public keys of its SecAgg+ clients unsigned, so there its server can do this. Here a mail key comes in
its silo's signed JobJoin to this very job; nobody deals or takes a key on a roll in which one signature is wrong.
"""

import pytest

from privacy.errors import ProtocolError
from privacy.mail import MailKey
from privacy.roll import JobJoin, KeyDeal
from privacy.statement import Signed, message_to_sign, read
from silo_agent.vault import Secret
from tests.attacks.lying import NAMES


def signature_kept(world, forged, honest):
    return Signed(forged.body(), honest.signature)


def signed_by_the_aggregator(world, forged, honest):
    return world.sign(forged)


def joined_another_job(world, forged, honest):
    """A join that north did sign: to another job, whose mail key the attacker has got hold of."""
    other = forged.model_copy(update={"plan": "0" * 64})
    return Signed(other.body(), world.silos["north"].home.identity.sign(message_to_sign(other)))


@pytest.mark.parametrize("forge", [signature_kept, signed_by_the_aggregator, joined_another_job])
def test_nobody_deals_or_takes_a_key_on_a_forged_roll(world, forge):
    stolen = MailKey.generate()

    def substituted(_silo, job):
        joins = []
        for join in job.joins:
            forged = read(join, JobJoin).model_copy(update={"mail_key": stolen.public_bytes.hex()})
            joins.append(forge(world, forged, join) if forged.silo == "north" else join)
        return job.model_copy(update={"joins": tuple(joins)})

    world.show_job(substituted)
    world.run(until=lambda: world.complaints.keys() >= set(NAMES))
    for name in NAMES:
        assert isinstance(world.complaints[name], ProtocolError)
        assert "north's" in world.complaints[name].why or "another job" in world.complaints[name].why
        assert world.said(name, KeyDeal) == []
        assert not world.silos[name].home.vault.has(world.job, Secret.COHORT_KEY)
