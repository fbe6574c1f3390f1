"""Pictures; each function returns matplotlib axes and takes `show` and `save` as scanpy does."""

from ._attention import attention
from ._embedding import embedding_panels
from ._imputation import measured_vs_imputed
from ._labels import confusion
from ._mosaic import mosaic
from ._training import training_curves
from ._uncertainty import uncertainty

__all__ = [
    "attention",
    "confusion",
    "embedding_panels",
    "measured_vs_imputed",
    "mosaic",
    "training_curves",
    "uncertainty",
]
