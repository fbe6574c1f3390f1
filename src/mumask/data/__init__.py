"""The rooms that see a MuData: row maps, panels, fields, manager, minibatches."""

from . import _keys as keys
from ._blocks import canonical, is_binary, matrix_of, native
from ._categories import category_name, category_names, check_order
from ._fields import (
    CategoricalCovariatesField,
    CategoricalField,
    ContinuousCovariatesField,
    ModalityField,
)
from ._kinds import kind_of_name
from ._loader import MosaicLoader, MosaicSplitter
from ._manager import MosaicManager
from ._panels import PANEL_KEY, measured_by_all, recorded_panels
from ._rows import column_map, keep_order, presence, row_map
from ._scan import name_some
from ._threads import torch_threads_kept
from ._validate import check_features, check_is_list, check_is_mosaic, check_modality_names

__all__ = [
    "PANEL_KEY",
    "CategoricalCovariatesField",
    "CategoricalField",
    "ContinuousCovariatesField",
    "ModalityField",
    "MosaicLoader",
    "MosaicManager",
    "MosaicSplitter",
    "canonical",
    "category_name",
    "category_names",
    "check_features",
    "check_is_list",
    "check_is_mosaic",
    "check_modality_names",
    "check_order",
    "column_map",
    "is_binary",
    "keep_order",
    "keys",
    "kind_of_name",
    "matrix_of",
    "measured_by_all",
    "name_some",
    "native",
    "presence",
    "recorded_panels",
    "row_map",
    "torch_threads_kept",
]
