"""Which cell sits in which row of which modality.

Row maps come from ``obs_names`` alone. ``MuData.obsmap`` can be stale and positions differ between
modalities that list the same cells in another order.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING

import mudata
import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mudata import MuData


@contextmanager
def keep_order():
    """Within this context mudata leaves cells and columns where they are.

    Left to its default, mudata 0.3 lists the cells of a copied view modality by modality, copies
    columns of the modalities to the top, and warns about it; 0.4 does none of that.
    """
    options = getattr(mudata, "set_options", None)
    if options is None:
        yield
        return
    # Not as a context: that logs, through logging.info, which sets up the root logger.
    before, update = options(pull_on_update=False).opts, mudata.MuData._update_attr
    mudata.MuData._update_attr = _with_whole_numbers(update)
    try:
        yield
    finally:
        mudata.MuData._update_attr = update
        options(**before)


def _with_whole_numbers(update: Callable) -> Callable:
    """The update that mudata takes in this context, for integers in obsm and varm as well.

    It writes NaN for cells that are new, also where none is, which integers refuse. So they are
    floats meanwhile, and stay so only where something is missing.
    """

    @wraps(update)
    def updated(self, attr, *args, **kwargs):
        arrays, whole = getattr(self, f"{attr}m"), {}
        for key in [key for key in arrays if key not in self.mod]:
            values = arrays[key]
            if not hasattr(values, "dtype") or values.dtype.kind not in "iu":  # or a data frame
                continue
            floats = values.astype(np.float64)
            if np.array_equal(_stored(floats).astype(values.dtype), _stored(values)):
                arrays[key], whole[key] = floats, values.dtype
        update(self, attr, *args, **kwargs)
        for key, dtype in whole.items():
            if not np.isnan(_stored(arrays[key])).any():
                arrays[key] = arrays[key].astype(dtype)

    return updated


def _stored(values) -> np.ndarray:
    return values.data if sparse.issparse(values) else values


def row_map(mdata: MuData, modality: str) -> np.ndarray:
    """Row of every cell in one modality.

    Parameters
    ----------
    mdata
        Multimodal data with unique cell names at both levels.
    modality
        Key of the modality. A modality that `mdata` lacks has no cells.

    Returns
    -------
    Integers of shape ``(n_obs,)``; -1 where the cell is absent from the modality.
    """
    if modality not in mdata.mod:
        return np.full(mdata.n_obs, -1, dtype=np.int64)
    return mdata.mod[modality].obs_names.get_indexer(mdata.obs_names).astype(np.int64)


def presence(mdata: MuData, modalities: Sequence[str]) -> np.ndarray:
    """Presence matrix `P`: does the cell have the modality?

    Returns
    -------
    Booleans of shape ``(n_obs, len(modalities))``.
    """
    return np.stack([row_map(mdata, mod) >= 0 for mod in modalities], axis=1)


def column_map(var_names: Sequence[str], reference_names: Sequence[str]) -> np.ndarray | None:
    """Column in `var_names` of every reference feature, matched by name.

    Returns
    -------
    Integers of shape ``(len(reference_names),)`` with -1 for a feature that is not there, or
    ``None`` if both lists are the same, so that nothing needs to be moved.
    """
    names, reference = pd.Index(var_names), pd.Index(reference_names)
    if names.equals(reference):
        return None
    return names.get_indexer(reference).astype(np.int64)
