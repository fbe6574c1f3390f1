"""Analyses of what a model gives: markers of clusters, imputation, cell states of samples."""

from ._markers import rank_markers
from ._neighbors import impute_from_neighbors
from ._proportions import cell_state_auroc, cell_state_proportions

__all__ = ["cell_state_auroc", "cell_state_proportions", "impute_from_neighbors", "rank_markers"]
