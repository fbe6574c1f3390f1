"""Labels carried from one set of cells to another, and how honest their probabilities are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.neighbors import KNeighborsClassifier

from mumask.data import category_names, check_order

from ._mixing import check_latent


def label_transfer_accuracy(
    latent_reference, labels_reference, latent_query, labels_query, n_neighbors: int = 15
) -> float:
    """Share of query cells whose label the nearest reference cells vote for; 0 to 1.

    Parameters
    ----------
    latent_reference, labels_reference
        Latent [n, d] and labels [n] that vote.
    latent_query, labels_query
        Latent [m, d] and true labels [m] that are scored; cells with a label that the
        reference lacks count as wrong.
    n_neighbors
        Voters per query cell, each with one vote.

    Examples
    --------
    >>> latent, labels = mdata.obsm["X_true"], mdata.obs["cell_type"]
    >>> cite, rest = mdata.obs["batch"] == "CITE-seq", mdata.obs["batch"] != "CITE-seq"
    >>> mumask.metrics.label_transfer_accuracy(
    ...     latent[cite], labels[cite], latent[rest], labels[rest]
    ... ) > 0.8
    True
    """
    latent_reference, labels_reference = check_latent(latent_reference, labels_reference)
    latent_query, labels_query = check_latent(latent_query, labels_query)
    voters = KNeighborsClassifier(min(n_neighbors, len(latent_reference)))
    voters.fit(latent_reference, category_names(labels_reference))
    return float(np.mean(voters.predict(latent_query) == category_names(labels_query)))


def expected_calibration_error(probabilities, labels, n_bins: int = 15, classes=None) -> float:
    r"""Gap between stated confidence and accuracy; 0 (honest) to 1.

    Cells are put into `n_bins` equal bins :math:`(l, u]` of the largest probability, their
    confidence, and :math:`ECE = \sum_m |B_m| / n \; |acc(B_m) - conf(B_m)|` (Naeini et al.,
    AAAI 2015; Guo et al., ICML 2017, eq. 3).

    Parameters
    ----------
    probabilities
        Cells x classes: a DataFrame with the classes as columns (as ``predict(soft=True)``
        gives), or an array.
    labels
        True class of every cell [n], in the order of `probabilities`.
    n_bins
        Number of bins.
    classes
        Class of every column of an array; by default its columns are classes 0, 1, 2...

    Examples
    --------
    >>> probabilities = pd.DataFrame({"B": [0.9, 0.8], "T": [0.1, 0.2]})
    >>> round(mumask.metrics.expected_calibration_error(probabilities, ["B", "B"]), 2)
    0.15
    """
    if isinstance(probabilities, pd.DataFrame) and classes is None:
        classes = probabilities.columns
    check_order(probabilities, labels)
    probabilities, labels = check_latent(probabilities, labels)
    classes = np.arange(probabilities.shape[1]) if classes is None else np.asarray(classes)
    if len(classes) != probabilities.shape[1]:
        raise ValueError(f"{len(classes)} classes for {probabilities.shape[1]} columns.")
    if probabilities.min() < 0 or np.abs(probabilities.sum(1) - 1).max() > 1e-3:
        raise ValueError("Probabilities must be non-negative and sum to 1 in every cell.")
    confidence = probabilities.max(1).astype(np.float64)
    names, labels = category_names(classes).to_numpy(), category_names(labels)
    if not labels.isin(names).any():
        raise ValueError(
            f"No label is among the classes {list(names)}; there are {sorted(set(labels))}."
        )
    correct = names[probabilities.argmax(1)] == labels
    bins = np.ceil(confidence * n_bins).astype(int)
    gaps = np.bincount(bins, weights=correct - confidence)
    return float(np.abs(gaps).sum() / len(labels))
