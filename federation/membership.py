"""Who is enrolled, asked of a running aggregator as its coordinator: what a roster is made of."""

from pathlib import Path

from cloister.wire import Member

from aggregator.client import coordinator
from aggregator.config import StateFolder
from certs.names import Role
from federation.jobs import Membership, prepare
from privacy.errors import ConfigError
from privacy.plan import RosterMember


def enrolled(state: Path) -> Membership:
    """The federation's members. Raises ConfigError when the folder is no aggregator's, Unavailable when it is down."""
    folder = StateFolder(state)
    with coordinator(folder) as aggregator:
        members = aggregator.members()
    aggregators = [_member(member) for member in members if member.role == Role.AGGREGATOR]
    if len(aggregators) != 1:
        raise ConfigError(f"aggregator of {state}", f"names {len(aggregators)} aggregators", "Ask its operator.")
    silos = tuple(_member(member) for member in members if member.role == Role.SILO)
    return Membership(folder.load().federation, aggregators[0], silos)


def plan_job_file(job_file: Path, folder: Path, state: Path) -> None:
    """What `cloister aggregator submit JOB.toml` does first: prepare the job with every enrolled silo."""
    prepare(job_file, folder, enrolled(state))


def _member(member: Member) -> RosterMember:
    return RosterMember(name=member.name, identity_key=member.identity_key.hex())
