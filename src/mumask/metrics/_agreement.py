"""Clusters against known labels, and clusters by themselves."""

from __future__ import annotations

from sklearn import metrics
from sklearn.metrics.cluster import pair_confusion_matrix

from mumask.data import check_order

from ._mixing import check_labels, check_latent, silhouette


def cluster_agreement(labels, clusters) -> dict[str, float]:
    """Agreement of clusters with labels; every score is at most 1, and 1 is identity.

    Parameters
    ----------
    labels
        Known label of every cell [n].
    clusters
        Cluster of every cell [n], in the order of `labels`; the names need not match.

    Returns
    -------
    ARI, NMI (arithmetic mean), FMI and AMI of scikit-learn, and over the pairs of cells, with TP
    the pairs together in both, FP only in a cluster and FN only in a label: F-measure
    ``2 TP / (2 TP + FP + FN)`` and Jaccard index ``TP / (TP + FP + FN)``. These are the
    agreement scores of scMMAE (Meng et al., Briefings in Bioinformatics 2025).

    Examples
    --------
    >>> scores = mumask.metrics.cluster_agreement(["B", "B", "T", "T"], [1, 1, 0, 0])
    >>> scores["ARI"], scores["NMI"]
    (1.0, 1.0)
    """
    check_order(labels, clusters)
    labels, clusters = check_labels(len(labels), labels, clusters)
    (_, fp), (fn, tp) = pair_confusion_matrix(labels, clusters)
    errors = fp + fn
    return {
        "ARI": float(metrics.adjusted_rand_score(labels, clusters)),
        "NMI": float(metrics.normalized_mutual_info_score(labels, clusters)),
        # no pair together anywhere (all singletons in both): nothing to disagree on
        "FMI": float(metrics.fowlkes_mallows_score(labels, clusters)) if tp + errors else 1.0,
        "AMI": float(metrics.adjusted_mutual_info_score(labels, clusters)),
        "F-measure": float(2 * tp / (2 * tp + errors)) if tp + errors else 1.0,
        "Jaccard": float(tp / (tp + errors)) if tp + errors else 1.0,
    }


def cluster_quality(latent, labels) -> dict[str, float]:
    """Shape of the labels in the latent: ASW, CHI (higher is better) and DBI (lower is better).

    Parameters
    ----------
    latent
        Cells x dimensions.
    labels
        Label or cluster of every cell; at least two kinds.

    Returns
    -------
    ASW, the average silhouette width in -1 to 1; CHI, the Calinski-Harabasz index (grows with
    the number of cells: compare on the same cells only); DBI, the Davies-Bouldin index.

    Examples
    --------
    >>> list(mumask.metrics.cluster_quality(mdata.obsm["X_true"], mdata.obs["cell_type"]))
    ['ASW', 'CHI', 'DBI']
    """
    latent, labels = check_latent(latent, labels)
    return {
        "ASW": silhouette(latent, labels, scaled=False),
        "CHI": float(metrics.calinski_harabasz_score(latent, labels)),
        "DBI": float(metrics.davies_bouldin_score(latent, labels)),
    }
