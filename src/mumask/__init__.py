"""Masked models for multimodal single-cell data in MuData, built on scvi-tools."""

from importlib.metadata import version

from . import data, datasets, metrics, module, nn, pl, pp, tl, train
from ._logging import setup_logging
from .model import CrossAttentionMAE, MaskedVAE

__all__ = [
    "CrossAttentionMAE",
    "MaskedVAE",
    "data",
    "datasets",
    "metrics",
    "module",
    "nn",
    "pl",
    "pp",
    "tl",
    "train",
]

__version__ = version("mumask")

setup_logging()
