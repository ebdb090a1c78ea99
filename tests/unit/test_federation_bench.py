"""What the benchmarks print, from figures made up here."""

import io

from rich.console import Console

from federation.bench_view import VARIANTS, aggregation_table, heart_table


def text_of(renderable):
    sink = io.StringIO()
    Console(file=sink, width=120).print(renderable)
    return sink.getvalue()


def test_every_figure_of_the_machinery_has_its_unit():
    text = text_of(
        aggregation_table(
            {
                "suite": "ckks-group",
                "values": 1000,
                "silos": 4,
                "rounds": 2,
                "upload_bytes_per_value": 4.0388,
                "quantise_ns_per_value": 7.44,
                "protect_ns_per_value": 79.85,
                "aggregate_ns_per_value_per_silo": 11.2,
                "open_ns_per_value": 90.0,
                "round_seconds": [3.96, 1.84],
                "aggregator_peak_rss_mb": 263.7,
                "silo_peak_rss_mb": 330.4,
                "max_abs_error": 3.0,
                "grid_step": 4.0,
            }
        )
    )
    for line in ("4.039 bytes a value", "79.8 ns a value", "3.96, 1.84 s", "264 MB", "0.75 grid steps", "4 silos"):
        assert line in text


def test_accuracy_stands_beside_every_baseline():
    figures = {"mean_accuracy": 0.797, "mean_accuracy_deviation": 0.012, "pooled_auc": 0.843,
               "pooled_auc_deviation": 0.002}  # fmt: skip
    found = dict.fromkeys(VARIANTS, figures) | {"seeds": 5, "majority": {"va": 0.7, "cleveland": 0.8}}
    found["adapters_and_head_epsilon"] = {"va": 1.9, "cleveland": 1.99}
    lines = text_of(heart_table(found)).splitlines()
    assert sum("0.797 (0.012)" in line and "0.843 (0.002)" in line for line in lines) == len(VARIANTS)
    assert any("adapters and head, DP" in line and "1.9900" in line for line in lines)
    assert any("majority" in line and "0.750" in line for line in lines)
