"""Scores of integration, clustering, transfer and imputation: arrays in, numbers out."""

from ._agreement import cluster_agreement, cluster_quality
from ._imputation import feature_correlation
from ._labels import expected_calibration_error, label_transfer_accuracy
from ._mixing import batch_asw, batch_entropy_mixing, foscttm, graph_connectivity, silhouette
from ._table import integration_table

__all__ = [
    "batch_asw",
    "batch_entropy_mixing",
    "cluster_agreement",
    "cluster_quality",
    "expected_calibration_error",
    "feature_correlation",
    "foscttm",
    "graph_connectivity",
    "integration_table",
    "label_transfer_accuracy",
    "silhouette",
]
