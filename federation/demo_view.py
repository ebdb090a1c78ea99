"""What the demo shows while it runs and when it is over: a live table at a terminal, plain lines elsewhere.

It shows what the programs say of themselves: each silo's status.json and the aggregator's list of rounds.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from federation.local import LocalFederation
from runtime.console import bytes_text

REFRESH_S = 0.2
PLAIN_S = 2.0
HEARTBEAT_S = 10.0
PLAIN_WIDTH = 110
BAR_WIDTH = 10
BASELINES = ("majority", "local_only", "without_privacy")
CAPTION = (
    "federated: under differential privacy; alone and together: the same model without; epsilon at delta 0.001, RDP"
)
ABOUT = "Cloister: four hospitals, one model, no record leaves its hospital"
DOING = {  # a state of silo_agent.round, and what its hospital does in it
    "Idle": "hears of a round",
    "Joined": "joins the round",
    "Reserved": "trains",
    "Trained": "seals its update",
    "Sealed": "sends its update",
    "Submitted": "waits for the sum",
    "Fingerprinted": "checks the sum",
    "Withdrawn": "sends nothing",
    "Consented": "waits for consents",
    "Certified": "releases or opens",
    "Released": "waits for shares",
    "Unlocked": "opens the sum",
    "Opened": "tells its digest",
    "Applied": "waits for a round",
    "Refused": "refused the round",
    "Burnt": "the round failed",
}
STYLES = {"finished": "green", "stopped": "red", "cancelled": "red", "trains": "yellow", "refused the round": "red"}


class View:
    """Progress on one stream; safe to call as often as one likes."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._started = time.monotonic()

    def note(self, text: str) -> None:
        """One line about what begins now, with the seconds since the start."""
        self._console.print(f"[{time.monotonic() - self._started:6.1f} s] {text}", markup=False, soft_wrap=True)

    @contextmanager
    def live(self, federation: LocalFederation, job: str) -> Iterator[Callable[[], None]]:
        """Gives a function that brings the display up to date; call it often."""
        if not self._console.is_terminal:
            yield _Plain(federation, self.note).refresh
            return
        watch = _Watch(federation, job, self._started)
        with Live(watch.render(), console=self._console, auto_refresh=False) as live:
            last = 0.0

            def refresh() -> None:
                nonlocal last
                if time.monotonic() - last >= REFRESH_S:
                    live.update(watch.render(), refresh=True)
                    last = time.monotonic()

            yield refresh
            live.update(watch.render(), refresh=True)

    def results(self, found: dict[str, Any], stream: TextIO) -> None:
        """The final table and the sentences under it."""
        console = Console(file=stream, highlight=False, width=None if stream.isatty() else PLAIN_WIDTH)
        console.print(results_table(found))
        for line in sentences(found):
            console.print(line, markup=False, soft_wrap=True)


class _Plain:
    """A line whenever something changed, at most one every two seconds."""

    def __init__(self, federation: LocalFederation, note: Callable[[str], None]) -> None:
        self._federation = federation
        self._note = note
        self._said = ""
        self._said_at = 0.0
        self._at = 0.0

    def refresh(self) -> None:
        """Say what changed."""
        if time.monotonic() - self._at < PLAIN_S:
            return
        self._at = time.monotonic()
        line = " | ".join(_short(silo.name, silo.status()) for silo in self._federation.silos)
        if line != self._said or self._at - self._said_at >= HEARTBEAT_S:
            self._said, self._said_at = line, self._at
            self._note(line)


def _short(name: str, status: dict[str, Any]) -> str:
    if not status.get("round"):
        return f"{name}: {doing(status)}"
    steps = f" {status.get('step')}/{status.get('steps')}" if status.get("steps") else ""
    spent = status.get("epsilon_spent")
    epsilon = f", epsilon {spent:.2f}" if spent is not None else ""
    return f"{name}: {status.get('round')}/{status.get('rounds')} {doing(status)}{steps}{epsilon}"


def doing(status: dict[str, Any]) -> str:
    """What a silo is at, in a few words."""
    job_phase = str(status.get("job_phase") or "")
    if job_phase in ("FINISHED", "STOPPED", "CANCELLED"):
        return job_phase.lower()
    if status.get("round"):
        phase = str(status.get("phase"))
        return DOING.get(phase, phase)
    if job_phase:
        return "has joined"
    return "checks the job" if status.get("job") else "connected"


class _Watch:
    """The live display of one job."""

    def __init__(self, federation: LocalFederation, job: str, started_s: float) -> None:
        self._federation = federation
        self._job = job
        self._started_s = started_s
        self._published = -1
        self._rounds: list[dict[str, Any]] = []

    def render(self) -> RenderableType:
        """The display as of now."""
        statuses = {silo.name: silo.status() for silo in self._federation.silos}
        self._look_at_rounds(statuses)
        elapsed = f"{time.monotonic() - self._started_s:.0f} s"
        tables = Group(_silo_table(statuses), _round_table(self._rounds))
        return Panel(tables, title=ABOUT, subtitle=elapsed, border_style="cyan")

    def _look_at_rounds(self, statuses: dict[str, dict[str, Any]]) -> None:
        """Ask the aggregator again when the hospitals have moved on to another round or are done."""
        rounds = [status.get("round") or 0 for status in statuses.values()]
        over = sum(status.get("job_phase") == "FINISHED" for status in statuses.values())
        now = max(rounds, default=0) + over
        if now != self._published and any(rounds):
            self._published = now
            self._rounds = self._federation.rounds(self._job)


def _silo_table(statuses: dict[str, dict[str, Any]]) -> Table:
    """A line a hospital. The columns keep their widths, so that nothing jumps when a word changes."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("hospital", min_width=11)
    table.add_column("round", min_width=5)
    table.add_column("does", min_width=max(map(len, DOING.values())))
    table.add_column("step", min_width=BAR_WIDTH)
    table.add_column("epsilon\nspent", justify="right", min_width=7)
    table.add_column("\nleft", justify="right", min_width=5)
    table.add_column("sent", justify="right", min_width=7)
    for name, status in statuses.items():
        steps, known = status.get("steps") or 0, bool(status.get("epsilon_cap"))
        does = doing(status)
        table.add_row(
            Text(name, style="bold"),
            f"{status['round']}/{status['rounds']}" if status.get("round") else "-",
            Text(does, style=STYLES.get(does, "" if status.get("round") else "dim")),
            ProgressBar(total=max(steps, 1), completed=status.get("step") or 0, width=BAR_WIDTH),
            _number(status["epsilon_spent"] if known else None),
            _number(status["epsilon_left"] if known else None),
            bytes_text(status.get("bytes_sent") or 0),
        )
    return table


def _round_table(rounds: list[dict[str, Any]]) -> RenderableType:
    if not rounds:
        return Text(" no round yet", style="dim")
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("round", "aggregator", "seconds", "received", "who is in"):
        table.add_column(heading, justify="right" if heading in ("seconds", "received") else "left")
    for row in rounds:
        seconds = f"{row['seconds']:.1f}" if row["seconds"] else "-"
        who = ", ".join(row["members"] or row["participants"])
        table.add_row(str(row["round"]), row["phase"].lower(), seconds, bytes_text(row["bytes_received"]), who)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def results_table(found: dict[str, Any]) -> Table:
    """Accuracy on the held-out parts per hospital, beside the baselines of the same model on the same split."""
    baselines = found["baselines"]
    table = Table(title="Accuracy on the held-out records", caption=CAPTION, box=SIMPLE)
    for heading in ("", "federated", "majority", "alone", "together", "epsilon", "left"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, silo in found["silos"].items():
        others = [f"{baselines[key]['accuracy'][name]:.3f}" for key in BASELINES]
        table.add_row(name, f"{silo['accuracy']:.3f}", *others, f"{silo['epsilon']:.4f}", f"{silo['budget_left']:.3f}")
    table.add_section()
    means = [f"{baselines[key]['mean_accuracy']:.3f}" for key in BASELINES]
    table.add_row("average of four", f"{found['mean_accuracy']:.3f}", *means)
    aucs = [_auc(baselines[key]["pooled_auc"]) for key in BASELINES]
    table.add_row("pooled AUC", f"{found['pooled_auc']:.3f}", *aucs)
    return table


def _auc(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def sentences(found: dict[str, Any]) -> list[str]:
    """One line on the aggregator, one on each ledger, and where things lie."""
    ledgers = [
        f"Ledger of {name}: {silo['ledger_entries']} entries verified offline (signatures, tree, epsilons, rounds); "
        f"{silo['epsilon']:.3f} of {silo['budget_epsilon']:g} spent."
        for name, silo in found["silos"].items()
    ]
    return [
        aggregator_sentence(found),
        collusion_sentence(found),
        f"A lying aggregator {found['promises']['a lying aggregator']}.",
        *ledgers,
        f"Adapter: {found['adapter_path']}   report: {found['report_path']}   {found['seconds']:.0f} s in all",
    ]


def collusion_sentence(found: dict[str, Any]) -> str:
    """What the aggregator and one hospital could learn together, as the suite has it."""
    learned = found["promises"]["aggregator + 1 silo learn"].replace("silo", "hospital")
    return f"Suite {found['suite']}: the aggregator with one hospital could learn {learned}."


def aggregator_sentence(found: dict[str, Any]) -> str:
    """What the aggregator saw, as it was looked at."""
    saw = found["aggregator"]
    loaded = ", ".join(saw["opening_libraries_loaded"]) or "no library that trains or decrypts"
    pieces = f"found in {', '.join(saw['adapter_found'])}" if saw["adapter_found"] else "found in none of them"
    return (
        f"The aggregator saw {bytes_text(saw['bytes_received'])} of ciphertext and, by the protocol, no key; "
        f"its process had loaded {loaded}; the opened adapter was looked for in its {saw['files']} files and {pieces}."
    )
