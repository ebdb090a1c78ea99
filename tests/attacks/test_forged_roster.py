"""A coordinator that also runs the CA makes up the "other silos" of a job, or puts its own key in a silo's place.

Its certificates are in order: it may name parties as it likes. Who may take part is each silo's own word: its steward
pinned the peers' identities, by telephone, and it joins no job with anybody else. Nothing is signed, trained or sent.
"""

import pytest

from aggregator.enrolment import enter_member
from certs.ca import CertificateAuthority
from certs.names import PartyId, Role
from certs.wallet import Wallet
from privacy.errors import ConfigError
from privacy.plan import JobPlan, RosterMember
from privacy.roll import JobJoin
from silo_agent import approval
from silo_agent.entries import Author
from silo_agent.jobs import JobState, require_job_record
from tests.attacks.lying import LyingWorld


@pytest.fixture
def coordinator(founded, tmp_path):
    """The federation on its first day, run by the attacker: with its CA, before any job."""
    return founded.copy_to(tmp_path / "world")


def certify(world: LyingWorld, name: str) -> RosterMember:
    """A silo of this name that is the attacker's own, with a certificate from the real CA, enrolled like any other."""
    party = PartyId(world.federation, Role.SILO, name)
    wallet = Wallet.create(world.folder / f"invented-{name}", Wallet(world.state.wallet).ca_pem, party)
    requests = wallet.requests()
    issued = CertificateAuthority.load(world.state.ca).issue(party, requests.tls, requests.identity, world.now, ())
    wallet.install(issued, world.now)
    enter_member(world.store, wallet.identity().certificate_pem, wallet.ca_pem, world.now)
    return RosterMember(name=name, identity_key=wallet.identity().public_key.hex())


def with_roster(world: LyingWorld, *forged: RosterMember, only: tuple[str, ...]) -> JobPlan:
    plan = world.plan()
    kept = [member for member in plan.cohort.roster if member.name in only]
    roster = tuple(sorted([*kept, *forged], key=lambda member: member.name))
    return plan.model_copy(update={"cohort": plan.cohort.model_copy(update={"roster": roster})})


def test_a_silo_among_invented_ones_joins_nothing_not_even_by_its_stewards_word(coordinator):
    """East is to be alone with silos of the attacker: the sum less the attacker's parts is its update."""
    invented = [certify(coordinator, name) for name in ("south", "southwest")]
    coordinator.submit(with_roster(coordinator, *invented, only=("east",)))
    coordinator.turn()
    home = coordinator.silos["east"].home
    assert coordinator.silos["east"].job_state is JobState.SEEN
    with home.store.reading() as connection:
        record = require_job_record(connection, coordinator.job)
    assert "peer south: is silo in this job, and no silo of that name is pinned here" in record.why
    with pytest.raises(ConfigError, match="no silo of that name is pinned here"):
        approval.approve(home, record.plan, None, Author("east", "a steward", "steward", coordinator.now))
    assert coordinator.said("east", JobJoin) == []


def test_another_key_under_a_peers_name_is_refused(coordinator):
    """North's name with a key of the attacker's: east and west had it pinned."""
    forged = certify(coordinator, "north")
    coordinator.submit(with_roster(coordinator, forged, only=("east", "west")))
    coordinator.turn()
    assert {coordinator.silos[name].job_state for name in ("east", "west")} == {JobState.REFUSED}
    assert coordinator.said("east", JobJoin) + coordinator.said("west", JobJoin) == []
