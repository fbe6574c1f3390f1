"""Analyses of what a model gives: markers of clusters, cell states of samples."""

from ._markers import rank_markers
from ._proportions import cell_state_auroc, cell_state_proportions

__all__ = ["cell_state_auroc", "cell_state_proportions", "rank_markers"]
