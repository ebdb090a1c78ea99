"""The stated limit of `ckks-group`: every silo holds the cohort's key, so a server with one silo opens every update.

This attack succeeds, and must be documented as long as it does. It is why nothing calls the suite
collusion-resistant, and why `ckks-multikey` is to be the default where it can be used. Without the key the same bytes
give nothing. It is so in NVIDIA FLARE, whose clients all get one file with one secret key, and in APPFL, whose clients
derive every mask from one secret.
"""

from pathlib import Path

import numpy as np
import pytest

from privacy.ckks.group import GroupKey
from privacy.ckks.layout import Layout
from privacy.ckks.params import GroupParams
from privacy.errors import VerificationError
from tests.cohort import add_updates, open_all, seal_update

PARAMS, LAYOUT = GroupParams(16, 4), Layout(5000)
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "ckks-group.md"


@pytest.fixture(scope="module")
def cohort():
    """The dealt key as the colluding silo was mailed it, the victim's grid values, all sealed updates."""
    key = GroupKey.generate()
    grids = [np.random.default_rng(i).integers(0, 2**16, LAYOUT.values, dtype=np.uint16) for i in range(4)]
    return key.to_bytes(), grids[0], [seal_update(key, PARAMS, grid) for grid in grids]


def test_a_server_with_one_silos_key_opens_a_single_update(cohort):
    mailed, victim_grid, (victim, *_) = cohort
    stolen = open_all(GroupKey.from_bytes(mailed), PARAMS, LAYOUT, victim.chunks, [victim.seeds])
    assert np.array_equal(stolen, victim_grid)


def test_a_server_alone_opens_neither_an_update_nor_the_sum(cohort):
    _, _, updates = cohort
    own = GroupKey.generate()
    for chunks, seeds in (
        (updates[0].chunks, [updates[0].seeds]),
        (add_updates(LAYOUT, updates), [update.seeds for update in updates]),
    ):
        with pytest.raises(VerificationError):
            open_all(own, PARAMS, LAYOUT, chunks, seeds)


def test_the_reference_says_so():
    assert "aggregator that colludes with one silo opens every update" in REFERENCE.read_text()
