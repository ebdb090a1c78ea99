"""A witness tries guesses of another silo's ledger entries against the hashes that it needs for its own checks.

Adversary: the aggregator or another silo, honest as a witness, that wants to know what stands in a ledger not its own.
A consistency proof can hold the hash of a single entry, so that a whole entry which is guessed right is confirmed; the
texts that `ledger.committed` names are under a salt, and no entry that has one can be guessed.
"""

from aggregator.tables import WITNESS as AGGREGATORS
from aggregator.witness_post import WitnessPost
from privacy.ledger.codec import decode_entry, encode_entry
from privacy.ledger.entry import RefuseEntry
from privacy.ledger.merkle import leaf_hash
from privacy.ledger.openings import commitments
from runtime.ledger_store import Ledger
from runtime.witness_store import WitnessBook
from silo_agent.entries import Author, key_entry
from silo_agent.tables import LEDGER
from tests.sim.witnesses import Silo, all_exchange
from tests.sim.world import World


def hashes_seen(world, silo, entry):
    """What a proof tells of the one entry that the witness has not seen yet."""
    with silo.home.store.writing() as tx:
        tx.record(entry)
    silo.exchange()
    with world.store.transaction() as tx:
        assert WitnessBook(tx.connection, AGGREGATORS).seen("cloister/sim/east").size == silo.size
        proofs = WitnessPost(tx.connection).proofs("cloister/sim/east")
    with silo.home.store.reading() as connection:
        *_, stored = Ledger(connection, LEDGER).entries()
    return {hashed for proof in proofs.values() for hashed in proof}, stored


def test_a_whole_entry_by_an_agent_can_be_confirmed_and_one_with_a_salt_cannot(tmp_path):
    world = World(tmp_path, "east", "north")
    silos = {name: Silo(world, name) for name in ("east", "north")}
    east = silos["east"]
    for silo in silos.values():
        silo.append()
    all_exchange(silos, 3)
    by = {"institution": "east", "actor": "agent", "role": "agent", "utc": "2026-06-01T12:00:00Z"}
    what = {"job": "0a" * 32, "round": None, "decision": "protocol", "reason": "wrong-digest"}
    entry = RefuseEntry(**by, **what, population=None, asked=None, balance=None)
    seen, _ = hashes_seen(world, east, entry)
    guess = encode_entry(entry.model_copy(update={"sequence": east.size - 1}))
    assert leaf_hash(guess) in seen, "it knows the entry for certain, without having read it"

    east.append()
    all_exchange(silos, 3)
    assert east.size % 2 == 1
    steward = key_entry(
        Author("east", "dr-weber", "steward", world.now), "pinned", "cloister://sim/silo/x", "0c" * 32, "r"
    )
    seen, stored = hashes_seen(world, east, steward)
    guess = encode_entry(steward.model_copy(update={"sequence": east.size - 1}))
    assert leaf_hash(stored) in seen, "the hash is there"
    assert set(commitments(decode_entry(stored))) == {"actor"}
    assert leaf_hash(guess) not in seen, "and every word of the entry is not enough"
    for silo in silos.values():
        silo.home.store.close()
