"""A federation on this machine: its CA, its aggregator and its silos as real processes with real TLS on loopback.

Every step is one of the commands an institution would type, in the order in which it would:
`aggregator init`, `aggregator run`, `aggregator invite`, `silo enrol`, `silo peers trust`, `silo budget set`,
`silo datasets add`, `silo run`.
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloister.wire import JobPhase

from aggregator.client import coordinator
from aggregator.config import StateFolder
from aggregator.display import round_facts
from federation.commands import run_command
from federation.jobs import Membership
from federation.membership import enrolled
from federation.processes import Daemon, free_port, stop_all, wait_until
from privacy.errors import ConfigError, Unavailable

START_S = 90.0
START_EACH_S = 3.0  # more for each silo: they start at once and share the cores


@dataclass(frozen=True)
class BudgetSetting:
    """What a silo's steward allows its population to spend, ever."""

    population: str
    epsilon: float
    delta: float


@dataclass(frozen=True)
class SiloSetting:
    """One silo before it exists: its data, its budget, its models and its policy (tables of silo.toml)."""

    name: str
    dataset: Path | None = None
    budget: BudgetSetting | None = None
    model_folders: Mapping[str, Path] = field(default_factory=dict)
    policy: Mapping[str, bool | float | str | Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Silo:
    """A silo that was enrolled: its state folder and its daemon."""

    setting: SiloSetting
    state: Path
    daemon: Daemon

    @property
    def name(self) -> str:
        """Its name in the federation."""
        return self.setting.name

    def status(self) -> dict[str, Any]:
        """What the daemon last wrote about itself (status.json); empty before it first did."""
        path = self.state / "status.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def command(self, *arguments: str) -> str:
        """Run `cloister ARGUMENTS` on this silo's state and return what it printed."""
        return run_command(*arguments, "--state", str(self.state))

    @property
    def fingerprint(self) -> str:
        """Its identity's fingerprint, read at the silo itself (between institutions: by telephone)."""
        return str(json.loads(run_command("certs", "show", str(self.state / "wallet"), "--json"))["fingerprint"])

    def timings(self) -> list[dict[str, Any]]:
        """The silo's own measurements, one entry a finished round (timings.jsonl, which never leaves it)."""
        path = self.state / "timings.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class LocalFederation:
    """Starts the programs, and stops exactly those when it is left. The folder keeps all states and logs."""

    def __init__(self, folder: Path, name: str, note: Callable[[str], None] = lambda _text: None) -> None:
        self.folder = folder
        self.name = name
        self.state = folder / "aggregator"
        self.silos: list[Silo] = []
        self._note = note
        self._ports = (free_port(), free_port())
        self.aggregator = Daemon(
            "aggregator", ["aggregator", "run", "--state", str(self.state)], folder / "logs" / "aggregator.log"
        )

    def command(self, *arguments: str) -> str:
        """Run `cloister ARGUMENTS` as the coordinator and return what it printed."""
        return run_command(*arguments, "--state", str(self.state))

    def start_aggregator(self) -> None:
        """Make the CA, the aggregator's and the coordinator's certificates; run the aggregator until it answers."""
        port, enrolment_port = self._ports
        self._note("making a certificate authority and starting the aggregator")
        self.command(
            "aggregator", "init", "--federation", self.name,
            "--listen", f"127.0.0.1:{port}", "--enrolment-listen", f"127.0.0.1:{enrolment_port}",
        )  # fmt: skip
        self.aggregator.start()
        ready = self.state / "ready"
        wait_until(ready.exists, what="the aggregator's start", timeout_s=START_S, daemons=[self.aggregator])

    def enrol(self, settings: Sequence[SiloSetting]) -> None:
        """Enrol the silos, let each pin the others' identities, and give each its data, budget and policy."""
        self._note(f"enrolling {len(settings)} silos")
        self.silos = [self._enrol(setting) for setting in settings]
        identities = {silo.name: silo.fingerprint for silo in self.silos}
        for silo in self.silos:
            self._introduce(silo, identities)

    def _enrol(self, setting: SiloSetting) -> Silo:
        state = self.folder / "silos" / setting.name
        token = self.command("aggregator", "invite", setting.name).strip()
        run_command("silo", "enrol", "--token", token, "--state", str(state))
        append_settings(state / "silo.toml", setting)
        log = self.folder / "logs" / f"{setting.name}.log"
        return Silo(setting, state, Daemon(setting.name, ["silo", "run", "--state", str(state)], log))

    def _introduce(self, silo: Silo, identities: Mapping[str, str]) -> None:
        for peer in self.silos:
            if peer.name != silo.name:
                silo.command("silo", "peers", "trust", peer.name, identities[peer.name])
        if silo.setting.budget is not None:
            limit = silo.setting.budget
            silo.command(
                "silo", "budget", "set", limit.population, "--epsilon", str(limit.epsilon), "--delta", str(limit.delta)
            )
        if silo.setting.dataset is not None:
            silo.command("silo", "datasets", "add", str(silo.setting.dataset))

    def start_silos(self) -> None:
        """Run every silo's daemon until each says that it is connected."""
        self._note(f"starting {len(self.silos)} silo daemons")
        for silo in self.silos:
            silo.daemon.start()
        wait_until(
            lambda: all(silo.status().get("connected") for silo in self.silos),
            what="the silos' connection",
            timeout_s=START_S + START_EACH_S * len(self.silos),
            daemons=self.daemons,
        )

    @property
    def daemons(self) -> list[Daemon]:
        """Every program this federation runs."""
        return [self.aggregator, *(silo.daemon for silo in self.silos if silo.daemon.running)]

    def membership(self) -> Membership:
        """Who is enrolled, as the aggregator tells its coordinator."""
        return enrolled(self.state)

    def submit(self, prepared: Path) -> str:
        """Submit a prepared job; returns the digest that names it (hex)."""
        return str(json.loads(self.command("aggregator", "submit", str(prepared), "--json"))["job"])

    def rounds(self, job: str) -> list[dict[str, Any]]:
        """The job's rounds as the aggregator timed them."""
        with coordinator(StateFolder(self.state)) as aggregator:
            return [round_facts(found) for found in aggregator.rounds(bytes.fromhex(job))]

    def wait_for_job(self, timeout_s: float, tick: Callable[[], None] | None = None) -> None:
        """Wait until every silo says that the job is over. Raises Unavailable with the reason if it did not finish."""
        wait_until(
            lambda: all(silo.status().get("job_phase") in CLOSED_PHASES for silo in self.silos),
            what="the end of the job",
            timeout_s=timeout_s,
            daemons=self.daemons,
            tick=tick,
        )

    def require_finished(self, job: str) -> None:
        """Raises Unavailable with what the aggregator and the silos say unless the job finished."""
        with coordinator(StateFolder(self.state)) as aggregator:
            found = aggregator.find(job)
        if found.phase is not JobPhase.FINISHED:
            said = [f"{silo.name}: {silo.status().get('message')}" for silo in self.silos]
            why = "; ".join([f"is {found.phase.name} ({found.reason})", *said])
            raise Unavailable(f"job {found.name}", why, f"Read the logs in {self.folder / 'logs'}.")

    def stop(self) -> None:
        """Stop the silos, then the aggregator."""
        try:
            stop_all([silo.daemon for silo in self.silos])
        finally:
            self.aggregator.stop()


CLOSED_PHASES = frozenset({"FINISHED", "STOPPED", "CANCELLED"})


@contextmanager
def local_federation(folder: Path, name: str, note: Callable[[str], None]) -> Iterator[LocalFederation]:
    """A federation in `folder`, stopped when the block is left, however it is left."""
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(str(folder), "is not empty", "Name a folder that does not exist yet with --folder.")
    folder.mkdir(parents=True, exist_ok=True)
    federation = LocalFederation(folder, name, note)
    with _terminated_is_interrupted():
        try:
            yield federation
        finally:
            federation.stop()


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, so that what it started is stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def append_settings(path: Path, setting: SiloSetting) -> None:
    """Add the model folders and the policy to a silo.toml, as its steward would with an editor."""
    lines = []
    for source, folder in setting.model_folders.items():
        lines += ["", f"[models.{json.dumps(source)}]", f"folder = {json.dumps(str(folder))}"]
    if setting.policy:
        lines += ["", "[policy]", *(f"{key} = {json.dumps(value)}" for key, value in setting.policy.items())]
    with path.open("a", encoding="utf-8") as sink:
        sink.write("\n".join(lines) + "\n")


def latest_adapter(state: Path, job: str) -> tuple[int, Path]:
    """The round and the file (little-endian float32) of the last global adapter that a silo computed for a job."""
    found = {int(path.stem.partition("-")[2]): path for path in (state / "artifacts" / job).glob("adapter-*.f32")}
    if not found:
        raise ConfigError(f"state folder {state}", f"holds no adapter of job {job[:12]}", "Did the job finish?")
    return max(found.items())
