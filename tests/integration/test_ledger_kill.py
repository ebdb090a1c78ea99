"""The append path of the ledger through kill -9 and a full disk: what was said to be durable is there, whole."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.database import open_database, read
from runtime.ledger_store import Ledger
from silo_agent.tables import LEDGER
from tests.integration.appending import BATCH

ROOT = Path(__file__).parents[2]
DEATHS = 6


def start(folder: Path, *limit: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "tests.integration.appending", str(folder), *limit]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def checked_size(folder: Path) -> int:
    engine = open_database(folder / "silo.db")
    try:
        with read(engine) as connection:
            ledger = Ledger(connection, LEDGER)
            ledger.check()
            assert ledger.covered == ledger.size, "entries and their checkpoint are one step"
            return ledger.size
    finally:
        engine.dispose()


@pytest.mark.parametrize("seed", range(2))
def test_whatever_was_said_to_be_durable_survives_kill_9(tmp_path: Path, seed: int) -> None:
    draw, before = random.Random(seed), 0
    for _ in range(DEATHS):
        with start(tmp_path) as program:
            assert program.stdout is not None
            said = [int(program.stdout.readline()) for _ in range(draw.randrange(1, 12))]
            program.kill()
            said += [int(line) for line in program.stdout.read().split()]
        size = checked_size(tmp_path)
        assert said[0] == before + BATCH
        assert size - said[-1] in (0, BATCH), "the last step may be durable and not yet said"
        before = size


def test_a_full_disk_refuses_whole_steps_and_loses_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as program:
        assert program.stdout is not None
        size = int(program.stdout.readline())
        program.kill()
    size = checked_size(tmp_path)
    largest = max(path.stat().st_size for path in tmp_path.iterdir())
    with start(tmp_path, str(largest + 60_000)) as program:
        assert program.stdout is not None
        *said, refusal = program.stdout.read().splitlines()
    assert "the disk is full or failing" in refusal
    assert "Free space and start again; nothing was half done." in refusal
    assert checked_size(tmp_path) == (int(said[-1]) if said else size)
    with start(tmp_path) as program:
        assert program.stdout is not None
        assert int(program.stdout.readline()) > size, "with space it goes on"
        program.kill()
    assert checked_size(tmp_path) > size
