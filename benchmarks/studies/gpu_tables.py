"""Section of the report for the measurements on a GPU."""

from __future__ import annotations

from .tables import markdown_table

NAMES = {"32-true": "fp32", "bf16-mixed": "bf16"}


def gpu_section(records: list[dict], scored: list[dict]) -> list[str]:
    """Throughput by model, size of minibatches and precision; scores by precision."""
    if not records and not scored:
        return []
    device = (records or scored)[-1]["device"]
    lines = ["### On a GPU", "", f"One {device} (`python -m benchmarks gpu`)."]
    if records:
        lines += ["", *_rates(records)]
    if scored:
        lines += ["", *_scores(scored)]
    return ["\n".join(lines)]


def _rates(records: list[dict]) -> list[str]:
    newest = {(r["method"], r["task"], r["batch_size"], r["precision"]): r for r in records}
    rows = [
        [
            r["method"],
            r["task"],
            str(r["batch_size"]),
            NAMES[r["precision"]],
            f"{r['train_cells_per_s']:,.0f}",
            f"{r['latent_cells_per_s']:,.0f}",
            "" if r["utilisation"] is None else f"{r['utilisation']:.0f}",
            f"{r['memory_mib']:,.0f}",
        ]
        for r in newest.values()
    ]
    heads = ["model", "data", "cells per step", "precision", "training (cells/s)"]
    heads += ["latent space (cells/s)", "GPU busy (%)", "GPU memory (MiB)"]
    text = (
        "Training: the fastest epoch after the first, loading included. Busy: share of time in "
        "which a kernel ran, sampled during training."
    )
    return [text, "", *markdown_table(heads, rows)]


def _scores(scored: list[dict]) -> list[str]:
    newest = {(_title(r), r["task"], r["precision"]): r for r in scored}
    names = {"ari": "ARI", "nmi": "NMI", "silhouette": "silhouette", "knn_acc": "kNN acc."}
    rows = [
        [title, task, NAMES[precision], *(f"{r['scores'][name]:.3f}" for name in names)]
        for (title, task, precision), r in newest.items()
    ]
    heads = ["model", "data", "precision", *names.values()]
    text = "A whole training, one run in full and one in mixed precision:"
    return [text, "", *markdown_table(heads, rows)]


def _title(record: dict) -> str:
    """The model, with what differs from its defaults."""
    settings = record.get("settings", {}).get("model", {})
    return ", ".join([record["method"], *(f"{name}={value}" for name, value in settings.items())])
