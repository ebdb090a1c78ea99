"""What a lying aggregator can do to a `ckks-group` sum, and where it is found.

At the decryptor: updates dropped, doubled or swapped behind the commit's back, and blind changes. Not there: a sum to
which the aggregator added an encoding of its own choice, which needs no key. Fingerprints find that, and everything
else, before anybody consents to open (tests/unit/test_silo_rounds.py has the real agent refuse).
"""

import numpy as np
import pytest
import tenseal.sealapi as seal_api

from privacy.ckks.fingerprint import add_values, fingerprint_of
from privacy.ckks.group import GroupKey, _context
from privacy.ckks.layout import Layout
from privacy.ckks.params import DEGREE, PRIME, SCALE, GroupParams
from privacy.errors import VerificationError
from tests.cohort import SealedUpdate, add_updates, open_all, seal_update

PARAMS, LAYOUT = GroupParams(16, 4), Layout(2 * 8192)
COMMIT = b"c" * 32


@pytest.fixture(scope="module")
def cohort():
    key = GroupKey.generate()
    grids = [np.random.default_rng(i).integers(100, 60_000, LAYOUT.values, dtype=np.uint16) for i in range(3)]
    return key, grids, [seal_update(key, PARAMS, grid) for grid in grids]


def opened(cohort, chunks, seeds):
    return open_all(cohort[0], PARAMS, LAYOUT, chunks, seeds)


def seeds_of(updates):
    return [update.seeds for update in updates]


@pytest.mark.parametrize("place", [0, 4095, 4096, 8191])
@pytest.mark.parametrize("change", [1, 1 << 20, PRIME - 1])
def test_one_altered_residue_is_found(cohort, place, change):
    _, _, updates = cohort
    residues = np.frombuffer(add_updates(LAYOUT, updates)[0], "<u8").copy()
    residues[place] = (int(residues[place]) + change) % PRIME
    with pytest.raises(VerificationError):
        opened(cohort, [residues.tobytes()], seeds_of(updates))


def test_a_dropped_update_is_found(cohort):
    _, _, updates = cohort
    with pytest.raises(VerificationError):
        opened(cohort, add_updates(LAYOUT, updates[:2]), seeds_of(updates))


def test_an_update_in_the_sum_that_no_member_sent_is_found(cohort):
    _, _, updates = cohort
    with pytest.raises(VerificationError):
        opened(cohort, add_updates(LAYOUT, updates), seeds_of(updates[:2]))


def test_a_doubled_update_is_found_even_when_the_commit_names_it_twice(cohort):
    _, _, updates = cohort
    doubled = [updates[0], updates[0], updates[1]]
    with pytest.raises(VerificationError, match="a seed occurs twice"):
        opened(cohort, add_updates(LAYOUT, doubled), seeds_of(doubled))


def test_one_block_copied_from_another_silo_is_found(cohort):
    _, _, (victim, second, _) = cohort
    copied = SealedUpdate((victim.chunks[0][:32768] + second.chunks[0][32768:],), victim.seeds[:64] + second.seeds[64:])
    with pytest.raises(VerificationError, match="a seed occurs twice"):
        opened(cohort, add_updates(LAYOUT, [victim, copied]), seeds_of([victim, copied]))


def test_swapped_blocks_are_found(cohort):
    _, _, updates = cohort
    (chunk,) = add_updates(LAYOUT, updates)
    with pytest.raises(VerificationError):
        opened(cohort, [chunk[32768:] + chunk[:32768]], seeds_of(updates))


def test_random_residues_are_found(cohort):
    _, _, updates = cohort
    noise = np.random.default_rng(1).integers(0, PRIME, 2 * DEGREE, dtype=np.uint64).tobytes()
    with pytest.raises(VerificationError):
        opened(cohort, [noise], seeds_of(updates))


def test_an_encoding_the_aggregator_adds_opens_and_has_another_fingerprint(cohort):
    """One grid step on value 0, added by somebody who holds no key: the sum is wrong, and would open."""
    _, grids, updates = cohort
    plain = seal_api.Plaintext()
    seal_api.CKKSEncoder(_context()).encode([1.0 + 0j] + [0j] * 2047, float(SCALE), plain)
    shift = np.array([plain.data(i) for i in range(DEGREE)] + [0] * DEGREE, np.uint64)
    residues = np.frombuffer(add_updates(LAYOUT, updates)[0], "<u8")
    altered = ((residues.astype(object) + shift) % PRIME).astype(np.uint64)
    wrong = opened(cohort, [altered.tobytes()], seeds_of(updates)).astype(np.int64)
    difference = wrong - np.sum(grids, axis=0, dtype=np.int64)
    assert difference[0] == 1
    assert not difference[1:].any()
    members = add_values([fingerprint_of(LAYOUT, COMMIT, update.chunks) for update in updates], LAYOUT.moduli)
    assert fingerprint_of(LAYOUT, COMMIT, add_updates(LAYOUT, updates)) == members
    assert fingerprint_of(LAYOUT, COMMIT, [altered.tobytes()]) != members


@pytest.mark.parametrize("place", [0, 4095, 4096, 8191])
@pytest.mark.parametrize("change", [1, 1 << 20, PRIME - 1])
def test_no_change_keeps_the_fingerprint(cohort, place, change):
    _, _, updates = cohort
    honest = add_updates(LAYOUT, updates)
    residues = np.frombuffer(honest[0], "<u8").copy()
    residues[place] = (int(residues[place]) + change) % PRIME
    assert fingerprint_of(LAYOUT, COMMIT, [residues.tobytes()]) != fingerprint_of(LAYOUT, COMMIT, honest)
