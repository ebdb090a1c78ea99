"""The heart sweep's parts, on figures made up here; the sweep itself is a benchmark."""

import io

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from federation.heart.sweep import ALGORITHMS, _auc, auc_interval, pooled
from federation.heart.sweep_view import draw, sweep_table
from silo_agent.train import Evaluation
from tests.tiny import tiny_dataset


def evaluations(seed, shift, records=60):
    bits = np.random.default_rng(seed)
    found = {}
    for name in ("east", "west"):
        labels = np.arange(records) % 2
        scores = np.clip(bits.normal(0.5, 0.2, records) + shift * (labels - 0.5), 0, 1)
        rows = tuple((1 - score, score) for score in scores.tolist())
        found[name] = Evaluation(0.5, 0.7, tuple(labels.tolist()), rows)
    return found


def test_the_auc_is_scikit_learns_ties_included():
    bits = np.random.default_rng(1)
    for _ in range(20):
        labels, scores = bits.integers(0, 2, 50), bits.integers(0, 8, 50) / 8
        assert _auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_the_interval_holds_the_figure_and_is_narrower_with_more_records():
    runs = [evaluations(seed, 0.2) for seed in range(3)]
    low, high = auc_interval(runs)
    assert (low, high) == auc_interval(runs)
    aucs = []
    for each in runs:
        labels = [label for e in each.values() for label in e.labels]
        aucs.append(roc_auc_score(labels, [row[1] for e in each.values() for row in e.probabilities]))
    assert low < np.mean(aucs) < high
    many_low, many_high = auc_interval([evaluations(seed, 0.2, 600) for seed in range(3)])
    assert many_high - many_low < (high - low) / 2


def test_scores_that_know_nothing_have_an_interval_around_a_half():
    low, high = auc_interval([evaluations(5, 0.0)])
    assert low < 0.5 < high


def test_pooling_keeps_every_record_and_makes_each_a_unit():
    both = pooled([tiny_dataset(40), tiny_dataset(30)])
    assert len(both.training.texts) == both.training.unit_count == 70
    assert both.held_out.unit_count == 0


def test_the_algorithms_are_what_they_are_called():
    named = {algorithm.name: algorithm for algorithm in ALGORITHMS}
    assert named["FedProx"].proximal > 0 == named["FedAvg"].proximal
    kinds = {name: algorithm.server.fixed().kind for name, algorithm in named.items()}
    shared = "FedAvg, shared noise"
    assert kinds == {"FedAvg": "mean", shared: "mean", "FedProx": "mean", "FedAdam": "adam", "FedYogi": "yogi"}
    assert [name for name, algorithm in named.items() if algorithm.noise == "shared"] == [shared]


NAMES = [algorithm.name for algorithm in ALGORITHMS]
LINE = {"mean_accuracy": 0.797, "mean_accuracy_deviation": 0.012, "pooled_auc": 0.843}
LINE |= {"pooled_auc_low": 0.79, "pooled_auc_high": 0.888}


def found():
    lines = [{"algorithm": name, "epsilon": None, "spent": None, **LINE} for name in ("each alone", *NAMES)]
    lines += [
        {"algorithm": name, "epsilon": epsilon, "spent": epsilon - 0.001, **LINE}
        for name in NAMES
        for epsilon in (1.0, 2.0)
    ]
    return {"seeds": 5, "majority": {"va": 0.7, "cleveland": 0.8}, "lines": lines}


def test_the_table_has_every_line_and_what_was_published():
    sink = io.StringIO()
    Console(file=sink, width=140).print(sweep_table(found()))
    text = sink.getvalue()
    assert text.count("0.797 (0.012)") == text.count("0.843 (0.790-0.888)") == 16
    assert "1.9990" in text
    assert "0.750" in text
    assert "FLamby's best federated" in text


def test_the_plot_is_the_same_bytes_for_the_same_figures(tmp_path):
    for name in "ab":
        draw(found(), tmp_path / name)
    plot = (tmp_path / "a").read_bytes()
    assert plot == (tmp_path / "b").read_bytes()
    assert plot.startswith(b"<?xml")
    assert b"<svg" in plot
