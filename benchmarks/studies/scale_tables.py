"""Sections of the report on cells that grow in number and on data larger than memory."""

from __future__ import annotations

from .tables import markdown_table


def scale_section(records: list[dict], figure: str) -> list[str]:
    """Seconds per epoch and memory by number of cells."""
    newest = {r["cells"]: r for r in records}
    rows = [
        [f"{n:,}", f"`{r['error']}`", "", "", ""]
        if "error" in r
        else [
            f"{n:,}",
            f"{r['seconds_per_epoch']:.3g}",
            f"{n / r['seconds_per_epoch']:,.0f}",
            f"{r['peak_mib']:,.0f}",
            f"{r['input_mib']:,.0f}",
        ]
        for n, r in sorted(newest.items())
    ]
    text = (
        "MaskedVAE on simulated mosaics of RNA (2,000 genes), 100 proteins and ATAC (20,000 peaks), each measured in 40 to 70 % of the cells "
        "(`python -m benchmarks scale`): one epoch, and the highest resident memory of the process that also holds the data."
    )
    heads = ["cells", "seconds per epoch", "cells/s", "peak memory (MiB)", "data (MiB)"]
    image = f"![Time and memory by number of cells]({figure})"
    return ["\n".join(["## Scale", "", text, "", image, "", *markdown_table(heads, rows)])]


def out_of_core_section(records: list[dict]) -> list[str]:
    """Memory and speed of training from files beside training from memory."""
    if not records:
        return []
    newest = {(r["cells"], r["source"]): r for r in records}
    heads = [
        "cells",
        "source",
        "peak memory (GiB)",
        "cells/s",
        "of that in memory",
        "registration (s)",
    ]
    rows = []
    for (cells, source), r in newest.items():
        base = newest.get((cells, "memory"))
        share = f"{r['cells_per_s'] / base['cells_per_s']:.0%}" if base else ""
        rows.append(
            [
                f"{cells:,}",
                source,
                f"{r['peak_GiB']:.2f}",
                f"{r['cells_per_s']:,}",
                share,
                f"{r['register_s']:.0f}",
            ]
        )
    text = (
        "Training of MaskedVAE from files: 2,000 genes for 55 % of the cells, 200 proteins for 30 %, 50,000 peaks for 55 % "
        "(`python -m benchmarks out-of-core FOLDER`). Peak memory is that of the process from opening the files to the last step; the system's cache of "
        "the files is emptied before."
    )
    return ["\n".join(["### Data larger than memory", "", text, "", *markdown_table(heads, rows)])]
