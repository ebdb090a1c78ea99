"""Programs on this machine: started, waited for, stopped, and quoted when they fail."""

import sys
import time

import pytest

from federation import processes
from federation.cli import Root
from federation.commands import named, run_command
from federation.local import LocalFederation, Silo, SiloSetting
from federation.processes import Daemon, free_port, stop_all, wait_until
from privacy.errors import (
    CloisterError,
    ConfigError,
    ExitCode,
    InternalError,
    ProtocolError,
    Refused,
    Unavailable,
    VerificationError,
)

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def python_as_command(monkeypatch):
    """Daemons run Python code instead of `cloister`: what is tested here is how processes are kept."""
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c"))


def test_a_command_that_fails_is_quoted():
    with pytest.raises(ConfigError) as caught:
        run_command("job", "show", "/nonexistent")
    assert "cloister job show /nonexistent" in str(caught.value)
    assert "ended with exit code 3" in str(caught.value)
    assert "has no plan.json" in str(caught.value)


@pytest.mark.parametrize(
    ("ended", "family"),
    [
        (InternalError("an invariant", "is broken", "Report it."), InternalError),
        (SystemExit(ExitCode.USAGE), InternalError),  # the command line was ours
        (ConfigError("silo.toml", "is missing", "Write it."), ConfigError),
        (ProtocolError("header", "is altered", "Ask."), ProtocolError),
        (Refused("token", "has been used already", "Ask."), Refused),
        (VerificationError("checkpoint", "does not verify", "Ask."), VerificationError),
        (Unavailable("aggregator", "cannot be reached", "Wait."), Unavailable),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=lambda value: str(getattr(value, "__name__", "")),
)
def test_whose_move_it_is_does_not_change_on_the_way(monkeypatch, ended, family):
    def fail(*_positional, **_named):
        raise ended

    monkeypatch.setattr(Root, "__call__", fail)
    with pytest.raises(family) as caught:
        run_command("silo", "enrol")
    if isinstance(ended, CloisterError):
        assert type(caught.value) is type(ended)
        assert caught.value.exit_code == ended.exit_code
        assert ended.why in caught.value.why


def test_a_command_gives_back_what_it_printed():
    assert run_command("--version").startswith("cloister ")


def test_a_token_is_not_quoted():
    assert named(["silo", "enrol", "--token", "secret", "--state", "x"]) == "silo enrol"


def test_a_daemon_that_ends_is_quoted_by_its_last_lines(tmp_path, python_as_command):
    daemon = Daemon("silo-1", ["import sys; print('the port is taken'); sys.exit(3)"], tmp_path / "logs" / "a.log")
    daemon.start()
    with pytest.raises(ConfigError) as caught:
        wait_until(lambda: False, what="its start", timeout_s=30, daemons=[daemon])
    assert "silo-1: ended with exit code 3" in str(caught.value)
    assert "the port is taken" in str(caught.value)


def test_waiting_too_long_quotes_every_log(tmp_path, python_as_command):
    daemon = Daemon("silo-1", ["import time; print('dialling', flush=True); time.sleep(60)"], tmp_path / "a.log")
    daemon.start()
    wait_until(lambda: "dialling" in daemon.last_lines(), what="its first words", timeout_s=30, daemons=[daemon])
    try:
        with pytest.raises(Unavailable, match=r"(?s)the connection: did not happen within 0 s.*silo-1.*dialling"):
            wait_until(lambda: False, what="the connection", timeout_s=0.01, daemons=[daemon])
    finally:
        daemon.kill()
    assert not daemon.running


def test_stopping_asks_first_and_kills_who_does_not_listen(tmp_path, python_as_command, monkeypatch):
    monkeypatch.setattr(processes, "STOP_S", 0.5)
    polite = "import time; print('up', flush=True); time.sleep(60)"
    daemons = [Daemon(name, [code], tmp_path / f"{name}.log") for name, code in (("deaf", DEAF), ("polite", polite))]
    for daemon in daemons:
        daemon.start()
    wait_until(lambda: all("up" in d.last_lines() for d in daemons), what="start", timeout_s=30, daemons=daemons)
    began = time.monotonic()
    stop_all(daemons)
    assert not any(daemon.running for daemon in daemons)
    assert time.monotonic() - began < 30
    assert [daemon._process.returncode for daemon in daemons] == [-9, -15]


@pytest.mark.parametrize("breaks", ["ask_to_end", "stop"])
def test_what_goes_wrong_with_one_keeps_no_other_running(tmp_path, python_as_command, monkeypatch, breaks):
    monkeypatch.setattr(processes, "STOP_S", 0.5)
    daemons = [Daemon(name, [DEAF], tmp_path / f"{name}.log") for name in ("first", "broken", "last")]
    for daemon in daemons:
        daemon.start()
    wait_until(lambda: all("up" in d.last_lines() for d in daemons), what="start", timeout_s=30, daemons=daemons)

    def fail(*_arguments):
        raise PermissionError

    monkeypatch.setattr(daemons[1], breaks, fail)
    with pytest.raises(PermissionError):
        stop_all(daemons)
    assert not daemons[0].running
    assert not daemons[2].running
    daemons[1].kill()


def test_the_aggregator_is_stopped_also_when_a_silo_cannot_be(tmp_path, python_as_command, monkeypatch):
    federation = LocalFederation(tmp_path, "trial")
    federation.aggregator = Daemon("aggregator", ["import time; time.sleep(60)"], tmp_path / "a.log")
    federation.aggregator.start()
    silo = Silo(SiloSetting("east"), tmp_path, Daemon("east", [""], tmp_path / "b.log"))
    federation.silos.append(silo)

    def fail():
        raise PermissionError

    monkeypatch.setattr(silo.daemon, "ask_to_end", fail)
    with pytest.raises(PermissionError):
        federation.stop()
    assert not federation.aggregator.running


def test_a_program_that_a_signal_ended_or_that_never_began_is_unavailable(tmp_path, python_as_command):
    daemon = Daemon("silo-1", ["import time; time.sleep(60)"], tmp_path / "a.log")
    with pytest.raises(Unavailable, match="silo-1: was not started"):
        daemon.check()
    daemon.start()
    daemon.kill()
    with pytest.raises(Unavailable, match="silo-1: ended with exit code -9"):
        daemon.check()


def test_peak_memory_is_read_from_the_kernel(tmp_path, python_as_command):
    code = "data = bytearray(80_000_000); del data; print('up', flush=True); import time; time.sleep(60)"
    daemon = Daemon("fat", [code], tmp_path / "a.log")
    daemon.start()
    try:
        wait_until(lambda: "up" in daemon.last_lines(), what="start", timeout_s=30, daemons=[daemon])
        assert daemon.peak_rss_mb > 80 > daemon.rss_mb
    finally:
        daemon.stop()


def test_free_ports_are_free():
    import socket

    port = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))


def test_a_missing_part_of_the_installation_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("torch", "grpc") else object())
    with pytest.raises(ConfigError, match=r"this installation: lacks grpc, torch. Install the rest"):
        processes.require_command()
