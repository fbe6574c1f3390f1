"""Panels: which features a batch measured, kept beside the features."""

from __future__ import annotations

from mudata import MuData

from mumask.data import category_names, check_is_mosaic, recorded_panels


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
    check_is_mosaic(mdata)
    found = {}
    for name, adata in mdata.mod.items():
        recorded = recorded_panels(adata, adata.var_names)
        if recorded and batch_key is not None:
            if batch_key not in mdata.obs:
                raise KeyError(
                    f"`batch_key`: {batch_key!r} is not in mdata.obs: {list(mdata.obs.columns)}."
                )
            here = set(category_names(mdata.obs[batch_key].reindex(adata.obs_names)))
            recorded = {batch: panel for batch, panel in recorded.items() if batch in here}
        if recorded:
            found[name] = {batch: list(adata.var_names[panel]) for batch, panel in recorded.items()}
    return found
