"""The server optimisers, against Algorithm 2 of Reddi et al. in plain Python floats; and the same bytes however cut."""

import math
import random

import numpy as np
import pytest

from privacy.errors import ConfigError, VerificationError
from privacy.flatten import adapter_digest
from privacy.plan import AdaptiveServer, JobPlan, MeanServer
from privacy.server import Moments, first_moments, server_step
from silo_agent.apply import AdapterShelf, next_adapter
from silo_agent.choices import ServerChoice
from tests.parties import Cohort

ADAPTIVE = {
    "adagrad": AdaptiveServer(kind="adagrad", learning_rate=0.3, beta1=0.9, beta2=0.0, adaptivity=1e-3),
    "adam": AdaptiveServer(kind="adam", learning_rate=0.3, beta1=0.9, beta2=0.99, adaptivity=1e-3),
    "yogi": AdaptiveServer(kind="yogi", learning_rate=0.3, beta1=0.0, beta2=0.99, adaptivity=1e-2),
}
BITS, MEMBERS = 16, 4


def by_hand(server, means):
    """x of one coordinate after each mean, float by float; what is kept is rounded to float32 in between."""
    x, m, v = 0.0, np.float32(0), np.float32(server.adaptivity * server.adaptivity)
    for mean in means:
        m64 = server.beta1 * float(m) + (1 - server.beta1) * mean
        square, before = mean * mean, float(v)
        if server.kind == "adagrad":
            v64 = before + square
        elif server.kind == "adam":
            v64 = server.beta2 * before + (1 - server.beta2) * square
        else:
            sign = (before > square) - (before < square)
            v64 = before - (1 - server.beta2) * square * sign
        x = np.float32(x + server.learning_rate * m64 / (math.sqrt(v64) + server.adaptivity))
        m, v, x = np.float32(m64), np.float32(v64), float(x)
        yield x


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_three_rounds_are_those_of_the_algorithm_to_the_last_bit(kind):
    server, bits = ADAPTIVE[kind], random.Random(3)
    rounds = [[bits.uniform(-0.05, 0.05) for _ in range(50)] for _ in range(3)]
    adapter, moments = np.zeros(50, np.float32), first_moments(server, 50)
    for number, means in enumerate(rounds, start=1):
        adapter = (adapter + server_step(server, np.array(means), moments)).astype(np.float32)
        for place, found in enumerate(adapter):
            assert found == list(by_hand(server, [each[place] for each in rounds[:number]]))[-1]


def test_the_mean_is_added_as_it_is():
    mean = np.random.default_rng(1).normal(size=100)
    assert first_moments(MeanServer(), 100) is None
    assert np.array_equal(server_step(MeanServer(), mean, None), mean)
    assert np.array_equal(server_step(MeanServer(learning_rate=0.5), mean, None), mean / 2)


def planned(server):
    plan = Cohort("a", "b", "c").plan
    return JobPlan.model_validate(plan.model_dump(mode="json") | {"server": server.model_dump(mode="json")})


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_the_same_bytes_however_the_sum_comes_in_blocks(kind):
    plan = planned(ADAPTIVE[kind])
    sums = np.random.default_rng(2).integers(0, 3 * (2**plan.grid.bits - 1), plan.values).astype(np.uint32)
    found = []
    for cuts in ([], [1], [plan.values // 3, plan.values // 2]):
        moments = first_moments(plan.server, plan.values)
        adapter, _ = next_adapter(plan, np.zeros(plan.values, np.float32), moments, np.split(sums, cuts), 3)
        found.append((adapter.tobytes(), *(part.tobytes() for part in moments)))
    assert len(set(found)) == 1


def test_moments_come_back_from_disk_with_their_adapter_and_with_no_other(tmp_path):
    plan = planned(ADAPTIVE["adam"])
    shelf = AdapterShelf(tmp_path, plan)
    digest, other = adapter_digest(np.zeros(plan.values, np.float32)), adapter_digest(np.ones(plan.values, np.float32))
    at_the_start = shelf.load_moments(0, digest)
    assert (at_the_start.first == 0).all()
    assert (at_the_start.second == np.float32(1e-3 * 1e-3)).all()
    kept = Moments(*np.random.default_rng(4).normal(size=(2, plan.values)).astype(np.float32))
    shelf.store_moments(3, digest, kept)
    again = shelf.load_moments(3, digest)
    assert np.array_equal(again.first, kept.first)
    assert np.array_equal(again.second, kept.second)
    again.first[:] = 0  # they are brought up to date in place
    with pytest.raises(VerificationError, match="moments after round 3: the file on disk is not what belongs"):
        shelf.load_moments(3, other)
    path = tmp_path / "moments-3.f32"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationError, match="moments after round 3"):
        shelf.load_moments(3, digest)
    shelf.drop_before(4)
    assert not path.exists()
    with pytest.raises(VerificationError, match="moments after round 3"):
        shelf.load_moments(3, digest)


def test_what_a_job_file_says_of_the_server():
    assert ServerChoice().fixed() == MeanServer(learning_rate=1.0)
    adam = ServerChoice(optimiser="adam", learning_rate=0.1).fixed()
    assert (adam.kind, adam.beta1, adam.beta2, adam.adaptivity) == ("adam", 0.9, 0.99, 1e-3)
    assert ServerChoice(optimiser="adagrad", beta1=0.0).fixed().beta2 == 0
    with pytest.raises(ConfigError, match=r"server.beta1: the optimiser is the mean, which has none"):
        ServerChoice(beta1=0.9).fixed()
    with pytest.raises(ConfigError, match=r"server.beta2: adagrad sums squares"):
        ServerChoice(optimiser="adagrad", beta2=0.9).fixed()


def test_a_plan_refuses_what_the_algorithms_do_not_take():
    with pytest.raises(ValueError, match="beta2 must be 0"):
        AdaptiveServer(kind="adagrad", learning_rate=1.0, beta1=0.9, beta2=0.5, adaptivity=1e-3)
    with pytest.raises(ValueError, match="less than 1"):
        AdaptiveServer(kind="adam", learning_rate=1.0, beta1=1.0, beta2=0.5, adaptivity=1e-3)
