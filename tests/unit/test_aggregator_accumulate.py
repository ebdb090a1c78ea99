"""Staging and summing: malformed chunks, a full disk, one sum in memory, no update twice."""

import resource
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from aggregator.accumulate import RunningSum, StagedUpdate, Upload
from aggregator.attachments import share_mail_bytes
from privacy.ckks.layout import Layout, add_into
from privacy.ckks.layouts import layout_of
from privacy.envelope import AnyHeader, KeyedUpdateHeader, UpdateHeader
from privacy.errors import InternalError, ProtocolError, Unavailable
from privacy.plan import JobPlan
from privacy.statement import Signed
from tests.parties import Cohort
from tests.scripted import FakeUpdate, KeyedCohort, fake_keyed_update, fake_update

VALUES = 250_000
LAYOUT = Layout(VALUES)
GROUP, MULTIKEY = Cohort("a", "b", "c").plan, KeyedCohort("a", "b", "c", "d").plan
BOUND = {"plan": "0" * 64, "round": 1, "ctx": "1" * 64}


def plan_of(values: int, plan: JobPlan = GROUP) -> JobPlan:
    fields = plan.model_dump(mode="json")
    return JobPlan.model_validate(fields | {"task": fields["task"] | {"values": values}})


def header_of(update: FakeUpdate, silo: str = "a", values: int = VALUES) -> AnyHeader:
    fields = {**BOUND, "silo": silo, "values": values, "residues_root": update.root}
    if update.mails:
        return KeyedUpdateHeader.model_validate(fields | {"roll": "2" * 64, "mails": update.mails_digest})
    return UpdateHeader.model_validate(fields | {"key_commitment": "2" * 64, "seeds_sha256": update.seeds_sha256})


def upload_of(folder: Path, header: AnyHeader, plan: JobPlan, participants: int = 3) -> Upload:
    return Upload(folder, plan, participants, header, Signed(header.body(), bytes(64)))


def stage(folder: Path, update: FakeUpdate, silo: str = "a", values: int = VALUES) -> StagedUpdate:
    with upload_of(folder, header_of(update, silo, values), plan_of(values)) as upload:
        upload.add_attached(*update.attached)
        for chunk in update.chunks:
            upload.add_residues(chunk)
        return upload.finish()


def total_of(*updates: FakeUpdate) -> bytes:
    total = LAYOUT.empty_sum()
    for update in updates:
        add_into(total, np.frombuffer(b"".join(update.chunks), "<u8").astype(np.uint64))
    return total.tobytes()


def test_what_was_staged_is_what_came(tmp_path: Path) -> None:
    update = fake_update(VALUES, 1)
    staged = stage(tmp_path, update)
    assert staged.residues.read_bytes() == b"".join(update.chunks)
    assert staged.attachment.read_bytes() == update.seeds
    assert {path.suffix for path in tmp_path.iterdir()} == {".residues", ".seeds"}


def test_swapped_whole_chunks_are_found_by_the_root(tmp_path: Path) -> None:
    values = 3 * 245_760
    update = fake_update(values, 1)
    header = header_of(update, values=values)
    with upload_of(tmp_path, header, plan_of(values)) as upload:
        upload.add_attached("seeds", update.seeds)
        for index in (1, 0, 2):
            upload.add_residues(update.chunks[index])
        with pytest.raises(ProtocolError, match=r"residues_root\): altered, or out of order"):
            upload.finish()
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    update = fake_update(VALUES, 1)
    header = header_of(update)
    with upload_of(tmp_path, header, plan_of(VALUES)) as upload:
        upload.add_attached("seeds", update.seeds)
        upload.add_residues(update.chunks[0])
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    update = fake_update(VALUES, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(Unavailable, match=r"aggregator's storage: is full .* can then be resent"):
            stage(tmp_path, update)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    staged = stage(tmp_path, update)
    running_sum = RunningSum(LAYOUT)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(Unavailable, match="is full"):
            running_sum.commit({"a": staged.residues}, tmp_path / "sum")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert running_sum.commit({"a": staged.residues}, tmp_path / "sum").hex() == update.root


def test_the_sum_is_over_exactly_the_accepted(tmp_path: Path) -> None:
    updates = {name: fake_update(VALUES, index) for index, name in enumerate("abc")}
    staged = {name: stage(tmp_path, update, name) for name, update in updates.items()}
    running_sum = RunningSum(LAYOUT)
    for update in staged.values():
        running_sum.add(update)
        running_sum.add(update)  # added once
    running_sum.commit({name: update.residues for name, update in staged.items()}, tmp_path / "sum")
    assert (tmp_path / "sum").read_bytes() == total_of(*updates.values())
    kept = {name: staged[name].residues for name in "ac"}
    running_sum.commit(kept, tmp_path / "sum")  # b was added ahead of time and is not accepted
    assert (tmp_path / "sum").read_bytes() == total_of(updates["a"], updates["c"])
    RunningSum(LAYOUT).commit(kept, tmp_path / "again")  # after a restart
    assert (tmp_path / "again").read_bytes() == (tmp_path / "sum").read_bytes()


def test_a_resubmission_under_another_header_replaces_what_was_added(tmp_path: Path) -> None:
    first, second = fake_update(VALUES, 1), fake_update(VALUES, 2)
    running_sum = RunningSum(LAYOUT)
    running_sum.add(stage(tmp_path, first))
    accepted = stage(tmp_path, second)
    running_sum.commit({"a": accepted.residues}, tmp_path / "sum")
    assert (tmp_path / "sum").read_bytes() == total_of(second)


def test_damaged_or_missing_spool_is_not_summed(tmp_path: Path) -> None:
    staged = stage(tmp_path, fake_update(VALUES, 1))
    staged.residues.write_bytes(staged.residues.read_bytes()[:-8] + b"\xff" * 8)
    with pytest.raises(ProtocolError, match="is not reduced modulo p"):
        RunningSum(LAYOUT).commit({"a": staged.residues}, tmp_path / "sum")
    staged.residues.unlink()
    with pytest.raises(InternalError, match="update of a: was accepted and is missing in the blobs folder"):
        RunningSum(LAYOUT).commit({"a": staged.residues}, tmp_path / "sum")
    RunningSum(LAYOUT).add(staged)  # ahead of time it may be gone: its round was closed
    assert not (tmp_path / "sum").exists()


def test_concurrent_adding_is_one_at_a_time(tmp_path: Path) -> None:
    updates = {name: fake_update(VALUES, index) for index, name in enumerate("abcdef")}
    staged = {name: stage(tmp_path, update, name) for name, update in updates.items()}
    running_sum = RunningSum(LAYOUT)
    threads = [threading.Thread(target=running_sum.add, args=(update,)) for update in staged.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running_sum.commit({name: update.residues for name, update in staged.items()}, tmp_path / "sum")
    assert (tmp_path / "sum").read_bytes() == total_of(*updates.values())


def test_memory_is_one_sum_whatever_the_number_of_silos(tmp_path: Path) -> None:
    values = 2_000_000
    layout, update = Layout(values), fake_update(values, 1)
    peaks = []
    for silos in ("ab", "abcdefgh"):
        tracemalloc.start()
        running_sum = RunningSum(layout)
        staged = [stage(tmp_path, update, name, values) for name in silos]
        for each in staged:
            running_sum.add(each)
        running_sum.commit({each.silo: each.residues for each in staged}, tmp_path / "sum")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.05
    assert peaks[1] < layout.residue_bytes * 1.5


# -- with one-time keys -----------------------------------------------------------------------------------------------

BIG = plan_of(400_000, MULTIKEY)  # two chunks of the set "small"
FOUR_MAILS = fake_keyed_update(BIG, 4, 1)


def stage_keyed(folder: Path, update: FakeUpdate, silo: str = "a") -> StagedUpdate:
    kind, attached = update.attached
    with upload_of(folder, header_of(update, silo, BIG.values), BIG, len(update.mails)) as upload:
        for start in range(0, len(attached), 10_000):  # in parts that end in the middle of mails
            upload.add_attached(kind, attached[start : start + 10_000])
        for chunk in update.chunks:
            upload.add_residues(chunk)
        return upload.finish()


def test_mails_are_staged_beside_residues(tmp_path: Path) -> None:
    staged = stage_keyed(tmp_path, FOUR_MAILS)
    assert len(FOUR_MAILS.chunks) == 2
    assert staged.residues.read_bytes() == b"".join(FOUR_MAILS.chunks)
    assert staged.attachment.read_bytes() == b"".join(FOUR_MAILS.mails)
    assert {path.suffix for path in tmp_path.iterdir()} == {".residues", ".mails"}
    assert staged.bytes_received > layout_of(BIG).upload_bytes + 4 * share_mail_bytes(layout_of(BIG))


@pytest.mark.parametrize(
    ("kind", "alter", "why"),
    [
        ("mails", lambda data: data[:-1], "mails: are truncated: .* bytes came"),
        ("mails", lambda data: b"", "mails: are truncated: 0 of .* bytes came"),
        ("mails", lambda data: data + b"x", "mails: are oversized: more than"),
        ("mails", lambda data: data[:-1] + bytes([data[-1] ^ 1]), r"are not those of the signed header \(mails\)"),
        ("mails", lambda data: data[len(data) // 4 :] + data[: len(data) // 4], r"of the signed header \(mails\)"),
        ("seeds", lambda data: data, "seeds: came, and an update of this suite has mails"),
    ],
)
def test_mails_that_are_not_those_of_the_header(tmp_path: Path, kind: str, alter, why: str) -> None:
    def send(upload: Upload) -> None:
        upload.add_attached(kind, alter(b"".join(FOUR_MAILS.mails)))
        upload.add_residues(FOUR_MAILS.chunks[0])

    header = header_of(FOUR_MAILS, values=BIG.values)
    with upload_of(tmp_path, header, BIG, 4) as upload, pytest.raises(ProtocolError, match=why):
        send(upload)
    assert list(tmp_path.iterdir()) == []


def test_mails_for_another_number_of_participants_and_mails_in_a_group_update(tmp_path: Path) -> None:
    with (
        upload_of(tmp_path, header_of(FOUR_MAILS, values=BIG.values), BIG, 3) as upload,
        pytest.raises(ProtocolError, match="mails: are oversized"),
    ):
        upload.add_attached(*FOUR_MAILS.attached)
    group = fake_update(VALUES, 1)
    with (
        upload_of(tmp_path, header_of(group), plan_of(VALUES)) as upload,
        pytest.raises(ProtocolError, match="mails: came, and an update of this suite has seeds"),
    ):
        upload.add_attached("mails", b"x")


def test_the_sum_of_updates_with_one_time_keys(tmp_path: Path) -> None:
    layout = layout_of(BIG)
    updates = {name: fake_keyed_update(BIG, 4, index) for index, name in enumerate("abcd")}
    staged = {name: stage_keyed(tmp_path, update, name) for name, update in updates.items()}
    running_sum = RunningSum(layout)
    running_sum.add(staged["d"])  # ahead of time; it is not accepted
    running_sum.commit({name: staged[name].residues for name in "abc"}, tmp_path / "sum")
    total = layout.empty_sum()
    for name in "abc":
        for index, chunk in enumerate(updates[name].chunks):
            total[layout.chunk_span(index)] += layout.check(chunk, index)
            total[layout.chunk_span(index)] %= np.array(layout.moduli, np.uint32)[:, None]
    expected = b"".join(layout.encode(total, index) for index in range(layout.chunks))
    assert (tmp_path / "sum").read_bytes() == expected
