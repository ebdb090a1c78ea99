"""What the demo shows and writes, from figures made up here."""

import io
from typing import get_args

from rich.console import Console

from federation.demo import unused_folder
from federation.demo_results import _contains, _pieces, _round
from federation.demo_view import (
    DOING,
    _short,
    _silo_table,
    aggregator_sentence,
    collusion_sentence,
    results_table,
    sentences,
)
from federation.report import write_report
from silo_agent.round_states import State

NAMES = ("cleveland", "hungarian", "switzerland", "va")


def found(**changes):
    def baseline(figure, auc):
        return {"accuracy": dict.fromkeys(NAMES, figure), "mean_accuracy": figure, "pooled_auc": auc}

    silo = {
        "accuracy": 0.8125, "accuracy_by_round": [0.7, 0.8125], "epsilon": 1.987, "epsilon_pld": 1.7, "delta": 1e-3,
        "budget_epsilon": 3.0, "budget_left": 1.013, "ledger_entries": 17, "ledger_verified": True, "bytes_sent": 9000,
    }  # fmt: skip
    row = {"round": 1, "phase": "PUBLISHED", "seconds": 4.5, "members": list(NAMES), "upload_bytes_per_silo": 9001,
           "upload_bytes_per_value": 4.02}  # fmt: skip
    saw = {"files": 12, "bytes": 1, "opening_libraries_loaded": [], "adapter_found": [], "bytes_received": 36_004}
    return {
        "job": "ab" * 32, "suite": "ckks-group", "parameters": "group", "values": 2000,
        "ciphertext_bytes_per_value": 16.4, "rounds": [row, {**row, "round": 2}],
        "silos": {name: dict(silo) for name in NAMES}, "mean_accuracy": 0.8125, "pooled_auc": 0.845,
        "baselines": {"majority": baseline(0.721, None), "local_only": baseline(0.79, 0.83),
                      "without_privacy": baseline(0.81, 0.85)},
        "aggregator": saw, "adapter_path": "/a/adapter", "report_path": "/a/report.html", "seconds": 61.2,
        "promises": {"aggregator alone learns": "nothing", "aggregator + 1 silo learn": "EVERY update of the job",
                     "a lying aggregator": "is found before anything is opened"},
        **changes,
    }  # fmt: skip


def text_of(renderable, width=160):
    sink = io.StringIO()
    Console(file=sink, width=width).print(renderable)
    return sink.getvalue()


def test_the_table_has_every_hospital_and_every_baseline():
    text = text_of(results_table(found()))
    for expected in (*NAMES, "0.812", "1.9870", "1.013", "0.721", "0.790", "0.845", "0.850"):
        assert expected in text


def test_the_sentences_say_what_collusion_would_read_and_what_a_lying_aggregator_gets():
    text = "\n".join(sentences(found()))
    assert "EVERY update" in text
    assert "A lying aggregator is found before anything is opened." in text
    assert text.count("verified offline") == 4
    assert "1.987 of 3 spent" in text


def test_what_collusion_would_learn_is_a_sentence_for_either_suite():
    group = "EVERY update of the job (all 4 silos hold the cohort's key)"
    assert collusion_sentence(found(promises={"aggregator + 1 silo learn": group})) == (
        "Suite ckks-group: the aggregator with one hospital could learn EVERY update of the job "
        "(all 4 hospitals hold the cohort's key)."
    )
    multikey = "the sum less that silo's own update: nobody can open one update"
    keyed = found(suite="ckks-multikey", promises={"aggregator + 1 silo learn": multikey})
    assert collusion_sentence(keyed) == (
        "Suite ckks-multikey: the aggregator with one hospital could learn the sum less that hospital's own update: "
        "nobody can open one update."
    )


def test_what_the_aggregator_saw_is_not_prettified():
    bad = found(
        aggregator={**found()["aggregator"], "opening_libraries_loaded": ["torch"], "adapter_found": ["blobs/1"]}
    )
    assert "had loaded torch" in aggregator_sentence(bad)
    assert "found in blobs/1" in aggregator_sentence(bad)
    assert "found in none of them" in aggregator_sentence(found())


def test_the_report_stands_alone_and_escapes(tmp_path):
    nasty = found(adapter_path="/tmp/<script>alert(1)</script>")
    write_report(tmp_path / "report.html", nasty)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert "src=" not in page
    assert "1.9870" in page
    assert "could learn EVERY update of the job." in page
    assert "16.40 bytes a value are ciphertext" in page


def test_a_status_in_one_line():
    status = {
        "job_phase": "RUNNING",
        "round": 2,
        "rounds": 5,
        "phase": "Reserved",
        "step": 1,
        "steps": 2,
        "epsilon_spent": 0.4,
    }
    assert _short("va", status) == "va: 2/5 trains 1/2, epsilon 0.40"
    assert _short("va", {}) == "va: connected"


def test_what_a_hospital_does_has_words_in_every_state_of_a_round():
    assert {state.__name__ for state in get_args(State)} == DOING.keys()


def test_the_live_display_fits_a_narrow_terminal_and_says_nothing_of_a_budget_that_it_has_not_seen():
    fresh = {"job": "ab", "round": 0, "rounds": 5, "epsilon_spent": 0.0, "epsilon_left": 0.0, "epsilon_cap": 0.0}
    busy = {"round": 2, "rounds": 5, "phase": "Submitted", "step": 2, "steps": 2, "epsilon_spent": 1.223,
            "epsilon_left": 1.777, "epsilon_cap": 3.0, "bytes_sent": 3_336_300, "job_phase": "RUNNING"}  # fmt: skip
    statuses = dict.fromkeys(NAMES, busy) | {"va": fresh}
    lines = text_of(_silo_table(statuses), width=76).splitlines()
    assert sum("waits for the sum" in line and "1.223" in line and "3.34 MB" in line for line in lines) == 3
    unknown = next(line for line in lines if "checks the job" in line)
    assert "0.000" not in unknown
    assert not any("…" in line for line in lines)


def test_the_demo_can_be_run_again_and_again(tmp_path):
    names = []
    for _ in range(3):
        folder = unused_folder(tmp_path / "cloister-demo")
        names.append(folder.name)
        folder.mkdir()
    assert names == ["cloister-demo", "cloister-demo-2", "cloister-demo-3"]


def test_pieces_of_an_adapter_are_found_where_they_are():
    adapter = bytes(range(1, 251)) * 40
    pieces = _pieces(adapter)
    assert 60 <= len(pieces) <= 70
    assert _contains(b"x" + adapter[4000:4400] + b"y", pieces)
    assert not _contains(bytes(10_000), pieces)


def test_an_aborted_round_has_no_upload_per_silo():
    row = {"round": 1, "phase": "ABORTED", "seconds": 1.0, "members": [], "bytes_received": 55}
    assert _round(row, 0, 100)["upload_bytes_per_silo"] == 0
