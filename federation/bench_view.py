"""How the benchmarks' figures read to a person."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runtime.console import table

if TYPE_CHECKING:
    from rich.console import RenderableType

VARIANTS = {
    "adapters_and_head": "adapters and head, DP",
    "head_only": "head alone, DP",
    "without_privacy": "adapters and head, together, no DP",
    "local_only": "adapters and head, each alone, no DP",
}


def aggregation_table(found: Mapping[str, Any]) -> "RenderableType":
    """The figures of `bench aggregation`, each with its unit."""
    rows = [
        ("upload of one silo", f"{found['upload_bytes_per_value']:.3f} bytes a value"),
        ("of that, ciphertext", f"{found['ciphertext_bytes_per_value']:.3f} bytes a value"),
        ("round to the grid", f"{found['quantise_ns_per_value']:.1f} ns a value"),
        ("encode, encrypt, serialise", f"{found['protect_ns_per_value']:.1f} ns a value"),
        ("of that, after training", f"{found['protect_after_training_ns_per_value']:.1f} ns a value"),
        ("aggregator: check and add", f"{found['aggregate_ns_per_value_per_silo']:.1f} ns a value and silo"),
        ("the same, alone", f"{found['aggregate_alone_ns_per_value_per_silo']:.1f} ns a value and silo"),
        ("open", f"{found['open_ns_per_value']:.1f} ns a value"),
        ("whole rounds", ", ".join(f"{seconds:.2f}" for seconds in found["round_seconds"]) + " s"),
        ("idle memory, aggregator", f"{found['aggregator_idle_rss_mb']:.0f} MB"),
        ("idle memory, largest silo", f"{found['silo_idle_rss_mb']:.0f} MB"),
        ("peak memory, aggregator", f"{found['aggregator_peak_rss_mb']:.0f} MB"),
        ("peak memory, largest silo", f"{found['silo_peak_rss_mb']:.0f} MB"),
        ("largest error of a mean", f"{found['max_abs_error'] / found['grid_step']:.2f} grid steps"),
    ]
    suite = f"{found['suite']} ({found['parameters']})"
    title = f"{suite}: {found['values']} values, {found['silos']} silos, {found['rounds']} rounds"
    return table(("what", "figure"), rows, title=title)


def heart_table(found: Mapping[str, Any]) -> "RenderableType":
    """Means and deviations over the seeds, of every variant on the same split."""
    rows = []
    for key, words in VARIANTS.items():
        epsilon = found.get(f"{key}_epsilon")
        rows.append(
            (
                words,
                f"{found[key]['mean_accuracy']:.3f} ({found[key]['mean_accuracy_deviation']:.3f})",
                f"{found[key]['pooled_auc']:.3f} ({found[key]['pooled_auc_deviation']:.3f})",
                f"{max(epsilon.values()):.4f}" if epsilon else "-",
            )
        )
    majority = found["majority"].values()
    rows.append(("majority class of each hospital", f"{sum(majority) / len(majority):.3f}", "-", "-"))
    title = f"Held-out records of four hospitals, {found['seeds']} seeds: mean (deviation)"
    return table(("variant", "mean accuracy", "pooled AUC", "epsilon"), rows, title=title)


def training_table(found: Mapping[str, Any]) -> "RenderableType":
    """Seconds of a step, and how many plain steps that is."""
    names = {"plain": "plain SGD", "dp": "DP-SGD, every layer run", "dp_cached": "DP-SGD, frozen layers cached"}
    rows = [
        (words, f"{found[f'{name}_step_seconds']:.3f} s", f"{found[f'{name}_over_plain']:.2f}")
        for name, words in names.items()
    ]
    rows.append(("prepare a job, the self-test among it", f"{found['prepare_seconds']:.1f} s", ""))
    title = (
        f"{found['records']} records of {found['max_tokens']} tokens, layers {found['layers']}, {found['values']}"
        f" values, one core: median of {found['steps']} steps"
    )
    return table(("step", "takes", "over plain"), rows, title=title)


def audit_table(found: Mapping[str, Any]) -> "RenderableType":
    """The lower bound of every subject beside its claim."""
    rows = [
        (
            each["subject"],
            each["means"],
            f"{each['claimed']:.2f}",
            f"{each['bound']:.2f}",
            "above the claim" if each["bound"] > each["claimed"] else "",
        )
        for each in found["subjects"]
    ]
    title = (
        f"epsilon at delta {found['delta']:g}: claimed (RDP), and at least what {found['runs']} runs with and without a"
        f" canary show, each at {found['confidence']:.0%} confidence"
    )
    return table(("engine", "what it means", "claimed", "at least", ""), rows, title=title)


def ledger_table(found: Mapping[str, Any]) -> "RenderableType":
    """The figures of `bench ledger`, each with its unit."""
    rows = [
        (f"append, {found['batch']} to a transaction", f"{found['append_per_second']:.0f} entries a second"),
        ("append, each in its own transaction", f"{found['append_alone_per_second']:.0f} entries a second"),
        *(
            (
                f"{kind} proof, median (99 of 100)",
                f"{found[f'{kind}_proof_ms']:.2f} ({found[f'{kind}_proof_99_of_100_ms']:.2f}) ms",
            )
            for kind in ("inclusion", "consistency")
        ),
        ("check of all at start-up", f"{found['check_seconds']:.1f} s"),
        ("bundle", f"{found['bundle_bytes_per_entry']:.0f} bytes an entry"),
        ("see that the bundle is whole", f"{found['open_bundle_seconds']:.1f} s"),
        ("verify, one core", f"{found['verify_per_second']:.0f} entries a second"),
        (
            f"of that, {found['checkpoints']} checkpoints' signatures",
            f"{found['of_that_signatures_seconds']:.1f} of {found['verify_seconds']:.1f} s",
        ),
    ]
    return table(("what", "figure"), rows, title=f"Ledger of {found['entries']} entries")
