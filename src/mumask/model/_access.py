"""Walking over cells with a model: checks, minibatches, names."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from scvi.data import _constants
from scvi.model.base import BaseModelClass

from mumask.data import MosaicLoader, category_name, check_is_list, keep_order, keys
from mumask.nn import LIKELIHOODS

# Without gradients a larger minibatch is faster; bounded by the widest modality in memory.
INFERENCE_BATCH = 512


class AccessMixin(BaseModelClass):
    """What all ``get_*`` methods share."""

    _data_loader_cls = MosaicLoader

    @property
    def modalities(self) -> list[str]:
        """Keys of the modalities, in the order of the presence matrix.

        Examples
        --------
        >>> model.modalities
        ['rna', 'protein', 'atac']
        """
        return list(self.registry_["setup_args"]["modalities"])

    def feature_names(self, modality: str) -> pd.Index:
        """Names of the features of a modality in the order of the model.

        Parameters
        ----------
        modality
            Key of a registered modality.

        Returns
        -------
        As many names as the module has features of the modality.

        Examples
        --------
        >>> list(model.feature_names("protein")[:2])
        ['protein0', 'protein1']
        """
        self._check_modality(modality)
        return pd.Index(self._state(keys.values_key(modality))["column_names"])

    @property
    def batches(self) -> list[str]:
        """Names of the batches.

        Examples
        --------
        >>> model.batches
        ['ASAP-seq', 'CITE-seq', 'RNA-only']
        """
        return list(self._state(keys.BATCH)["categorical_mapping"])

    def _state(self, registry_key: str) -> dict:
        return self.registry_["field_registries"][registry_key]["state_registry"]

    def get_var_names(self, legacy_mudata_format: bool = False) -> dict[str, np.ndarray]:
        """Names of the features by modality.

        Parameters
        ----------
        legacy_mudata_format
            Without effect; an argument of scvi-tools' method.

        Examples
        --------
        >>> {name: len(features) for name, features in model.get_var_names().items()}
        {'rna': 100, 'protein': 12, 'atac': 150}
        """
        return {m: self.feature_names(m).to_numpy() for m in self.modalities}

    def _check_modality(self, modality: str) -> None:
        if modality not in self.modalities:
            raise ValueError(f"Modality {modality!r} is not in the model: {self.modalities}.")

    def _wanted(self, modalities: Sequence[str] | None) -> list[str]:
        """The modalities asked for, each known; None: all."""
        check_is_list(modalities, "modalities")
        wanted = self.modalities if modalities is None else list(modalities)
        for modality in wanted:
            self._check_modality(modality)
        return wanted

    def _cells(
        self, mdata: MuData | None, indices: Sequence | slice | str | int | None
    ) -> tuple[MuData, np.ndarray]:
        """Checked data, and the numbers of the cells asked for."""
        if mdata is None and self.adata is None:
            raise ValueError("The model was loaded without data: pass `mdata`.")
        if mdata is not None and not len(mdata):  # scvi-tools takes it for none
            raise ValueError("The MuData has no cell.")
        self._check_if_trained(warn=False)
        if getattr(mdata, "is_view", False):
            mdata = self._own_copy(mdata)
        else:
            mdata = self._validate_anndata(mdata)
        indices = slice(None) if indices is None else indices
        return mdata, cell_numbers(mdata.obs_names, indices, "indices")

    def _own_copy(self, view: MuData) -> MuData:
        """A copy, registered: scvi-tools would turn the user's view into one.

        Only the last one is kept, since scvi-tools keeps for good all data that a model has seen.
        """
        if view.isbacked:
            raise ValueError("This is a view of a MuData in a file: pass all of it and `indices`.")
        with keep_order():
            copied = view.copy()
        kept = self._per_instance_manager_store[self.id]
        kept.pop(getattr(self, "_last_copy", None), None)
        copied = self._validate_anndata(copied)
        self._last_copy = copied.uns[_constants._SCVI_UUID_KEY]
        return copied

    def _some_cells(self, most: int) -> np.ndarray:
        """Cells of the model's data, the same in every call; all if there are no more than `most`."""
        return np.sort(np.random.default_rng(0).permutation(self.adata.n_obs)[:most])

    def _minibatches(
        self, mdata: MuData, cells: np.ndarray, batch_size: int | None
    ) -> Iterator[dict[str, torch.Tensor]]:
        self.module.eval()
        loader = self._make_data_loader(
            adata=mdata, indices=cells, batch_size=batch_size or INFERENCE_BATCH
        )
        # Not in an inference mode of the user: cells of a query are refined along gradients.
        with torch.inference_mode(False), torch.no_grad():
            for number, tensors in enumerate(loader):
                if not number:
                    self._check_values(tensors)
                yield {key: value.to(self.device) for key, value in tensors.items()}

    def _check_values(self, tensors: dict[str, torch.Tensor]) -> None:
        """Counts are counts, as when they were registered: scanpy normalises them in place."""
        for modality in self.modalities:
            key = keys.values_key(modality)
            support, x = LIKELIHOODS[self._state(key)["likelihood"]].support, tensors[key]
            values = x.values() if x.layout == torch.sparse_csr else x
            changed = (values < 0) | (values != values.round())
            if support == "binary":
                changed |= values > 1
            if support != "real" and changed.any():
                raise ValueError(
                    f"Modality {modality!r} no longer holds the {support} values that were "
                    "registered. Put them back, and normalise into a layer, as mumask.pp.lognorm does."
                )

    def _source_columns(self, source: str | Sequence[str] | None) -> torch.Tensor:
        """Which columns of the presence matrix to encode from."""
        wanted = (
            self.modalities if source is None else [source] if isinstance(source, str) else source
        )
        for modality in wanted:
            self._check_modality(modality)
        if not len(wanted):
            raise ValueError(f"`source` is empty; choose from {self.modalities}, or None for all.")
        return torch.tensor([m in wanted for m in self.modalities])

    @staticmethod
    def _warn_without_source(n_cells: int, source) -> None:
        if n_cells:
            warnings.warn(
                f"{n_cells} cells have none of the source modalities {source!r}; their rows are NaN.",
                UserWarning,
                stacklevel=3,
            )

    def _batch_codes(
        self, transform_batch: str | Sequence[str] | None, argument: str = "transform_batch"
    ) -> list[int | None]:
        """Codes of the batches to decode as; None: each cell's own."""
        if transform_batch is None:
            return [None]
        one = isinstance(transform_batch, str) or not isinstance(transform_batch, Iterable)
        wanted = [category_name(batch) for batch in ([transform_batch] if one else transform_batch)]
        if not wanted:
            raise ValueError(
                f"`{argument}` is empty; choose from {self.batches}, or None for each cell's own."
            )
        for batch in wanted:
            if batch not in self.batches:
                raise ValueError(
                    f"`{argument}`: {batch!r} is no batch of the model, {self.batches}."
                )
        return [self.batches.index(batch) for batch in wanted]


def cell_numbers(names: pd.Index, cells, argument: str) -> np.ndarray:
    """Numbers of the cells meant by numbers, booleans or names, by one of them or by a slice."""
    n = len(names)
    if isinstance(cells, set | frozenset):
        cells = list(cells)
    if isinstance(cells, pd.Series) and pd.api.types.is_bool_dtype(cells) and cells.hasnans:
        raise ValueError(f"`{argument}` has missing entries: .fillna(False), for example.")
    if isinstance(cells, pd.Series) and pd.api.types.is_bool_dtype(cells):
        cells = by_name(names, cells, argument)
    cells = np.ravel(np.arange(n)[cells] if isinstance(cells, slice) else cells)
    if cells.dtype == object and len(cells) and all(isinstance(c, bool | np.bool_) for c in cells):
        cells = cells.astype(bool)
    if cells.dtype == bool:
        if len(cells) != n:
            raise ValueError(f"`{argument}` has {len(cells)} booleans, but there are {n} cells.")
        return np.flatnonzero(cells)
    if cells.dtype.kind in "OUS":
        numbers = names.get_indexer(cells)
        if (numbers < 0).any():
            raise KeyError(f"`{argument}`: no cell named {cells[numbers < 0].tolist()[0]!r}.")
        return numbers
    if len(cells) and cells.dtype.kind not in "iu":
        raise IndexError(f"`{argument}` are {cells.dtype}, not whole numbers, booleans or names.")
    if len(cells) and not (-n <= cells.min() <= cells.max() < n):
        raise IndexError(f"`{argument}` go beyond the {n} cells.")
    return cells.astype(np.int64)


def by_name(names: pd.Index, chosen: pd.Series, argument: str) -> pd.Series:
    """Booleans in the order of the cells, where they go by the cells' names and not by number.

    Those of a modality leave cells without it out.
    """
    known = chosen.index.isin(names)
    if known.any() and not known.all():
        raise KeyError(f"`{argument}`: no cell named {chosen.index[~known][0]!r}.")
    return chosen.reindex(names, fill_value=False) if known.all() else chosen


def obsm_of(mdata: MuData, rows: np.ndarray) -> dict:
    """What `obsm` holds of some cells; not that which says which cells a modality has."""
    return {
        key: values.iloc[rows] if hasattr(values, "iloc") else values[rows]
        for key, values in mdata.obsm.items()
        if key not in mdata.mod
    }


def check_library_size(library_size: float | None) -> None:
    """A total to scale counts to, or None."""
    if library_size is None:
        return
    if not isinstance(library_size, Real):
        raise TypeError(
            f"`library_size` is a number, not {library_size!r}; without it a generated modality "
            "has the total that the model expects of each cell."
        )
    if not 0 < library_size < math.inf:
        raise ValueError(f"`library_size`={library_size}: choose a positive, finite number.")


def feature_columns(names: pd.Index, features, modality: str) -> np.ndarray:
    """Numbers of the features of a modality meant by their names or by one; None: of all."""
    if features is None:
        return np.arange(len(names))
    features = [features] if isinstance(features, str) else list(features)
    columns = names.get_indexer(features)
    if (columns < 0).any():
        strange = str(features[np.argmin(columns)])
        raise KeyError(f"`features`: modality {modality!r} has no {strange!r}.")
    return columns
