"""The heart sweep as a table and as a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.console import table

if TYPE_CHECKING:
    from rich.console import RenderableType

# FLamby's own table for Fed-Heart-Disease (du Terrail et al., NeurIPS 2022 Datasets and Benchmarks): mean accuracy of
# the four centres at 0.5. Its features are 13 numbers and its model a logistic regression.
PUBLISHED = {"FLamby's FedAvg": 0.685, "FLamby's best federated": 0.731, "FLamby's pooled": 0.735}


def sweep_table(found: Mapping[str, Any]) -> "RenderableType":
    """Every line, the majority class, and what FLamby published."""
    rows = [
        (
            line["algorithm"],
            "-" if line["epsilon"] is None else f"{line['epsilon']:g}",
            "-" if line["spent"] is None else f"{line['spent']:.4f}",
            f"{line['mean_accuracy']:.3f} ({line['mean_accuracy_deviation']:.3f})",
            f"{line['pooled_auc']:.3f} ({line['pooled_auc_low']:.3f}-{line['pooled_auc_high']:.3f})",
        )
        for line in found["lines"]
    ]
    majority = found["majority"].values()
    rows.append(("majority class of each hospital", "-", "-", f"{sum(majority) / len(majority):.3f}", "-"))
    rows += [(name, "-", "-", f"{accuracy:.3f}", "-") for name, accuracy in PUBLISHED.items()]
    heads = ("algorithm", "epsilon at most", "spent (RDP)", "mean accuracy (deviation)", "pooled AUC (95 %)")
    return table(heads, rows, title=f"Held-out records of four hospitals, {found['seeds']} seeds")


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Mean accuracy and pooled AUC over epsilon, a line for each algorithm; dashed what has no privacy. An SVG file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "cloister"  # the same bytes for the same figures
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    private = [line for line in found["lines"] if line["epsilon"] is not None]
    for axis, key, words in zip(axes, ("mean_accuracy", "pooled_auc"), ("mean accuracy", "pooled AUC"), strict=True):
        for name in dict.fromkeys(line["algorithm"] for line in private):
            lines = [line for line in private if line["algorithm"] == name]
            axis.plot([line["epsilon"] for line in lines], [line[key] for line in lines], marker="o", label=name)
        for name, style in (("FedAvg", "--"), ("each alone", ":")):
            level = next(line[key] for line in found["lines"] if line["algorithm"] == name and line["epsilon"] is None)
            axis.axhline(level, linestyle=style, color="grey", label=f"{name}, no privacy")
        axis.set_xscale("log", base=2)
        axis.set_xticks([line["epsilon"] for line in private], [f"{line['epsilon']:g}" for line in private])
        axis.set_xlabel("epsilon (RDP) at delta 0.001, a hospital")
        axis.set_ylabel(words)
    axes[0].legend(fontsize="small")
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
