"""Panels: which features a batch measured, kept beside the features."""

from __future__ import annotations

import pandas as pd
from mudata import MuData

from mumask.data import PANEL_KEY, category_name, category_names


def panels(mdata: MuData, batch_key: str | None = "batch") -> dict[str, dict[str, list[str]]]:
    """Recorded panels in the form that ``setup_mudata(panels=...)`` takes.

    A model reads the record by itself; this is to look at the panels, or to change some of them.

    Parameters
    ----------
    mdata
        MuData of :func:`concat_batches` or :func:`mumask.datasets.simulate_mosaic`, or any that
        has a boolean table features x batches in ``mdata[modality].varm["measured"]``.
    batch_key
        Column of ``mdata.obs`` with the batch; batches without a cell in the modality are left
        out. None returns all that are recorded.

    Returns
    -------
    Modality -> batch -> names of the measured features. Modalities without a record are left out:
    for those a model finds the panels itself.

    Examples
    --------
    >>> mdata = mumask.datasets.simulate_mosaic(50, panels={"RNA-only": {"rna": 0.5}})
    >>> len(mumask.pp.panels(mdata)["rna"]["RNA-only"])
    500
    """
    found = {}
    for name, adata in mdata.mod.items():
        if PANEL_KEY not in adata.varm:
            continue
        table = adata.varm[PANEL_KEY]
        if not isinstance(table, pd.DataFrame):
            raise TypeError(
                f"mdata[{name!r}].varm[{PANEL_KEY!r}] is a {type(table).__name__}; a table "
                "features x batches (a DataFrame of booleans with the batches as columns) is needed."
            )
        batches = list(table.columns)
        if batch_key is not None:
            if batch_key not in mdata.obs:
                raise KeyError(
                    f"`batch_key`: {batch_key!r} is not in mdata.obs: {list(mdata.obs.columns)}."
                )
            here = set(category_names(mdata.obs[batch_key].reindex(adata.obs_names)))
            batches = [batch for batch in batches if category_name(batch) in here]
        found[name] = {
            category_name(batch): list(adata.var_names[table[batch].to_numpy(dtype=bool)])
            for batch in batches
        }
    return {name: by_batch for name, by_batch in found.items() if by_batch}
