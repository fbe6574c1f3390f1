"""All scores of one integration in one table."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

from ._agreement import cluster_agreement
from ._mixing import batch_asw, batch_entropy_mixing, check_latent, graph_connectivity, silhouette

logger = logging.getLogger(__name__)


def integration_table(latent, batch=None, labels=None, clusters=None) -> pd.DataFrame:
    """Scores of a latent space, as far as batches, labels and clusters are known.

    Parameters
    ----------
    latent
        Cells x dimensions.
    batch
        Batch of every cell; needed for the scores of mixing.
    labels
        Cell type of every cell; needed for the scores of separation. Score only cells whose
        labels the model has not seen.
    clusters
        Clusters found in the latent; adds their agreement with `labels`, without which there is none.

    Returns
    -------
    DataFrame with one score per row and the columns ``value``, ``better`` (``"higher"`` or
    ``"lower"``) and ``about`` (``"mixing"``, ``"separation"`` or ``"agreement"``). A score that
    cannot be computed (one batch, one label) is NaN and logged.

    Examples
    --------
    >>> table = mumask.metrics.integration_table(
    ...     mdata.obsm["X_true"], mdata.obs["batch"], mdata.obs["cell_type"]
    ... )
    >>> list(table.columns)
    ['value', 'better', 'about']
    >>> table.index[0]
    'batch entropy mixing'
    """
    # checked before the scores, so that only what is undefined, not what is wrong, becomes NaN
    if clusters is not None and labels is None:
        raise ValueError("`clusters` are compared with `labels`, which are not given.")
    latent = check_latent(latent, *(c for c in (batch, labels, clusters) if c is not None))[0]
    scores = []

    def add(about, name, better, function, *args, **kwargs):
        try:
            value = function(*args, **kwargs)
        except ValueError as error:
            logger.warning("%s is left out: %s", name, error)
            value = np.nan
        scores.append((name, value, better, about))

    if batch is not None:
        add("mixing", "batch entropy mixing", "higher", batch_entropy_mixing, latent, batch)
        if labels is not None:
            add("mixing", "batch ASW", "higher", batch_asw, latent, labels, batch)
    if labels is not None:
        add("separation", "silhouette", "higher", silhouette, latent, labels)
        add("separation", "CHI", "higher", calinski_harabasz_score, latent, labels)
        add("separation", "DBI", "lower", davies_bouldin_score, latent, labels)
        add("separation", "graph connectivity", "higher", graph_connectivity, latent, labels)
    if labels is not None and clusters is not None:
        for name, value in cluster_agreement(labels, clusters).items():
            scores.append((name, value, "higher", "agreement"))
    columns = ["score", "value", "better", "about"]
    return pd.DataFrame(scores, columns=columns).set_index("score")
