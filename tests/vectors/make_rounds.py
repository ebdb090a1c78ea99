"""Makes tests/vectors/v1/round-*.json: `python -m tests.vectors.make_rounds`.

A whole round of each suite, played by the product's own agents and aggregator in the simulator (tests/sim), with keys
made for it and shown here; then what must be refused, signed with those keys where only a valid signature makes it a
case. Every run makes another round. tests/unit/test_round_vectors.py replays the files.
"""

import json
import tempfile
from base64 import b64encode
from pathlib import Path

import numpy as np
from cloister.wire import RoundPhase

from aggregator.store import Kind
from privacy.keyed import mail_digests, receivers_of
from privacy.record import SignedText
from privacy.roll import KeyDeal, check_roll
from privacy.statement import read
from silo_agent.vault import Secret
from tests.attacks.keyed import FOUR, KeyedWorld
from tests.attacks.lying import NAMES, LyingWorld
from tests.sim.world import VALUES
from tests.vectors.negatives import Negatives
from tests.vectors.replay import Replay

FOLDER = Path(__file__).parent / "v1"
WEST = "west"  # whose keys the file shows


def text(statement):
    return SignedText.of(statement).model_dump(mode="json")


def texts(statements):
    return [text(each) for each in statements]


def packed(data):
    return b64encode(data).decode()


class Maker:
    """One world's round 1 as a list of operations."""

    def __init__(self, world, names):
        self.world, self.names, self.operations = world, names, []

    def statements(self, kind, number=1):
        with self.world.store.reading() as tx:
            return dict(tx.statements(self.world.job, number, kind))

    def add(self, op, **inputs):
        self.operations.append({"op": op, **inputs})

    def begin(self):
        world = self.world
        with world.store.reading() as tx:
            row, found = tx.job(world.job), tx.round(world.job, 1)
        self.add("plan", plan=row.plan.decode())
        self.add("job roll", joins=texts(self.statements(Kind.JOB_JOIN, 0).values()))
        return found

    def announce(self, found):
        self.add("announce", round=1, adapter=found.adapter.hex(), participants=list(found.participants))

    def rest(self, applied):
        self.add("open")
        self.add("apply", adapter=packed(np.zeros(VALUES, "<f4").tobytes()))
        self.add("applied", applied=texts(applied))

    def finish(self):
        """What each operation gives."""
        replay = Replay()
        for operation in self.operations:
            operation["gives"] = replay.run(operation)


def group():
    with tempfile.TemporaryDirectory() as folder:
        world = LyingWorld(Path(folder) / "world", *NAMES)
        world.submit(world.plan(minimum=2))
        world.hold(RoundPhase.COLLECTING)
        world.run(until=lambda: len(world.updates()) == len(NAMES))
        updates = world.updates()
        with world.store.reading() as tx:
            mails = {name: tx.mail(world.job, name) for name in NAMES}
        maker = Maker(world, NAMES)
        found = maker.begin()
        deal = next(iter(maker.statements(Kind.KEY_DEAL, 0).values()))
        to = next(name for name in NAMES if name != read(deal, KeyDeal).silo)
        mail_key = world.silos[to].home.vault.get(world.job, Secret.MAIL_KEY)
        maker.add("deal", deal=text(deal), to=to, mail=packed(mails[to]), mail_key=mail_key.hex())
        maker.announce(found)
        maker.add("joins", joins=texts(maker.statements(Kind.ROUND_JOIN).values()))
        for header, update in updates.values():
            maker.add(
                "update", header=text(header), chunks=[packed(each) for each in update.chunks],
                seeds=packed(update.seeds),
            )  # fmt: skip
        world.lies.clear()
        chunks = sum_when_committed(world)
        world.run()
        committed(maker, chunks)
        maker.rest(maker.statements(Kind.APPLIED).values())
        maker.finish()
        write("round-group.json", maker, Negatives(world, maker.operations).of_group())


def sum_when_committed(world):
    world.run(until=lambda: world.rounds() and world.rounds()[0].phase >= RoundPhase.COMMITTED)
    (path,) = (world.state.blobs / world.job.hex() / "1").glob("sum-*")
    return [path.read_bytes()]


def committed(maker, chunks):
    (commit,) = maker.statements(Kind.COMMIT).values()
    headers = maker.statements(Kind.HEADER)
    maker.add("commit", commit=text(commit), headers=texts(headers[name] for name in sorted(headers)))
    if maker.names == FOUR:
        shares(maker)
    maker.add("fingerprints", fingerprints=texts(maker.statements(Kind.FINGERPRINT).values()))
    maker.add("sum", chunks=[packed(each) for each in chunks])
    maker.add("certificate", consents=texts(maker.statements(Kind.CONSENT).values()))


def shares(maker):
    for sender, update in maker.updates.items():
        mail = update.mails[FOUR.index(WEST)]
        maker.add(
            "share", sender=sender, to=WEST, share_key=maker.share_key.hex(),
            digests=mail_digests(update.mails).hex(), mail=packed(mail),
        )  # fmt: skip


def multikey():
    with tempfile.TemporaryDirectory() as folder:
        world = KeyedWorld(Path(folder) / "world", *FOUR)
        world.begin(rounds=1)
        world.hold(RoundPhase.COLLECTING)
        world.run(until=lambda: len(world.statements(Kind.HEADER)) == len(FOUR))
        maker = Maker(world, FOUR)
        maker.updates, maker.share_key = world.ciphertexts(), world.secret_of(WEST, Secret.SHARE_KEY)
        open_key = world.secret_of(WEST, Secret.OPEN_KEY)
        maker.announce(maker.begin())
        maker.add("round roll", joins=texts(world.statements(Kind.ROUND_JOIN).values()))
        for update in maker.updates.values():
            maker.add(
                "update", header=text(update.header), chunks=[packed(each) for each in update.chunks],
                mails=mail_digests(update.mails).hex(),
            )  # fmt: skip
        world.hold(RoundPhase.SHARING)
        chunks = sum_when_committed(world)
        world.run(until=lambda: len(world.statements(Kind.RELEASE)) == len(FOUR))
        committed(maker, chunks)
        roll = check_roll(world.job_plan, world.statements(Kind.JOB_JOIN, 0).values())
        place = list(receivers_of(roll, world.roll())).index(WEST)
        for silo in FOUR:
            sent = world.every_release(silo)[0]
            size = len(sent.mails) // len(FOUR)
            mails = [sent.mails[i * size :][:size] for i in range(len(FOUR))]
            maker.add(
                "release", release=text(sent.release), to=WEST, open_key=open_key.hex(), body=packed(sent.body),
                digests=mail_digests(mails).hex(), mail=packed(mails[place]),
            )  # fmt: skip
        maker.add("keys", of=list(FOUR))
        world.lies.clear()
        world.run()
        maker.rest(world.statements(Kind.APPLIED).values())
        maker.finish()
        write("round-multikey.json", maker, Negatives(world, maker.operations).of_multikey())


def write(name, maker, negatives):
    document = {"operations": maker.operations, "negatives": negatives}
    (FOLDER / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    group()
    multikey()
