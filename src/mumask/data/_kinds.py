"""What a modality measures, by its name."""

from __future__ import annotations

# The names that people use, and the feature types of 10x.
KINDS = {
    "rna": ("rna", "gex", "gene", "genes", "mrna", "expression", "gene expression"),
    "protein": (
        *("protein", "proteins", "prot", "adt", "ab", "cite"),
        *("antibody", "antibodies", "antibody capture"),
    ),
    "atac": ("atac", "peaks", "peak", "chromatin", "accessibility"),
}


def kind_of_name(name: str) -> str | None:
    """``"rna"``, ``"protein"``, ``"atac"``, or None for another name."""
    return next((kind for kind, names in KINDS.items() if name.lower() in names), None)
