"""The registry of a mosaic MuData, and minibatches from it."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from scipy import sparse
from scvi.data import AnnDataManager
from scvi.data._manager import AnnDataManagerValidationCheck
from torch.utils.data import Subset

from . import _keys
from ._blocks import matrix_of, row_reader
from ._dataset import ModalityRows, MosaicDataset
from ._fields import MAPPING, CategoricalField, ModalityField, MosaicField
from ._found_panels import find_panels
from ._panels import (
    given_panel,
    log_panel,
    measured_though_unseen,
    recorded_panels,
    warn_beyond,
    warn_blind,
    warn_unused,
)
from ._rows import column_map, keep_order, row_map
from ._scan import scan
from ._validate import (
    check_have_features,
    check_is_mosaic,
    check_names,
    check_numbers,
    check_values,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData


# What is kept of a modality as the reference has it.
OF_REFERENCE = ("profile", "total", "detection", "n_measured", "trained_panels", "has_cells")


def _lacks(modality: str, names: np.ndarray, lacking: np.ndarray) -> ValueError:
    return ValueError(
        f"Modality {modality!r} lacks {lacking.sum()} of the {len(names)} features the model was "
        f"trained with, such as {names[lacking][0]!r}. Map data with another panel with "
        "load_query_data()."
    )


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
        self._readers: dict[tuple[str, str | None], tuple[object, object, int]] = {}
        # By modality and code of a query's batch, features that none of its cells shows and no
        # record tells of: not in its panel until a model was asked about them.
        self.open_panels: dict[str, dict[int, np.ndarray]] = {}

    @property
    def modalities(self) -> list[str]:
        """Keys of the registered modalities, in the order of the presence matrix."""
        return [field.modality for field in self.fields if isinstance(field, ModalityField)]

    def _validate_anndata_object(self, mdata: MuData) -> None:
        super()._validate_anndata_object(mdata)
        check_is_mosaic(mdata)
        names = [name for name in self.modalities if name in mdata.mod]
        if not names:
            raise ValueError(
                f"The MuData has none of the model's modalities {self.modalities}; it has "
                f"{list(mdata.mod)}. Rename its modalities, or add one of them."
            )
        check_have_features(mdata, names)
        check_names(mdata, names)

    def _state(self, registry_key: str) -> dict:
        return self._registry["field_registries"][registry_key]["state_registry"]

    def _add_field(self, field: MosaicField, adata: MuData, source_registry=None, **kwargs):
        super()._add_field(field, adata, source_registry, **kwargs)
        if isinstance(field, ModalityField):
            source = None
            if source_registry is not None:
                source = source_registry["field_registries"][field.registry_key]["state_registry"]
            query = kwargs.get("query", False)
            self._state(field.registry_key).update(self._measure(field, adata, source, query))

    def _measure(
        self, field: ModalityField, mdata: MuData, source: dict | None, query: bool
    ) -> dict:
        """Check the values of a modality; find its panel and its average profile.

        The profile (share of each feature in a cell's total), the typical total, the detection
        rates and the panels that a training saw belong to the reference: later data are put on the
        reference's scale.
        """
        state = self._state(field.registry_key)
        names, batches = state["column_names"], list(self._state(_keys.BATCH)[MAPPING])
        panel = np.ones((len(batches), len(names)), dtype=bool)
        kept = {}
        if source is not None:
            kept = {key: source[key] for key in OF_REFERENCE}
            # A query's own panel of a known batch is no news for the next query.
            known = source.get("known_panel", source["panel"])
            panel[: len(known)] = known if query else source["panel"]
            kept["known_panel"] = panel.copy() if query else known
            kept["n_trained"] = source.get("n_trained", len(source["panel"]))
        if field.modality not in mdata.mod:
            return {"panel": panel, **kept}

        adata = mdata.mod[field.modality]
        rows = row_map(mdata, field.modality)
        codes, of_cells = np.zeros(adata.n_obs, dtype=np.int64), self._batch_codes(mdata)
        codes[rows[rows >= 0]] = of_cells[rows >= 0]
        matrix = matrix_of(adata, field.layer)
        check_numbers(matrix, field.modality, field.layer)
        mask = None if state["mask_layer"] is None else matrix_of(adata, state["mask_layer"])
        found = scan(matrix, codes, len(batches), mask)
        check_values(found, adata.obs_names, field)
        n_cells = np.bincount(codes, minlength=len(batches))
        recorded = recorded_panels(adata, names)
        if query or (source is None and field.panels is None):
            here, having = ([batches[c] for c in np.unique(of)] for of in (of_cells, codes))
            warn_unused(recorded, field.modality, here, having)

        if source is None:
            if field.panels is not None:
                panel = given_panel(field.panels, field.modality, batches, names)
            else:
                panel = find_panels(matrix, codes, found.nonzero, mask)
                for code, batch in enumerate(batches):
                    panel[code] = recorded.get(batch, panel[code])
            log_panel(panel, field.modality, batches)
            # Averages over the cells that measured a feature, so that a panel does not dilute them
            # and nothing counts that is stored where nothing was measured.
            measured_in = np.maximum((panel * found.measured).sum(axis=0), 1)
            mean = (panel * found.feature_totals).sum(axis=0) / measured_in
            total = float(max(mean.sum(), 1e-12))
            detection = (panel * found.nonzero).sum(axis=0) / measured_in
            return {
                "panel": panel,
                "profile": mean / total,
                "total": total,
                "detection": detection,
                "n_measured": measured_in,
                "trained_panels": np.unique(panel, axis=0),
                "has_cells": n_cells > 0,
            }

        columns = column_map(adata.var_names, names)
        columns = np.arange(len(names)) if columns is None else columns
        lacking = (panel[n_cells > 0] & (columns < 0)).any(axis=0)
        if lacking.any() and not query:
            raise _lacks(field.modality, names, lacking)
        new = np.arange(len(batches)) >= len(source["panel"])
        if new.any():
            self.open_panels[field.modality] = {}
        for code in np.flatnonzero(new & (n_cells > 0)):
            if batches[code] not in recorded:
                shown = found.nonzero[code, columns] > 0
                panel[code], in_question = shown, (columns >= 0) & ~shown
                if in_question.any():
                    self.open_panels[field.modality][int(code)] = in_question
        if query:
            kept["known_panel"] = panel.copy()
            kept["known_panel"][new] &= columns >= 0
            for batch, measured in recorded.items():
                if batch in batches:
                    code = batches.index(batch)
                    panel[code] = measured if new[code] else panel[code] & measured
        panel[n_cells > 0] &= columns >= 0
        if query:
            shown = panel & (found.nonzero[:, columns] > 0)
            having = np.flatnonzero(n_cells)
            warn_blind(shown[having], field.modality, [batches[code] for code in having])
        # Panels of batches that came with earlier queries, and queries' own of known batches.
        of_queries = ~new & (np.arange(len(batches)) >= kept["n_trained"])
        narrowed = of_queries[:, None] | (False if query else kept["known_panel"])
        beyond = narrowed & ~panel & (found.nonzero[:, columns] > 0) & (columns >= 0)
        warn_beyond(beyond, field.modality, batches)
        return {"panel": panel, **kept}

    def settle_panels(
        self, detections: Mapping[str, Mapping[int, tuple[np.ndarray, np.ndarray]]]
    ) -> None:
        """Decide, and say, which of the features in `open_panels` a query's batches measured.

        Parameters
        ----------
        detections
            By modality and code of the batch: cells that show each feature, and those that should,
            as a model expects; ``(n_features,)`` both.
        """
        batches = list(self._state(_keys.BATCH)[MAPPING])
        for modality, by_batch in self.open_panels.items():
            state = self._state(_keys.values_key(modality))
            seen = state["detection"] * state["n_measured"]
            for code, in_question in by_batch.items():
                nonzero, expected = detections[modality][code]
                there = in_question | state["panel"][code]
                measured = measured_though_unseen(
                    in_question, nonzero, np.where(there, expected, 0), seen, len(by_batch)
                )
                state["panel"][code] |= measured
                state["known_panel"][code] |= measured
            log_panel(state["panel"], modality, batches, of_query=True)
        self.open_panels = {}

    def _batch_codes(self, mdata: MuData) -> np.ndarray:
        (field,) = (f for f in self.fields if f.registry_key == _keys.BATCH)
        return field.codes(mdata, self._state(_keys.BATCH))

    def get_from_registry(self, registry_key: str):
        """Codes or values of an obs field; the stored matrix of a modality."""
        fields = {field.registry_key: field for field in self.fields}
        if registry_key not in fields:
            raise KeyError(f"{registry_key!r} was not registered; there are {list(fields)}.")
        field = fields[registry_key]
        if isinstance(field, ModalityField):
            return matrix_of(self.adata.mod[field.modality], field.layer)
        if isinstance(field, CategoricalField):
            return field.codes(self.adata, self._state(registry_key)).reshape(-1, 1)
        read = getattr(field, "codes", None) or field.values
        return read(self.adata, self._state(registry_key))

    def rows(self, modality: str) -> ModalityRows:
        """Access to the rows of a modality as the MuData is now, not as it was when registered."""
        (field,) = (f for f in self.fields if getattr(f, "modality", None) == modality)
        names = self._state(field.registry_key)["column_names"]
        rows = row_map(self.adata, modality)
        if modality not in self.adata.mod:
            return ModalityRows(rows, None, None, None, len(names))
        adata, mask = self.adata.mod[modality], self._state(field.registry_key)["mask_layer"]
        columns = column_map(adata.var_names, names)
        if columns is not None:  # else they would be read as zeros
            panel = self._state(field.registry_key)["panel"]
            here = np.unique(self._batch_codes(self.adata)[rows >= 0])
            lacking = panel[here].any(axis=0) & (columns < 0)
            if lacking.any():
                raise _lacks(modality, names, lacking)
        return ModalityRows(
            rows,
            self._reader(adata, modality, field.layer),
            None if mask is None else self._reader(adata, modality, mask),
            columns,
            len(names),
        )

    def _reader(self, adata: AnnData, modality: str, layer: str | None):
        """A matrix that can be read by rows; what had to be converted for it is kept."""
        matrix = matrix_of(adata, layer)
        if sparse.issparse(matrix) and matrix.format == "csr":  # costs nothing to read by rows
            self._readers.pop((modality, layer), None)
            return row_reader(matrix)
        source, reader, stored = self._readers.get((modality, layer), (None, None, None))
        # Values are changed in place, too, and what was made from them does not follow.
        values = crc32(np.ascontiguousarray(matrix.data)) if sparse.issparse(matrix) else None
        same = source is matrix and stored == values
        if source is not None and hasattr(source, "group") and hasattr(matrix, "group"):
            same = source.group == matrix.group  # the same in a file
        if not same:
            reader = row_reader(matrix)
            # Only a converted matrix is worth keeping, and only with the one it was made from.
            self._readers.pop((modality, layer), None)
            if reader is not matrix:
                self._readers[modality, layer] = (matrix, reader, values)
        return reader

    def register_fields(self, adata: MuData, source_registry=None, **transfer_kwargs):
        """Register a MuData.

        Registered anew, after another setup of the same MuData, everything keeps its codes: a
        column may have got other categories in between, which the model does not know.
        """
        before = deepcopy(self._registry)
        again = bool(before["field_registries"])
        if again:
            source_registry, transfer_kwargs = before, {}
        try:
            with keep_order():  # a view becomes a MuData of its own when its `uns` is written to
                super().register_fields(adata, source_registry, **transfer_kwargs)
        except Exception:
            if again:  # the model goes on when the data are as they were
                self._registry, self.adata = before, adata
            raise

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
        if indices is None:
            return dataset
        indices = np.asarray(indices)
        return Subset(dataset, np.flatnonzero(indices) if indices.dtype == bool else indices)
