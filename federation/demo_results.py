"""What came of the demo, gathered where each figure lies.

Accuracies from each hospital's own folder (no agent sends them), epsilons from each hospital's ledger after it was
exported and verified offline, rounds from the aggregator, and what the aggregator holds from its own files.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from federation.commands import run_command
from federation.jobs import read_plan
from federation.local import LocalFederation, Silo, latest_adapter
from federation.promises import promises
from privacy.ckks.layouts import layout_of

if TYPE_CHECKING:
    from federation.demo import Ran

OPENERS = ("torch", "tenseal", "_sealapi", "opacus")
WINDOW_BYTES = 32
WINDOWS = 64


def collect(ran: "Ran", note: Callable[[str], None]) -> dict[str, Any]:
    """Everything the demo prints, as one JSON object. Raises Unavailable when the job did not finish."""
    federation, plan = ran.federation, read_plan(ran.prepared)
    federation.require_finished(ran.job)
    note("exporting and verifying every hospital's ledger, exporting the adapter")
    adapter = federation.folder / "adapter"
    federation.silos[0].command("silo", "export", ran.job, "--out", str(adapter))
    silos = {silo.name: _silo(silo, ran) for silo in federation.silos}
    rounds = [_round(row, len(row["members"]), plan.values) for row in federation.rounds(ran.job)]
    return {
        "job": ran.job,
        "suite": plan.suite.value,
        "parameters": plan.parameters,
        "values": plan.values,
        "ciphertext_bytes_per_value": layout_of(plan).upload_bytes / plan.values,
        "rounds": rounds,
        "silos": silos,
        "mean_accuracy": float(np.mean([silo["accuracy"] for silo in silos.values()])),
        "pooled_auc": _pooled_auc(federation, ran.job),
        "baselines": ran.baselines.as_json(),
        "aggregator": aggregator_saw(federation, ran.job),
        "promises": promises(plan),
        "adapter_path": str(adapter),
        "seconds": round(time.monotonic() - ran.started_s, 1),
    }


def _round(row: dict[str, Any], members: int, values: int) -> dict[str, Any]:
    per_silo = row["bytes_received"] / members if members else 0.0
    return {
        "round": row["round"],
        "phase": row["phase"],
        "seconds": row["seconds"],
        "members": row["members"],
        "upload_bytes_per_silo": round(per_silo),
        "upload_bytes_per_value": per_silo / values,
    }


def _silo(silo: Silo, ran: "Ran") -> dict[str, Any]:
    ledger = verify_ledger(silo, ran.federation)
    rows = {row["population"]: row for row in ledger.get("populations", [])}
    assert silo.setting.budget is not None  # noqa: S101 - the demo gives every hospital one
    spent = rows[silo.setting.budget.population]
    return {
        "accuracy": evaluation(silo, ran.job)["accuracy"],
        "accuracy_by_round": [found["accuracy"] for found in evaluations(silo, ran.job)],
        "epsilon": spent["spent_epsilon"],
        "epsilon_pld": spent["spent_pld_epsilon"],
        "delta": spent["delta"],
        "budget_epsilon": spent["epsilon"],
        "budget_left": spent["left_epsilon"],
        "ledger_entries": ledger.get("entries", 0),
        "ledger_verified": bool(ledger.get("verified")),
        "bytes_sent": silo.status().get("bytes_sent"),
    }


def verify_ledger(silo: Silo, federation: LocalFederation) -> dict[str, Any]:
    """Export a silo's ledger and verify the export as an auditor would: with the CA's certificate and nothing else."""
    out = federation.folder / "ledgers" / f"{silo.name}.zip"
    out.parent.mkdir(exist_ok=True)
    silo.command("ledger", "export", "--out", str(out))
    ca = federation.state / "ca" / "ca.pem"
    return dict(json.loads(run_command("ledger", "verify", str(out), "--ca", str(ca), "--json")))


def evaluations(silo: Silo, job: str) -> list[dict[str, Any]]:
    """The silo's evaluation of the global adapter after each round, in order: out of its own folder."""
    folder = silo.state / "results" / job
    paths = sorted(folder.glob("evaluation-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
    return [json.loads(path.read_text()) for path in paths]


def evaluation(silo: Silo, job: str) -> dict[str, Any]:
    """The last one."""
    return evaluations(silo, job)[-1]


def _pooled_auc(federation: LocalFederation, job: str) -> float:
    from sklearn.metrics import roc_auc_score

    found = [evaluation(silo, job) for silo in federation.silos]
    labels = [label for one in found for label in one["labels"]]
    scores = [row[1] for one in found for row in one["probabilities"]]
    return float(roc_auc_score(labels, scores))


def aggregator_saw(federation: LocalFederation, job: str) -> dict[str, Any]:
    """What the aggregator's process had loaded and what its folder holds, looked at, not asserted.

    `adapter_found`: whether any of 64 pieces of the adapter that the hospitals opened occurs in any of its files.
    """
    maps = Path(f"/proc/{federation.aggregator.pid}/maps").read_text()
    loaded = [name for name in OPENERS if name in maps]
    files = [path for path in federation.state.rglob("*") if path.is_file()]
    pieces = _pieces(opened_adapter(federation.silos[0], job))
    found = [str(path.relative_to(federation.state)) for path in files if _contains(path.read_bytes(), pieces)]
    return {
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "opening_libraries_loaded": loaded,
        "adapter_found": found,
        "bytes_received": sum(row["bytes_received"] for row in federation.rounds(job)),
    }


def opened_adapter(silo: Silo, job: str) -> bytes:
    """The last global adapter as the silo computed it: little-endian float32."""
    return latest_adapter(silo.state, job)[1].read_bytes()


def _pieces(data: bytes) -> list[bytes]:
    step = max(WINDOW_BYTES, len(data) // WINDOWS // 4 * 4)
    pieces = [data[start : start + WINDOW_BYTES] for start in range(0, len(data) - WINDOW_BYTES, step)]
    return [piece for piece in pieces if any(piece)]


def _contains(data: bytes, pieces: list[bytes]) -> bool:
    return any(piece in data for piece in pieces)
