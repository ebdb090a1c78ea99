"""What an aggregator reads beside the ciphertext: nothing that depends on the update or on the records.

NVIDIA FLARE's HE filter sends each client's number of training steps in the clear beside its ciphertexts, and writes
their smallest and largest value to the log; Flower's SecAgg+ weighs by the number of examples. Here everything a silo
says in a round is a digest, a fingerprint of the ciphertext or a copy of what the plan fixes in public, of the same
length whatever was trained.
"""

import json
import re

import numpy as np
import pytest

from silo_agent.source import SourcedUpdate
from tests.lone_silo import NAMES, STEPS, VALUES, LoneSilo

UPDATES = (
    np.zeros(VALUES, np.float32),
    np.full(VALUES, 1e-6, np.float32),
    np.linspace(-50, 50, VALUES, dtype=np.float32),  # out of range: it is clipped
)
OPAQUE = re.compile(r"[0-9a-f]{64,}")  # digests and fingerprints


def said_in_a_round(folder, update):
    """One silo that trained this update, every statement that it made, and the sizes of what it sealed."""
    silo = LoneSilo(folder, charged=True)
    silo.source.update = lambda *_: SourcedUpdate(update, STEPS, STEPS)
    silo.to_consented()
    silo.port.certify(*NAMES)
    silo.advance(opened=(1,))
    port = silo.port
    header, seeds, chunks = port.updates[0]
    statements = [*port.joins, header, *port.fingerprints, *port.consents, *port.applied]
    return silo, [json.loads(each.body) for each in statements], (len(seeds), [len(chunk) for chunk in chunks])


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    return [said_in_a_round(tmp_path_factory.mktemp("silo"), update) for update in UPDATES]


def test_only_digests_and_what_the_plan_says_travel_beside_it(rounds):
    for silo, statements, _ in rounds:
        public = {"east", "aggregator", silo.plan.values, 1}
        for statement in statements:
            told = {key: value for key, value in statement.items() if not OPAQUE.fullmatch(str(value))}
            assert told.pop("type").startswith("cloister/v1/")
            assert told.pop("unopened", []) == []
            assert told.pop("validation", []) == [], "the plan publishes none"
            assert set(told.values()) <= public, told


def test_nothing_has_another_length_for_another_update(rounds):
    lengths = [[len(json.dumps(each)) for each in statements] + [size] for _, statements, size in rounds]
    assert lengths[0] == lengths[1] == lengths[2]


def test_the_ciphertext_of_zeros_looks_like_any_other(rounds):
    """The mean of 8192 uniform residues, in units of p, lies within 6 standard errors of one half."""
    for silo, _, _ in rounds:
        residues = np.frombuffer(b"".join(silo.port.updates[0][2]), "<u8").astype(np.float64) / 2.0**60
        assert abs(residues.mean() - 0.5) < 6 * (1 / 12 / len(residues)) ** 0.5
