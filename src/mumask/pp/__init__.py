"""Preparing a MuData: from counts per batch and modality to what a model registers."""

from ._activity import gene_activity
from ._concat import concat_batches
from ._panels import panels
from ._prepare import prepare
from ._select import select_features
from ._spatial import spatial_context
from ._transform import binarize, clr, lognorm, tfidf

__all__ = [
    "binarize",
    "clr",
    "concat_batches",
    "gene_activity",
    "lognorm",
    "panels",
    "prepare",
    "select_features",
    "spatial_context",
    "tfidf",
]
