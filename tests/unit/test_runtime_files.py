"""Durable files and the lock of a state folder."""

import errno
import fcntl
import os
import stat
import subprocess
import sys

import pytest

from privacy.errors import ConfigError
from runtime import files
from runtime.files import StateLock, write_durably


def test_a_file_is_replaced_whole_and_private(tmp_path):
    path = tmp_path / "a"
    write_durably(path, b"one")
    write_durably(path, b"two" * 100_000)
    assert path.read_bytes() == b"two" * 100_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "a"
    write_durably(path, b"old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else type(path), call, full)
        with pytest.raises(ConfigError, match=rf"writing {path}: the disk is full. Free space under {tmp_path}"):
            write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_size_limit_of_a_process_is_a_full_disk(tmp_path):
    """A real failing write(2), in a process whose files may not grow beyond 1000 bytes."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from privacy.errors import ConfigError\n"
        "from runtime.files import write_durably\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_durably(Path(sys.argv[1]), bytes(5000))\n"
        "except ConfigError as error:\n    print(error.why)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a"], check=True, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout == "the disk is full\n"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"the folder .*nowhere does not exist. Create it"):
        write_durably(tmp_path / "nowhere" / "a", b"")


def test_two_programs_on_one_state_folder(tmp_path):
    folder = tmp_path / "state"
    with StateLock(folder):
        with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()}. Stop that process"):
            StateLock(folder).__enter__()
        program = (
            "import sys\nfrom pathlib import Path\nfrom runtime.files import StateLock\n"
            "StateLock(Path(sys.argv[1])).__enter__()\n"
        )
        other = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True)
        assert other.returncode == 1
        assert f"is in use by process {os.getpid()}" in other.stderr
        assert StateLock.held(folder)
    assert not StateLock.held(folder)
    assert not StateLock.held(tmp_path / "nowhere")
    with StateLock(folder):
        pass


def test_asking_whether_a_folder_is_in_use_keeps_no_program_from_it(tmp_path, monkeypatch):
    with StateLock(tmp_path):
        pass
    asking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(files.time, "sleep", lambda _: fcntl.flock(asking, fcntl.LOCK_UN))
    with StateLock(tmp_path):
        pass
    os.close(asking)
