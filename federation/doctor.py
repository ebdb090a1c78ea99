"""`cloister doctor`: what is wrong with this installation, or with one silo, before anything else fails over it.

Every check does the thing that would fail: imports the library, locks a port on loopback, encrypts and decrypts.
"""

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from federation.extras import EXTRAS, packages_of
from privacy.errors import CloisterError, ConfigError
from runtime.config import load_config, read_toml
from runtime.console import printable

LEAST_FREE_GB = 2.0
REACH_S = 5.0


@dataclass(frozen=True)
class Finding:
    """What one check found; `next_step` is empty where nothing is wrong."""

    what: str
    found: str
    next_step: str = ""

    @property
    def well(self) -> bool:
        """True where nothing needs doing."""
        return not self.next_step


def doctor(silo_state: Path | None, *, as_json: bool) -> None:
    """Print every finding. Raises ConfigError when one of them needs the operator."""
    findings = [*installation(), *(silo(silo_state) if silo_state is not None else ())]
    if as_json:
        print(json.dumps({"well": all(f.well for f in findings), "findings": [asdict(f) for f in findings]}))  # noqa: T201
    else:
        for finding in findings:
            mark = "ok  " if finding.well else "FAIL"
            print(printable(f"{mark} {finding.what}: {finding.found}"))  # noqa: T201
            if not finding.well:
                print(printable(f"     -> {finding.next_step}"))  # noqa: T201
    wrong = [finding.what for finding in findings if not finding.well]
    if wrong:
        raise ConfigError("cloister doctor", f"found something wrong with {', '.join(wrong)}", "Do what it says above.")


def installation() -> Iterator[Finding]:
    """The machine and what is installed on it."""
    yield Finding("python", sys.version.split()[0])
    for extra in EXTRAS:
        yield _extra(extra)
    yield _attempt("loopback", _bind_loopback, "Allow this user to listen on 127.0.0.1.")
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    short = "" if free_gb >= LEAST_FREE_GB else "Free some space: updates are sealed to disk before they are sent."
    yield Finding("disk", f"{free_gb:.1f} GB free in the current folder", short)


def _extra(extra: str) -> Finding:
    """Whether all that an extra names is installed. A missing extra is no fault: few machines need all."""
    missing = []
    for name in packages_of(extra):
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(f"extra [{extra}]", f"not installed here ({', '.join(missing)} missing)")
    return Finding(f"extra [{extra}]", "installed")


def _attempt(what: str, act: Callable[[], str], next_step: str) -> Finding:
    try:
        return Finding(what, act())
    except CloisterError as error:
        return Finding(what, f"{error.what}: {error.why}", error.next_step)
    except (OSError, ImportError) as error:
        return Finding(what, str(error), next_step)


def _bind_loopback() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
    return "a port can be opened"


def silo(state: Path) -> Iterator[Finding]:
    """One silo's folder: its configuration, its certificates by this machine's clock, its way out."""
    path = state / "silo.toml"
    try:
        settings = read_toml(path)
    except ConfigError as error:
        yield Finding(str(path), error.why, "Enrol the silo (cloister silo enrol), or name its folder with --state.")
        return
    yield Finding(str(path), f"silo {settings.get('name')} of {settings.get('federation')}")
    yield _attempt("certificates", lambda: _check_wallet(state), "Enrol again, or restore the wallet folder.")
    yield _attempt("vault", lambda: _check_private(state / "vault"), "Restore the vault folder from a backup.")
    yield _attempt("training", lambda: _hardware(path), "Install what the extra [silo] names.")
    address = str(settings.get("aggregator"))
    yield _attempt(
        f"aggregator {address}", lambda: _reach(address), "Is it running, and may this machine dial that port?"
    )


def _check_wallet(state: Path) -> str:
    wallet = import_module("certs.wallet").Wallet(state / "wallet")
    now = datetime.now(UTC)
    return f"{wallet.check(now)} at {now:%Y-%m-%dT%H:%M:%SZ}"


def _check_private(folder: Path) -> str:
    mode = os.stat(folder).st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(str(folder), f"others may read it (mode {mode:o})", f"chmod 700 {folder}")
    return "only its user can read it"


def _hardware(config: Path) -> str:
    home = import_module("silo_agent.home")
    settings = load_config(home.SiloSettings, config, home.ENV_PREFIX, os.environ)
    where = import_module("silo_agent.hardware").hardware_of(settings.training)
    return f"on {where.device.type}, cached frozen layers multiply in {'bfloat16' if where.half else 'float32'}"


def _reach(address: str) -> str:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=REACH_S):
        return "answers"
