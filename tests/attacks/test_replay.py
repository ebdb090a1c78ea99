"""What silos signed in one round, shown or sent again in the next: updates, fingerprints, consents, whole transcripts.

Everything that is signed names its round and ctx: plan, number, global model, participants. An old statement is about
the old round for ever; with another number in it the signature is not the silo's.
"""

import contextlib
import dataclasses

import pytest
from cloister.wire import RoundPhase

from aggregator.store import Kind
from privacy.errors import ProtocolError
from privacy.statement import Signed, read
from privacy.transcript import Applied
from tests.attacks.lying import CALLS, NAMES
from tests.lone_silo import OWN
from tests.sim.memory import MemoryContext


@dataclasses.dataclass
class FirstRound:
    """What the aggregator keeps of a round that was opened."""

    joins: tuple[Signed, ...]
    commit: Signed
    headers: tuple[Signed, ...]
    fingerprints: tuple[Signed, ...]
    consents: tuple[Signed, ...]
    sum_chunks: list[bytes]
    sum_seeds: dict[str, bytes]


@pytest.fixture
def second(silo):
    """A silo that applied round 1 and submitted to round 2, and round 1 in the attacker's hands."""
    silo.to_consented()
    silo.port.certify(*NAMES)
    silo.advance(opened=(1,))
    port = silo.port
    joins = (*(silo.peer_join(name) for name in NAMES if name != OWN), *port.joins)
    first = FirstRound(
        joins, port.commit, port.headers, port.shown_fingerprints, port.given_consents, port.sum_chunks, port.sum_seeds
    )
    applied = bytes.fromhex(read(port.applied[0], Applied).adapter)
    silo.ctx = dataclasses.replace(silo.ctx, adapter_digest=applied)
    silo.go_to(2)
    silo.advance(opened=(1,), current=2)
    port.phase = RoundPhase.COLLECTING
    silo.advance(opened=(1,), current=2)
    assert silo.state_of(2) == "Submitted"
    port.fingerprints, port.consents, port.applied = [], [], []
    return silo, first


def refuses(silo, opened=(1,)):
    silo.advance(opened=opened, current=2)
    assert silo.state_of(2) == "Refused"
    assert not silo.port.applied
    return silo.runner.state(2).why


def test_a_whole_round_shown_once_more(second):
    """The same sum once more under another number: the second model would be the first one's step taken twice."""
    silo, first = second
    silo.port.commit, silo.port.headers = first.commit, first.headers
    silo.port.shown_fingerprints, silo.port.given_consents = first.fingerprints, first.consents
    silo.port.sum_chunks, silo.port.sum_seeds = first.sum_chunks, first.sum_seeds
    silo.port.phase = RoundPhase.RELEASING
    assert "is bound to round 1 in another context" in refuses(silo, opened=(1, 2))


def test_an_old_update_in_a_new_sum(second):
    """North's old ciphertext under its old header, in the place of the new one."""
    silo, first = second
    silo.port.make_commit(ask=False)
    silo.port.headers = (silo.port.headers[0], first.headers[1], silo.port.headers[2])
    silo.port.sign_commit()
    assert "statement cloister/v1/update: is bound to round 1" in refuses(silo)
    assert not silo.port.fingerprints


def test_old_fingerprints_under_a_new_commit(second):
    silo, first = second
    silo.port.make_commit()
    silo.port.shown_fingerprints = first.fingerprints
    assert "statement cloister/v1/fingerprint: is bound to round 1" in refuses(silo)
    assert not silo.port.consents


def test_old_consents_as_a_certificate(second):
    silo, first = second
    silo.port.make_commit()
    silo.advance(opened=(1,), current=2)
    silo.port.certify("north", "west")
    silo.port.given_consents = first.consents
    assert "statement cloister/v1/consent: is bound to round 1" in refuses(silo, opened=(1, 2))


def test_old_joins_for_a_new_round(second):
    """Round 3, in which nobody but this silo takes part: its peers' joins are those to round 1."""
    silo, first = second
    silo.port.phase = RoundPhase.ABORTED
    silo.advance(opened=(1,), current=2)
    silo.go_to(3)
    silo.advance(opened=(1,), current=3)
    silo.port.change_joins = lambda *joins: (*first.joins[:2], joins[-1])
    silo.port.phase = RoundPhase.COLLECTING
    with pytest.raises(ProtocolError, match="is bound to round 1 in another context"):
        silo.advance(opened=(1,), current=3)
    assert silo.state_of(3) == "Joined"
    assert len(silo.port.updates) == 2, "of rounds 1 and 2"


# -- at the real aggregator, by whoever holds north's TLS key for a while ----------------------------------------------


def stored(world):
    """All that the aggregator has taken down about the job."""
    with world.store.reading() as tx:
        kinds = {(number, kind): tx.statements(world.job, number, kind) for number in (0, 1, 2) for kind in Kind}
        return kinds, tx.rounds(world.job)


def test_all_that_a_silo_ever_said_is_said_once_more_in_round_2(collected):
    world, north = collected, MemoryContext(collected.silos["north"].party)
    world.run(until=lambda: len(world.rounds()) == 2)
    before = stored(world)
    replayed = 0
    for method, message, part in CALLS.values():
        for data in world.faults.said["north", method]:
            replayed += 1
            with contextlib.suppress(ProtocolError):  # too late, or known
                call(world, method, message.proto.FromString(data), north)
            old = getattr(message.decode(message.proto.FromString(data)), part)
            renumbered = Signed(old.body.replace(b'"round":1', b'"round":2'), old.signature)
            if renumbered != old:
                with pytest.raises(ProtocolError, match="the signature is not north's"):
                    call(world, method, message.model_validate({part: renumbered}).encode(), north)
    assert replayed >= 5
    assert stored(world) == before


def call(world, method, request, context):
    getattr(world.service, method)(iter([request]) if method == "SubmitUpdate" else request, context)
