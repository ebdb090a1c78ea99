"""The demo's report: one HTML file with plots in it, nothing fetched from anywhere."""

import io
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATE = "report.html.j2"
BASELINES = ("majority", "local_only", "without_privacy")
COLOURS = ("#2b6cb0", "#b7791f", "#2f855a", "#9b2c2c")


def write_report(path: Path, found: dict[str, Any]) -> None:
    """Write the page from the demo's JSON object."""
    from jinja2 import Environment

    from federation.demo_view import aggregator_sentence, collusion_sentence

    figures = [_svg(lambda axes: _accuracies(axes, found)), _svg(lambda axes: _by_round(axes, found))]
    figures += [_svg(lambda axes: _budgets(axes, found)), _svg(lambda axes: _round_seconds(axes, found))]
    template = Environment(autoescape=True).from_string((files("federation") / TEMPLATE).read_text(encoding="utf-8"))
    page = template.render(
        **found,
        figures=figures,
        keys=BASELINES,
        n=lambda value: "-" if value is None else f"{value:.3f}",
        aggregator_sentence=aggregator_sentence(found),
        collusion_sentence=collusion_sentence(found),
        raw=json.dumps(found, indent=1),
    )
    path.write_text(page, encoding="utf-8")


def _svg(draw: "Callable[[Axes], None]") -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]


def _accuracies(axes: "Axes", found: dict[str, Any]) -> None:
    names = list(found["silos"])
    series = {"federated, private": [found["silos"][name]["accuracy"] for name in names]}
    series |= {
        key.replace("_", " "): [found["baselines"][key]["accuracy"][name] for name in names] for key in BASELINES
    }
    width = 0.8 / len(series)
    for i, ((label, heights), colour) in enumerate(zip(series.items(), COLOURS, strict=True)):
        axes.bar([x + i * width for x in range(len(names))], heights, width, label=label, color=colour)
    axes.set_xticks([x + 1.5 * width for x in range(len(names))], names)
    axes.set_ylim(0.0, 1.2)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_title("Held-out accuracy")
    axes.legend(fontsize=7, ncols=2, loc="upper left")


def _by_round(axes: "Axes", found: dict[str, Any]) -> None:
    for (name, silo), colour in zip(found["silos"].items(), COLOURS, strict=True):
        rounds = range(1, len(silo["accuracy_by_round"]) + 1)
        axes.plot(rounds, silo["accuracy_by_round"], marker="o", markersize=3, label=name, color=colour)
    axes.set_title("Held-out accuracy after each round")
    axes.set_xlabel("round")
    axes.set_xticks([row["round"] for row in found["rounds"]])
    axes.legend(fontsize=7)


def _budgets(axes: "Axes", found: dict[str, Any]) -> None:
    names = list(found["silos"])
    spent = [found["silos"][name]["epsilon"] for name in names]
    axes.barh(names, spent, color=COLOURS[0], label="spent")
    axes.barh(names, [found["silos"][name]["budget_left"] for name in names], left=spent, color="#cbd5e0", label="left")
    axes.set_title("Lifetime budget, epsilon (RDP)")
    axes.set_ylim(-0.6, len(names) + 0.1)
    axes.legend(fontsize=7, ncols=2, loc="upper left")


def _round_seconds(axes: "Axes", found: dict[str, Any]) -> None:
    axes.bar(
        [str(row["round"]) for row in found["rounds"]], [row["seconds"] for row in found["rounds"]], color=COLOURS[2]
    )
    axes.set_title("Seconds per round")
    axes.set_xlabel("round")
