"""Sections of the report for the studies."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from benchmarks.tasks import TASKS

SHOWN = {
    "T1": ("ari", "nmi", "silhouette", "knn_acc"),
    "T1b": ("accuracy", "macro_f1", "ari", "nmi"),
    "T2": ("ari", "nmi", "knn_acc", "transfer", "entropy", "ilisi"),
}


def markdown_table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)] + [
        "| " + " | ".join(row) + " |" for row in rows
    ]


def ablation_section(records: list[dict]) -> list[str]:
    """Median scores of every variant, and the change against the default."""
    if not records:
        return []
    lines = [
        "## Ablations",
        "",
        "One default changed at a time (`python -m benchmarks ablate vae` and `mae`); medians over seeds, the change against the default in brackets.",
    ]
    grouped: dict = defaultdict(lambda: defaultdict(dict))
    for record in records:  # a later run of the same seed replaces an earlier one
        grouped[record["study"], record["task"]][record["variant"]][record["seed"]] = record
    for (study, task), variants in grouped.items():
        names = SHOWN.get(task, tuple(TASKS[task].columns)[:6])
        median = {
            variant: {n: _median(members.values(), n) for n in names}
            for variant, members in variants.items()
        }
        base, rows = median.get("default"), []
        for variant, members in variants.items():
            cells = []
            for name in names:
                value = median[variant][name]
                text = "" if np.isnan(value) else f"{value:.3f}"
                if base and variant != "default" and text:
                    text += f" ({value - base[name]:+.3f})"
                cells.append(text)
            seconds = np.median([m.get("seconds", np.nan) for m in members.values()])
            rows.append([variant, *cells, str(len(members)), f"{seconds:.3g}"])
        model = {"vae": "MaskedVAE", "mae": "CrossAttentionMAE"}[study]
        heads = [model, *(TASKS[task].columns[n] for n in names), "seeds", "training (s)"]
        lines += ["", f"### {model} on {task}", "", *markdown_table(heads, rows)]
    return ["\n".join(lines)]


def _median(records, name: str) -> float:
    found = [r["scores"][name] for r in records if isinstance(r.get("scores", {}).get(name), float)]
    return float(np.median(found)) if found else float("nan")


def speed_section(records: list[dict]) -> list[str]:
    """Cells per second and ratios."""
    if not records:
        return []
    measured = defaultdict(list)
    for record in records:
        measured[record["comparison"], record["machine"]["threads"]].append(record)
    rows, newest = [], [members[-1] for members in measured.values()]
    for (_, threads), (*earlier, record) in measured.items():
        ours, other = record["ours"], record["other"]
        for quantity, title in (
            ("train_cells_per_s", "training"),
            ("latent_cells_per_s", "latent space"),
        ):
            if quantity not in record["best"][ours]:
                continue
            former = [r for r in earlier if quantity in r["best"][ours]]
            before = [r["best"][ours][quantity] / r["best"][other][quantity] for r in former]
            a, b = (record["best"][name][quantity] for name in (ours, other))
            c, d = (record["median"][name][quantity] for name in (ours, other))
            rows.append(
                [
                    f"{ours} / {other}",
                    f"{record['task']} ({record['cells']:,} cells)",
                    title,
                    str(threads),
                    f"{a:,.0f}",
                    f"{b:,.0f}",
                    f"**{a / b:.1f}**",
                    f"{c / d:.1f}",
                    f"{min(before):.1f}–{max(before):.1f}" if before else "",
                ]
            )
    heads = [
        "pair",
        "data",
        "what",
        "threads",
        "ours (cells/s)",
        "other (cells/s)",
        "ratio of the best",
        "ratio of medians",
        "earlier ratios",
    ]
    batch = newest[0]["batch_size"]
    repeats = " or ".join(str(n) for n in sorted({r["repeats"] for r in newest}))
    text = (
        f"Cells per second at equal minibatches of {batch} cells, each measurement in a process of its own, the two methods in turns, "
        f"{repeats} times each (`python -m benchmarks speed`). Training: the fastest epoch after the first, data loading included. With one thread processor time "
        "counts, with more real time. For "
        "CrossAttentionMAE and its preset `scmmae` single training steps are timed, since an epoch of the preset takes far too long. "
        "Earlier ratios are those of former versions, and of whatever processor the machine had on that day: how fast it multiplies matrices "
        "(see Roofline) matters more to ours."
    )
    return ["\n".join(["## Speed", "", text, "", *markdown_table(heads, rows)])]


# Whose final NMI ours has to reach, and on which task.
TO_REACH = (("T1", "totalVI"), ("T4", "MULTIVI"))


def quality_section(runs: list[dict], cut: list[dict]) -> list[str]:
    """Processor time of our shortest training that has the final NMI of a peer."""
    grouped = defaultdict(list)
    for run in [*runs, *cut]:
        if "scores" in run:
            epochs = run["settings"].get("max_epochs")
            grouped[run["task"], run["method"], epochs].append(run)
    rows = []
    for task, peer in TO_REACH:
        for (_, _, shortened), others in _of(grouped, task, peer):
            goal, spent = _median(others, "nmi"), _seconds(others)
            for _, members in sorted(_of(grouped, task, "MaskedVAE"), key=lambda m: _seconds(m[1])):
                if (nmi := _median(members, "nmi")) >= goal:
                    rows.append(
                        [
                            task,
                            peer if shortened is None else f"{peer}, cut to {shortened} epochs",
                            f"{goal:.3f}",
                            f"{spent:.0f}",
                            str(members[0]["epochs"]),
                            f"{nmi:.3f}",
                            f"{_seconds(members):.1f}",
                            f"**{spent / _seconds(members):.0f}**",
                        ]
                    )
                    break
    if not rows:
        return []
    heads = [
        "data",
        "peer",
        "its NMI",
        "its training (CPU s)",
        "epochs of MaskedVAE",
        "NMI",
        "training (CPU s)",
        "ratio",
    ]
    text = (
        "MaskedVAE was trained for a few numbers of epochs (`python -m benchmarks run T1 --methods MaskedVAE --epochs 8`); shown is the least whose median NMI over "
        "seeds is that of the peer's whole training or more."
    )
    return ["\n".join(["### Time to a peer's quality", "", text, "", *markdown_table(heads, rows)])]


def _of(grouped: dict, task: str, method: str) -> list:
    return [item for item in grouped.items() if item[0][:2] == (task, method)]


def _seconds(records) -> float:
    return float(np.median([r.get("cpu_seconds", r["seconds"]) for r in records]))


def roofline_section(records: list[dict]) -> list[str]:
    """Attainable and measured time of a training step, and where the rest goes."""
    if not records:
        return []
    newest = {(r["task"], r["machine"]["threads"]): r for r in records}
    rows = [
        [
            task,
            str(threads),
            f"{r['flop_per_cell'] / 1e6:.2f}",
            f"{r['bytes_per_cell'] / 1e3:.0f}",
            f"{r['flop_per_byte']:.0f}",
            f"{r['product_gflops']:.0f}",
            f"{r['copy_gbytes']:.1f}",
            f"{r['product_ms']:.2f}",
            f"{r['movement_ms']:.2f}",
            f"{r['step_ms']:.2f}",
            f"{r['loading_ms']:.2f}",
            f"**{r['fraction']:.2f}**",
        ]
        for (task, threads), r in newest.items()
    ]
    heads = [
        "data",
        "threads",
        "MFLOP/cell",
        "kB/cell",
        "FLOP/byte",
        "products (GFLOP/s)",
        "copy (GB/s)",
        "products (ms/step)",
        "movement (ms/step)",
        "measured (ms/step)",
        "of it loading (ms)",
        "fraction of attainable",
    ]
    first = next(iter(newest.values()))
    text = (
        f"A training step of MaskedVAE with {first['batch_size']} cells against the machine (`python -m benchmarks roofline`). FLOP: matrix products of the linear "
        "layers, forward and backward, without those of zeros in the data. Bytes: stored values of the cells, activations and their gradients, weights and the optimiser's state. Rates are "
        "measured in the same process, products in the model's own shapes. Attainable is the longer of the two times; what a step takes beyond it are "
        "elementwise passes (likelihoods, transforms of the input), loading, and small operations:"
    )
    lines = ["## Roofline", "", text, "", *markdown_table(heads, rows), ""]
    operations = [f"`{name}` {share:.0%}" for name, share in first["operations"].items()]
    where = f"{next(iter(newest))[0]}, {next(iter(newest))[1]} thread(s)"
    lines += [
        f"Share of operations in a step by torch.profiler ({where}): {', '.join(operations)}."
    ]
    return ["\n".join(lines)]
