"""Real processes, real TLS: a small bench always, the demo among the slow tests."""

import json
import subprocess
import sys

import pytest


def cloister(*arguments, timeout_s):
    return subprocess.run(
        [sys.executable, "-m", "federation.cli", *arguments], capture_output=True, text=True, timeout=timeout_s
    )


def test_a_small_bench_measures_every_figure(tmp_path):
    done = cloister(
        "bench", "aggregation", "--values", "20000", "--silos", "2", "--rounds", "2", "--json",
        "--folder", str(tmp_path / "bench"), timeout_s=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["suite"] == "ckks-group"
    assert (found["values"], found["silos"], found["rounds"]) == (20000, 2, 2)
    assert len(found["round_seconds"]) == 2
    assert 0 < found["max_abs_error"] <= found["grid_step"]
    blocks = 3  # of 8192 values: 20000 are not a multiple, so the last is padded
    assert blocks * 32832 <= found["upload_bytes_per_value"] * 20000 <= blocks * 32832 + 2000
    for key in (
        "quantise_ns_per_value",
        "protect_ns_per_value",
        "aggregate_ns_per_value_per_silo",
        "open_ns_per_value",
    ):
        assert found[key] > 0
    for key in ("aggregator_peak_rss_mb", "silo_peak_rss_mb"):
        assert 30 < found[key] < 2000
    assert not any(path.name == "ready" for path in (tmp_path / "bench").rglob("*")), "the aggregator was not stopped"
    check_as_an_auditor(tmp_path)


NOT_THE_AUDITORS = (
    "torch", "tenseal", "opacus", "transformers", "peft", "safetensors", "pandas", "pyarrow", "randomgen", "numba",
    "grpc", "grpc_health", "google.protobuf", "huggingface_hub", "prometheus_client", "psutil", "tenacity",
    "matplotlib", "sklearn",
)  # fmt: skip


def check_as_an_auditor(folder):
    """`cloister ledger verify` with nothing importable but what the [auditor] extra installs."""
    out = folder / "ledger.zip"
    state = folder / "bench" / "silos" / "silo-01"
    done = cloister("ledger", "export", "--state", str(state), "--out", str(out), timeout_s=60)
    assert done.returncode == 0, done.stderr
    ca = folder / "bench" / "aggregator" / "ca" / "ca.pem"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_THE_AUDITORS!r}))\n"
        "from federation.cli import Root\nfrom runtime.console import run\n"
        f"sys.exit(run(Root(), ['ledger', 'verify', {str(out)!r}, '--ca', {str(ca)!r}, '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["verified"] is True


@pytest.mark.slow
def test_the_step_bench_measures_every_step():
    done = cloister("bench", "training", "--steps", "1", "--json", timeout_s=200)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["records"], found["layers"], found["plain_over_plain"]) == (60, [4, 5], 1.0)
    assert found["dp_over_plain"] == found["dp_step_seconds"] / found["plain_step_seconds"]
    assert found["dp_cached_step_seconds"] > 0
    assert found["prepare_seconds"] > 0


@pytest.mark.slow
def test_the_audit_attacks_every_subject():
    done = cloister("bench", "audit", "--runs", "50", "--json", timeout_s=200)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    subjects = {each["subject"]: each for each in found["subjects"]}
    assert len(subjects) == 11
    assert all(each["claimed_pld"] < each["claimed"] for each in subjects.values())
    assert all(each["bound"] < each["claimed"] for each in subjects.values() if not each["planted"])
    assert subjects["no noise"]["bound"] > 0.2  # a canary that is never drawn in ten steps of rate 0.1 cannot be told


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "something").touch()
    done = cloister("demo", "--folder", str(tmp_path), "--json", timeout_s=60)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["why"] == "is not empty"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo(tmp_path):
    done = cloister("demo", "--folder", str(tmp_path / "demo"), "--json", timeout_s=500)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert sorted(found["silos"]) == ["cleveland", "hungarian", "switzerland", "va"]
    for silo in found["silos"].values():
        assert silo["ledger_verified"]
        assert 1.9 < silo["epsilon"] <= 2.0
        assert silo["delta"] == 1e-3
        assert silo["epsilon"] + silo["budget_left"] == pytest.approx(silo["budget_epsilon"])
    assert all(row["phase"] == "PUBLISHED" and len(row["members"]) == 4 for row in found["rounds"])
    assert found["aggregator"]["opening_libraries_loaded"] == []
    assert found["aggregator"]["adapter_found"] == []
    assert found["mean_accuracy"] > found["baselines"]["majority"]["mean_accuracy"]
    assert (tmp_path / "demo" / "adapter" / "adapter_config.json").exists()
    assert "<svg" in (tmp_path / "demo" / "report.html").read_text()
