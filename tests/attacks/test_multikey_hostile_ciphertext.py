"""`test_hostile_ciphertext.py` with one-time keys: hostile bytes in the place of a ciphertext or of share mails.

What is malformed costs the round only its silo, and it stays open to what is well formed. The limit is the same:
residues that are reduced, signed for and mean nothing look like any ciphertext. Their sum has noise of its own and
opens nowhere.
"""

import numpy as np
import pytest
from cloister import wire
from cloister.wire import JobPhase

from privacy.ckks.multikey_layout import pack_block
from privacy.errors import ProtocolError
from silo_agent.keyed_rounds import KeyedRounds
from tests.attacks.keyed import FOUR, LAYOUT
from tests.sim.test_sim_multikey import require_exact

LIAR = "west"


@pytest.fixture
def begun(four, tmp_path):
    world = four.copy_to(tmp_path / "world")
    world.begin(rounds=1)
    return world


def random_chunk():
    rows = [np.random.default_rng().integers(0, p, LAYOUT.degree).astype(np.uint32) for p in LAYOUT.moduli]
    return pack_block(np.stack(rows), LAYOUT.width(0))


HOSTILE = {
    "is truncated": lambda mails, residues: (mails, residues[:-4]),
    "is oversized": lambda mails, residues: (mails, residues + bytes(4)),
    "is not reduced": lambda mails, residues: (mails, b"\xff" * 4 + residues[4:]),
    "are not those of the signed header": lambda mails, residues: (mails, random_chunk()),
    "mails are truncated": lambda mails, residues: (mails[:-1], residues),
    "mails are oversized": lambda mails, residues: (mails + b"x", residues),
    "mails": lambda mails, residues: (mails[:-1] + bytes([mails[-1] ^ 1]), residues),
}


def test_malformed_residues_and_mails_cost_the_round_only_their_silo(begun):
    """West sends them all, one after another."""
    refusals: list[ProtocolError] = []

    def attack(silo, parts, honest):
        parts = list(parts)
        if silo != LIAR:
            return honest(iter(parts))
        decoded = [wire.UpdatePart.decode(part) for part in parts]
        mails = b"".join(part.mails for part in decoded if part.mails is not None)
        for change in HOSTILE.values():
            attached, residues = change(mails, decoded[-1].residues)
            sent = [wire.UpdatePart(mails=attached), wire.UpdatePart(residues=residues)]
            try:
                honest(iter([parts[0], *(part.encode() for part in sent)]))
            except ProtocolError as error:
                refusals.append(error)
        raise refusals[-1]

    begun.lies["SubmitUpdate"] = attack
    begun.run(until=lambda: all(begun.silos[name].adapter[0] == 1 for name in FOUR), seconds=15)
    for refusal, why in zip(refusals, HOSTILE, strict=True):
        assert refusal.sender == LIAR
        assert why in f"{refusal.what} {refusal.why}"
    assert require_exact(begun).members == ("east", "north", "south")


def test_well_formed_nonsense_stops_the_job_and_opens_nothing(begun, monkeypatch):
    honest = KeyedRounds.seal

    def nonsense(rounds, *arguments):
        parts, mails = honest(rounds, *arguments)
        if rounds._member.silo == LIAR:
            parts = ((chunk and random_chunk(), attached) for chunk, attached in parts)
        return parts, mails

    monkeypatch.setattr(KeyedRounds, "seal", nonsense)
    begun.run(seconds=5.0)
    assert begun.status().phase is JobPhase.STOPPED
    assert "nobody applied the certified sum" in begun.status().reason
    for name in FOUR:
        assert begun.silos[name].adapter[0] == 0
        assert "has more noise than 4 have" in begun.why(name)
        assert LIAR not in begun.why(name), "nobody can tell whose it was"
