"""What the benchmarks print, from figures made up here."""

import io
import tomllib
from datetime import UTC, datetime

import numpy as np
import pytest
from rich.console import Console

from aggregator.accumulate import read_chunks
from federation.bench import job_text, protect_figures
from federation.bench_alone import aggregate_alone
from federation.bench_ledger import bench_ledger
from federation.bench_view import (
    VARIANTS,
    aggregation_table,
    audit_table,
    heart_table,
    ledger_table,
    training_table,
)
from federation.jobs import Membership, RehearsalFile, rehearsal_plan
from privacy.ckks.layouts import layout_of
from privacy.plan import RosterMember
from privacy.suites import Suite
from runtime.config import validated


def text_of(renderable):
    sink = io.StringIO()
    Console(file=sink, width=120).print(renderable)
    return sink.getvalue()


def test_every_figure_of_the_machinery_has_its_unit():
    text = text_of(
        aggregation_table(
            {
                "suite": "ckks-multikey",
                "parameters": "small",
                "ciphertext_bytes_per_value": 3.1234,
                "values": 1000,
                "silos": 4,
                "rounds": 2,
                "upload_bytes_per_value": 4.0388,
                "quantise_ns_per_value": 7.44,
                "protect_ns_per_value": 79.85,
                "protect_after_training_ns_per_value": 12.3,
                "aggregate_ns_per_value_per_silo": 11.2,
                "aggregate_alone_ns_per_value_per_silo": 4.56,
                "open_ns_per_value": 90.0,
                "round_seconds": [3.96, 1.84],
                "aggregator_idle_rss_mb": 101.2,
                "silo_idle_rss_mb": 120.3,
                "aggregator_peak_rss_mb": 263.7,
                "silo_peak_rss_mb": 330.4,
                "max_abs_error": 3.0,
                "grid_step": 4.0,
            }
        )
    )
    for line in ("4.039 bytes a value", "79.8 ns a value", "3.96, 1.84 s", "264 MB", "0.75 grid steps", "4 silos",
                 "3.123 bytes a value", "12.3 ns a value", "4.6 ns a value and silo", "101 MB", "120 MB",
                 "ckks-multikey (small)"):  # fmt: skip
        assert line in text


MEMBERS = [RosterMember(name=f"silo-{i:02}", identity_key=f"{i:064x}") for i in range(1, 5)]


def plan_of(silos, suite):
    tables = tomllib.loads(job_text(100_000, silos, suite, 2, 16))
    members = Membership("bench", RosterMember(name="aggregator", identity_key="f" * 64), tuple(MEMBERS[:silos]))
    wanted = validated(RehearsalFile, tables, "job file")
    return rehearsal_plan(wanted, members, members.silos, datetime(2026, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize(
    ("silos", "named", "got"),
    [(3, None, "ckks-group"), (4, None, "ckks-multikey"), (4, Suite.CKKS_GROUP, "ckks-group")],
)
def test_the_machinery_is_tried_with_the_usual_suite_and_all_silos_in_every_sum(silos, named, got):
    plan = plan_of(silos, named)
    assert plan.suite.value == got
    assert plan.cohort.minimum == silos


def test_the_pads_are_part_of_protecting_but_not_of_what_comes_after_training():
    line = {"values": 100_000, "quantise_ns": 500_000, "seal_ns": 1_000_000, "pad_ns": 4_000_000}
    lines = [line, {**line, "pad_ns": 9_000_000, "seal_ns": 2_000_000}, line]
    figures = protect_figures(plan_of(4, None), lines)
    assert figures["quantise_ns_per_value"] == 5.0
    assert figures["protect_ns_per_value"] == 50.0
    assert figures["protect_after_training_ns_per_value"] == 10.0


@pytest.mark.parametrize("suite", list(Suite))
def test_ciphertext_is_counted_without_headers_shares_and_transport(suite):
    plan = plan_of(4, suite)
    layout, line = layout_of(plan), {"values": 100_000, "quantise_ns": 1, "seal_ns": 1, "pad_ns": 0}
    seeds = 64 * layout.blocks if suite is Suite.CKKS_GROUP else 0
    found = protect_figures(plan, [line])["ciphertext_bytes_per_value"]
    assert found == (layout.residue_bytes + seeds) / 100_000


def test_accuracy_stands_beside_every_baseline():
    figures = {"mean_accuracy": 0.797, "mean_accuracy_deviation": 0.012, "pooled_auc": 0.843,
               "pooled_auc_deviation": 0.002}  # fmt: skip
    found = dict.fromkeys(VARIANTS, figures) | {"seeds": 5, "majority": {"va": 0.7, "cleveland": 0.8}}
    found["adapters_and_head_epsilon"] = {"va": 1.9, "cleveland": 1.99}
    lines = text_of(heart_table(found)).splitlines()
    assert sum("0.797 (0.012)" in line and "0.843 (0.002)" in line for line in lines) == len(VARIANTS)
    assert any("adapters and head, DP" in line and "1.9900" in line for line in lines)
    assert any("majority" in line and "0.750" in line for line in lines)


def test_steps_are_given_in_plain_steps():
    found = {"records": 60, "max_tokens": 80, "layers": [4, 5], "values": 3840, "steps": 9, "prepare_seconds": 2.12}
    found |= {"plain_step_seconds": 1.627, "dp_step_seconds": 1.646, "dp_cached_step_seconds": 0.849}
    found |= {"plain_over_plain": 1.0, "dp_over_plain": 1.0118, "dp_cached_over_plain": 0.5216}
    text = text_of(training_table(found))
    for figure in ("1.627 s", "1.01", "0.849 s", "0.52", "2.1 s", "median of 9 steps"):
        assert figure in text


def test_an_audit_says_what_is_above_the_claim():
    subjects = [
        {"subject": "as shipped", "means": "as it is", "planted": False, "bound": 0.4, "claimed": 2.0},
        {"subject": "no noise", "means": "DP off", "planted": True, "bound": 4.8, "claimed": 2.0},
    ]
    found = {"delta": 1e-3, "runs": 1000, "confidence": 0.95, "subjects": subjects}
    text = text_of(audit_table(found))
    shipped, broken = (next(line for line in text.splitlines() if name in line) for name in ("as shipped", "no noise"))
    assert "2.00" in shipped
    assert "0.40" in shipped
    assert "above" not in shipped
    assert "4.80" in broken
    assert "above the claim" in broken


@pytest.mark.parametrize("suite", list(Suite))
def test_the_aggregators_part_alone_adds_up_what_the_aggregator_would(suite, tmp_path):
    layout = layout_of(plan_of(4, suite))
    assert aggregate_alone(layout, 4, tmp_path) > 0
    whole = [layout.empty_sum(), layout.empty_sum()]
    for sums, name in zip(whole, ("update", "sum"), strict=True):
        for index, chunk in enumerate(read_chunks(tmp_path / name, layout.chunk_bytes(0))):
            layout.add(sums, index, layout.check(chunk, index))
    update, total = (each.reshape(-1, len(layout.moduli), layout.degree).astype(object) for each in whole)
    assert (4 * update % np.array(layout.moduli, object).reshape(-1, 1) == total).all()


def test_a_ledger_is_measured_whole_and_every_figure_has_its_unit(tmp_path):
    found = bench_ledger(300, 50, tmp_path, lambda _: None)
    assert all(figure > 0 for figure in found.values())
    assert (found["entries"], found["batch"], found["checkpoints"]) == (300, 50, 4)
    made = dict.fromkeys(found, 0.1) | {"entries": 1_000_000, "batch": 50, "checkpoints": 1001}
    made |= {"append_per_second": 12_345.6, "verify_per_second": 54_321.0, "inclusion_proof_ms": 1.234}
    made |= {"verify_seconds": 18.4, "inclusion_proof_99_of_100_ms": 2.5}
    text = text_of(ledger_table(made))
    for figure in ("1000000 entries", "50 to a transaction", "12346 entries a second", "54321 entries a second",
                   "1.23 (2.50) ms", "1001 checkpoints", "0.1 of 18.4 s"):  # fmt: skip
        assert figure in text
