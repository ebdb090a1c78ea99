"""Files of activations: whole or not there, within their limit, private, and not to be changed by who maps them."""

import errno
import os

import pytest
import torch

from silo_agent.activation_store import ActivationStore

SHAPE = (4, 5, 8)
SIZE = 4 * 4 * 5 * 8


def filled(value):
    return lambda tensor: tensor.fill_(value)


def never(_):
    raise AssertionError("was made again")


@pytest.fixture
def store(tmp_path):
    return ActivationStore(tmp_path / "activations", 3 * SIZE)


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_what_was_made_is_found_again(store):
    assert torch.equal(store.mapped("a", SHAPE, filled(2.5)), torch.full(SHAPE, 2.5))
    assert torch.equal(store.mapped("a", SHAPE, never), torch.full(SHAPE, 2.5))
    assert names(store) == ["a.f32"]
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert (store.folder / "a.f32").stat().st_mode & 0o777 == 0o600


def test_writing_to_what_is_mapped_changes_no_file(store):
    store.mapped("a", SHAPE, filled(1.0)).zero_()
    assert store.mapped("a", SHAPE, never).eq(1).all()


def test_a_file_of_another_size_is_made_again(store):
    store.mapped("a", SHAPE, filled(1.0))
    os.truncate(store.folder / "a.f32", SIZE - 4)
    assert store.mapped("a", SHAPE, filled(3.0)).eq(3).all()


def test_those_used_longest_ago_make_room(store):
    for i, key in enumerate("abc"):
        store.mapped(key, SHAPE, filled(1.0))
        os.utime(store.folder / f"{key}.f32", ns=(i, i))
    kept = store.mapped("a", SHAPE, never)  # used again: the newest now
    store.mapped("d", SHAPE, filled(4.0))
    assert names(store) == ["a.f32", "c.f32", "d.f32"]
    large = store.mapped("e", (12, 5, 8), filled(5.0))
    assert names(store) == ["e.f32"]
    assert kept.eq(1).all()
    assert large.eq(5).all()


def test_what_never_fits_leaves_the_others_alone(store):
    store.mapped("a", SHAPE, filled(1.0))
    assert store.mapped("b", (13, 5, 8), never) is None
    assert store.mapped("c", (0, 5, 8), never) is None
    assert names(store) == ["a.f32"]


def test_a_failure_leaves_nothing_half_made(store):
    def fail(tensor):
        tensor.fill_(1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.mapped("a", SHAPE, fail)
    assert names(store) == []


def test_a_crash_s_draft_is_removed_and_never_taken_for_whole(store):
    store.folder.mkdir(parents=True)
    (store.folder / ".0011.draft").write_bytes(bytes(SIZE))
    assert store.mapped("a", SHAPE, filled(6.0)).eq(6).all()
    assert names(store) == ["a.f32"]


def test_a_full_disk_is_no_crash(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert store.mapped("a", SHAPE, never) is None
    assert names(store) == []
