"""Preparing a MuData: from counts per batch and modality to what a model registers."""

from ._concat import concat_batches
from ._panels import panels
from ._prepare import prepare
from ._select import select_features
from ._transform import binarize, clr, lognorm, tfidf

__all__ = [
    "binarize",
    "clr",
    "concat_batches",
    "lognorm",
    "panels",
    "prepare",
    "select_features",
    "tfidf",
]
