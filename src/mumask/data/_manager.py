"""The registry of a mosaic MuData, and minibatches from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scvi.data import AnnDataManager
from scvi.data._manager import AnnDataManagerValidationCheck
from torch.utils.data import Subset

from . import _keys
from ._blocks import matrix_of, row_reader
from ._dataset import ModalityRows, MosaicDataset
from ._fields import MAPPING, CategoricalField, ModalityField, MosaicField
from ._panels import find_panel, given_panel, log_panel
from ._rows import column_map, row_map
from ._scan import scan
from ._validate import check_names, check_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData


class MosaicManager(AnnDataManager):
    """Registers a MuData in which cells may lack modalities and batches may lack features.

    Nothing of the MuData is changed but the two identifiers that scvi-tools keeps in ``uns``.
    """

    def __init__(self, fields=None, setup_method_args=None, validation_checks=None):
        super().__init__(
            fields=fields,
            setup_method_args=setup_method_args,
            validation_checks=validation_checks
            or AnnDataManagerValidationCheck(check_if_view=False, check_fully_paired_mudata=False),
        )
        self._readers: dict[str, ModalityRows] = {}

    @property
    def modalities(self) -> list[str]:
        """Keys of the registered modalities, in the order of the presence matrix."""
        return [field.modality for field in self.fields if isinstance(field, ModalityField)]

    def _validate_anndata_object(self, mdata: MuData) -> None:
        super()._validate_anndata_object(mdata)
        check_names(mdata, [name for name in self.modalities if name in mdata.mod])

    def _state(self, registry_key: str) -> dict:
        return self._registry["field_registries"][registry_key]["state_registry"]

    def _add_field(self, field: MosaicField, adata: MuData, source_registry=None, **kwargs):
        super()._add_field(field, adata, source_registry, **kwargs)
        if isinstance(field, ModalityField):
            source = None
            if source_registry is not None:
                source = source_registry["field_registries"][field.registry_key]["state_registry"]
            self._state(field.registry_key).update(self._measure(field, adata, source))

    def _measure(self, field: ModalityField, mdata: MuData, source: dict | None) -> dict:
        """Check the values of a modality; find its panel and its average profile.

        The profile (share of each feature in a cell's total) and the typical total belong to the
        reference: data that come later are put on the reference's scale.
        """
        state = self._state(field.registry_key)
        names, batches = state["column_names"], list(self._state(_keys.BATCH)[MAPPING])
        panel = np.ones((len(batches), len(names)), dtype=bool)
        if source is not None:
            panel[: len(source["panel"])] = source["panel"]
        if field.modality not in mdata.mod:
            return {"panel": panel, "profile": source["profile"], "total": source["total"]}

        adata = mdata.mod[field.modality]
        rows = row_map(mdata, field.modality)
        codes = np.zeros(adata.n_obs, dtype=np.int64)
        codes[rows[rows >= 0]] = self._batch_codes(mdata)[rows >= 0]
        found = scan(matrix_of(adata, field.layer), codes, len(batches))
        check_values(found, adata.obs_names, field)

        columns = column_map(adata.var_names, names)
        at = slice(None) if columns is None else columns
        there = np.ones(len(names), dtype=bool) if columns is None else columns >= 0
        n_cells = np.bincount(codes, minlength=len(batches))
        if field.panels is not None and source is None:
            panel = given_panel(field.panels, field.modality, batches, names)
        else:
            seen = find_panel(found.nonzero[:, at], n_cells)
            fresh = np.arange(len(batches)) >= (0 if source is None else len(source["panel"]))
            panel[fresh] &= seen[fresh]
        panel[n_cells > 0] &= there
        if source is None or len(source["panel"]) < len(batches):
            log_panel(panel, field.modality, batches)
        if source is not None:
            return {"panel": panel, "profile": source["profile"], "total": source["total"]}

        # Average over the cells that measured the feature, so that a panel does not dilute it.
        measured_in = (panel * n_cells[:, None]).sum(axis=0)
        mean = found.feature_totals / np.maximum(measured_in, 1)
        profile = mean / max(mean.sum(), 1e-12)
        return {"panel": panel, "profile": profile, "total": float(max(mean.sum(), 1e-12))}

    def _batch_codes(self, mdata: MuData) -> np.ndarray:
        (field,) = (f for f in self.fields if f.registry_key == _keys.BATCH)
        return field.codes(mdata, self._state(_keys.BATCH))

    def get_from_registry(self, registry_key: str):
        """Codes or values of an obs field; the stored matrix of a modality."""
        (field,) = (f for f in self.fields if f.registry_key == registry_key)
        if isinstance(field, ModalityField):
            return matrix_of(self.adata.mod[field.modality], field.layer)
        if isinstance(field, CategoricalField):
            return field.codes(self.adata, self._state(registry_key)).reshape(-1, 1)
        read = getattr(field, "codes", None) or field.values
        return read(self.adata, self._state(registry_key))

    def rows(self, modality: str) -> ModalityRows:
        """Access to the rows of a modality; made once, since a CSC matrix is converted for it."""
        if modality not in self._readers:
            (field,) = (f for f in self.fields if getattr(f, "modality", None) == modality)
            n_features = len(self._state(field.registry_key)["column_names"])
            if modality not in self.adata.mod:
                reader = ModalityRows(row_map(self.adata, modality), None, None, None, n_features)
            else:
                adata = self.adata.mod[modality]
                mask = field.mask_layer
                reader = ModalityRows(
                    row_map(self.adata, modality),
                    row_reader(matrix_of(adata, field.layer)),
                    None if mask is None else row_reader(adata.layers[mask]),
                    column_map(adata.var_names, self._state(field.registry_key)["column_names"]),
                    n_features,
                )
            self._readers[modality] = reader
        return self._readers[modality]

    def register_fields(self, adata: MuData, source_registry=None, **transfer_kwargs):
        """Register a MuData; row maps of an earlier one are forgotten."""
        self._readers = {}
        super().register_fields(adata, source_registry, **transfer_kwargs)

    def create_torch_dataset(
        self,
        indices: Sequence[int] | Sequence[bool] | None = None,
        data_and_attributes=None,
        load_sparse_tensor: bool = False,
    ) -> MosaicDataset | Subset:
        """Data set of minibatches over the cells in `indices`.

        Whether a modality comes sparse is decided by its density, so `load_sparse_tensor` is not
        needed; `data_and_attributes` restricts a minibatch to some keys.
        """
        keys = None if data_and_attributes is None else list(data_and_attributes)
        dataset = MosaicDataset(self, keys)
        return dataset if indices is None else Subset(dataset, indices)
