"""Fields of the registry: what is read from a MuData, and how it is carried to another one."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import rich.markup
import rich.pretty  # scvi-tools prints the setup with it and does not import it
import rich.table
from scvi.data.fields import BaseAnnDataField

from ._categories import category_name, category_names
from ._keys import values_key
from ._validate import check_complete, check_is_list, check_obs_key

if TYPE_CHECKING:
    from mudata import MuData

logger = logging.getLogger("mumask")

# The keys scvi-tools looks for in a state registry.
MAPPING, ORIGINAL, UNLABELED = "categorical_mapping", "original_key", "unlabeled_category"
NO_BATCH = "all cells"
MIN_CELLS = 3  # of a category, before a warning, as in scvi-tools
# What people call cells without a label.
UNLABELED_MARKS = {"", "?", "unknown", "unlabeled", "unlabelled", "unassigned", "nan", "none", "na"}


class MosaicField(BaseAnnDataField):
    """A field that reads a MuData and never writes to it."""

    registry_key = None
    attr_name = "obs"
    attr_key = None
    is_empty = False

    def validate_field(self, mdata: MuData) -> None:
        """Every subclass checks in `register_field`, where it reads the data anyway."""

    def view_state_registry(self, state_registry: dict) -> rich.table.Table:
        """Print what the field holds, one line per entry."""
        table = rich.table.Table(title=f"{self.registry_key} state registry")
        table.add_column("Entry")
        table.add_column("Value")
        for name, value in state_registry.items():
            text = str(value.tolist() if isinstance(value, np.ndarray) else value)
            text = text if len(text) < 80 else text[:77] + "..."
            table.add_row(name, rich.markup.escape(text))
        return table


class CategoricalField(MosaicField):
    """One categorical column of ``mdata.obs``.

    Parameters
    ----------
    registry_key
        Key in the registry and the minibatch.
    obs_key
        Column of ``mdata.obs``, or ``None``: all cells are in one category.
    unlabeled_category
        Category of cells without a label; it is coded last and is no class.
    """

    def __init__(
        self, registry_key: str, obs_key: str | None, unlabeled_category: str | None = None
    ):
        super().__init__()
        self.registry_key = registry_key
        self.attr_key = obs_key
        # As text, like the column: a mark may be a number.
        self.unlabeled_category = (
            None if unlabeled_category is None else category_name(unlabeled_category)
        )
        self.argument = f"{registry_key}_key"

    def _column(self, mdata: MuData) -> pd.Series:
        if self.attr_key is None:
            return pd.Series(NO_BATCH, index=mdata.obs_names)
        column = check_obs_key(mdata, self.attr_key, self.argument)
        if self.unlabeled_category is not None:
            column = column.astype(object).where(column.notna(), self.unlabeled_category)
        check_complete(column, self.argument)
        return category_names(column)

    def _new_column(self, mdata: MuData) -> pd.Series:
        """Categories of later data, which may lack labels: a missing one is none that is known."""
        if self.unlabeled_category is not None and self.attr_key not in mdata.obs:
            return pd.Series(self.unlabeled_category, index=mdata.obs_names)
        return self._column(mdata)

    def _state(self, categories: list[str]) -> dict:
        state = {MAPPING: np.array(categories, dtype=object), ORIGINAL: self.attr_key}
        if self.unlabeled_category is not None:
            state[UNLABELED] = self.unlabeled_category
        return state

    def register_field(self, mdata: MuData) -> dict:
        """Map categories to codes, in sorted order."""
        cells = self._column(mdata).value_counts()
        categories = sorted(cells.index)
        if self.unlabeled_category is not None:
            categories = [name for name in categories if name != self.unlabeled_category]
            self._check_classes(categories)
            categories.append(self.unlabeled_category)
        elif self.attr_key is not None and len(categories) == 1:
            warnings.warn(
                f"`{self.argument}`: {self.attr_key!r} is {categories[0]!r} in every cell, so there "
                "is no effect to remove. Leave it out, or name the column that differs.",
                UserWarning,
                stacklevel=1,  # the command line shows warnings of mumask's own files
            )
        self._warn_of_few(cells[cells.index != self.unlabeled_category])
        return self._state(categories)

    def _warn_of_few(self, cells: pd.Series) -> None:
        few = sorted(cells.index[cells < MIN_CELLS])
        if few:
            warnings.warn(
                f"`{self.argument}`: {len(few)} of the {len(cells)} categories of {self.attr_key!r} "
                f"have fewer than {MIN_CELLS} cells, such as {few[0]!r}: little can be learned of "
                "them. Is it the column that you mean?",
                UserWarning,
                stacklevel=1,
            )

    def _check_classes(self, classes: list[str]) -> None:
        marks = [name for name in classes if name.strip().lower() in UNLABELED_MARKS]
        if marks:
            warnings.warn(
                f"`labels_key`: {marks} of {self.attr_key!r} are learned as cell types. If they mark "
                f"cells without a label, pass unlabeled_category={marks[0]!r}.",
                UserWarning,
                stacklevel=2,
            )
        if not classes:
            raise ValueError(
                f"`labels_key`: every cell of {self.attr_key!r} is {self.unlabeled_category!r}, so "
                "there is nothing to learn. Leave labels_key out to train without labels."
            )
        if len(classes) == 1:
            raise ValueError(
                f"`labels_key`: {self.attr_key!r} has the one class {classes[0]!r}; a classifier "
                "needs at least two. Leave labels_key out to train without labels."
            )

    def transfer_field(self, state_registry: dict, mdata: MuData, query: bool = False, **_) -> dict:
        """Keep the codes of the reference; a query may add categories behind them."""
        known = list(state_registry[MAPPING])
        if self.unlabeled_category is not None:
            # Labels of new cells are read where the reference knows them; others are unlabelled.
            return self._state(known)
        new = sorted(set(self._column(mdata)) - set(known))
        if not query:
            self._check_known(new, known)
        return self._state(known + new)

    def _check_known(self, new: list[str], known: list[str]) -> None:
        if new:
            raise ValueError(
                f"`{self.argument}`: {new} of {self.attr_key!r} are not among the categories the "
                f"model was trained with, {known}. Map new batches with load_query_data()."
            )

    def codes(self, mdata: MuData, state_registry: dict) -> np.ndarray:
        """Code of every cell, shape ``(n_obs,)``."""
        categories, column = list(state_registry[MAPPING]), self._new_column(mdata)
        codes = pd.Index(categories).get_indexer(column)
        if self.unlabeled_category is not None:
            codes = np.where(codes < 0, len(categories) - 1, codes)
        else:  # the column may have changed since it was registered
            self._check_known(sorted(set(column[codes < 0])), categories)
        return codes.astype(np.int64)

    def unknown(self, mdata: MuData, state_registry: dict) -> list[str]:
        """Names in the column of data that are no category."""
        return sorted(set(self._new_column(mdata)) - set(state_registry[MAPPING]))

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of categories; the unlabelled one does not count."""
        n = len(state_registry[MAPPING]) - (self.unlabeled_category is not None)
        return {f"n_{self.registry_key}": n}


class CategoricalCovariatesField(MosaicField):
    """Several categorical columns of ``mdata.obs``, each with codes of its own."""

    def __init__(self, registry_key: str, obs_keys: list[str]):
        super().__init__()
        check_is_list(obs_keys, "categorical_covariate_keys")
        self.registry_key = registry_key
        self.attr_key = f"_mumask_{registry_key}"
        self.fields = {key: CategoricalField(registry_key, key) for key in obs_keys}
        for field in self.fields.values():
            field.argument = "categorical_covariate_keys"

    def register_field(self, mdata: MuData) -> dict:
        """One mapping per column."""
        return {key: field.register_field(mdata) for key, field in self.fields.items()}

    def transfer_field(self, state_registry: dict, mdata: MuData, **kwargs) -> dict:
        """Every column keeps its codes and grows on its own."""
        return {
            key: field.transfer_field(state_registry[key], mdata, **kwargs)
            for key, field in self.fields.items()
        }

    def codes(self, mdata: MuData, state_registry: dict) -> np.ndarray:
        """Codes, shape ``(n_obs, n_columns)``."""
        return np.stack(
            [field.codes(mdata, state_registry[key]) for key, field in self.fields.items()], axis=1
        )

    def view_state_registry(self, state_registry: dict) -> rich.table.Table:
        """Print the categories of each column."""
        categories = {key: state[MAPPING] for key, state in state_registry.items()}
        return super().view_state_registry(categories)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of categories of each column."""
        return {f"n_{self.registry_key}": [len(s[MAPPING]) for s in state_registry.values()]}


class ContinuousCovariatesField(MosaicField):
    """Numerical columns of ``mdata.obs``, standardised with the reference's mean and deviation."""

    def __init__(self, registry_key: str, obs_keys: list[str]):
        super().__init__()
        check_is_list(obs_keys, "continuous_covariate_keys")
        self.registry_key = registry_key
        self.attr_key = f"_mumask_{registry_key}"
        self.keys = list(obs_keys)

    def _columns(self, mdata: MuData) -> np.ndarray:
        columns = []
        for key in self.keys:
            column = check_obs_key(mdata, key, "continuous_covariate_keys")
            check_complete(column, "continuous_covariate_keys")
            if not pd.api.types.is_numeric_dtype(column):
                raise TypeError(
                    f"`continuous_covariate_keys`: {key!r} is of type {column.dtype}, not numeric. "
                    "Pass it in categorical_covariate_keys or convert it."
                )
            if not np.isfinite(column).all():
                raise ValueError(
                    f"`continuous_covariate_keys`: {key!r} has infinite values. Fill them or drop "
                    "those cells."
                )
            columns.append(column.to_numpy(dtype=np.float64))
        return np.stack(columns, axis=1)

    def register_field(self, mdata: MuData) -> dict:
        """Mean and standard deviation of every column."""
        values = self._columns(mdata)
        deviation = values.std(axis=0)
        return {
            "columns": np.array(self.keys, dtype=object),
            "mean": values.mean(axis=0),
            # What rounding leaves of a constant is no deviation.
            "deviation": np.where(deviation > 1e-9 * np.abs(values).max(axis=0), deviation, 1.0),
        }

    def transfer_field(self, state_registry: dict, mdata: MuData, **_) -> dict:
        """The scale of the reference."""
        self._columns(mdata)
        return dict(state_registry)

    def values(self, mdata: MuData, state_registry: dict) -> np.ndarray:
        """Standardised values, shape ``(n_obs, n_columns)``."""
        scaled = (self._columns(mdata) - state_registry["mean"]) / state_registry["deviation"]
        return scaled.astype(np.float32)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of columns."""
        return {f"n_{self.registry_key}": len(self.keys)}


class ModalityField(MosaicField):
    """The values of one modality.

    Parameters
    ----------
    modality
        Key of the modality.
    layer
        Layer to read; ``None`` is ``X``.
    likelihood
        Name of the likelihood, and the values that it is made for: ``"count"``, ``"binary"`` or
        ``"real"``.
    mask_layer
        Layer of booleans; False marks an element that was not measured.
    panels
        Measured features by batch; None: found from the data.
    """

    def __init__(
        self,
        modality: str,
        layer: str | None,
        likelihood: str,
        support: str,
        mask_layer: str | None = None,
        panels: dict[str, list[str]] | None = None,
    ):
        super().__init__()
        self.registry_key = values_key(modality)
        self.modality = modality
        self.layer, self.attr_key = layer, layer
        self.attr_name = "X" if layer is None else "layers"
        self.likelihood, self.support = likelihood, support
        self.mask_layer, self.panels = mask_layer, panels

    @property
    def mod_key(self) -> str:
        """Key of the modality."""
        return self.modality

    def _check_layers(self, mdata: MuData, mask_layer: str | None, later: bool = False) -> None:
        adata, place = mdata.mod[self.modality], f"mdata[{self.modality!r}]"
        for argument, layer in (("layers", self.layer), ("mask_layers", mask_layer)):
            if layer is not None and layer not in adata.layers:
                copied = f" The model reads it: {place}.layers[{layer!r}] = {place}.X, if counts."
                raise KeyError(
                    f"`{argument}`: modality {self.modality!r} has no layer {layer!r}; it has "
                    f"{list(adata.layers)}.{copied if later else ''}"
                )
        if self.layer is None and adata.X is None:
            named = f"Name a layer: layers={{{self.modality!r}: ...}}."
            way_out = f"Put the counts there: {place}.X = ..." if later else named
            raise ValueError(f"Modality {self.modality!r} has no X. {way_out}")

    def register_field(self, mdata: MuData) -> dict:
        """Names of the features and the kind of values."""
        self._check_layers(mdata, self.mask_layer)
        return {
            "modality": self.modality,
            "column_names": mdata.mod[self.modality].var_names.astype(str).to_numpy(dtype=object),
            "likelihood": self.likelihood,
            "mask_layer": self.mask_layer,
        }

    def transfer_field(self, state_registry: dict, mdata: MuData, query: bool = False, **_) -> dict:
        """Features are matched by name; data may lack the modality, a query also features.

        Without a mask layer all elements of the data were measured.
        """
        state = {key: state_registry[key] for key in ("modality", "column_names", "likelihood")}
        state["mask_layer"] = None
        if self.modality in mdata.mod:
            self._check_layers(mdata, None, later=True)
            if self.mask_layer in mdata.mod[self.modality].layers:
                state["mask_layer"] = self.mask_layer
            if query and mdata.mod[self.modality].n_obs:
                self._report_shared(mdata, pd.Index(state["column_names"]))
        return state

    def _report_shared(self, mdata: MuData, names: pd.Index) -> None:
        shared = names.isin(mdata.mod[self.modality].var_names)
        text = (
            f"Modality {self.modality!r}: the query measured {shared.sum()} of the {len(names)} "
            f"features of the reference ({shared.mean():.0%})."
        )
        if not shared.any():
            raise ValueError(
                f"{text} Are the names of another kind (gene ids, symbols, suffixes)? The reference "
                f"has {names[0]!r}, the query {mdata.mod[self.modality].var_names[0]!r}."
            )
        if shared.mean() < 0.5:
            warnings.warn(text + " Expect less accurate results.", UserWarning, stacklevel=2)
        logger.info(text)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of features."""
        return {f"n_features_{self.modality}": len(state_registry["column_names"])}
