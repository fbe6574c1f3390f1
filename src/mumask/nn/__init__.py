"""Networks, masks, priors and likelihoods: tensors in, tensors out."""

from ._covariates import Covariates, GrowingEmbedding
from ._fitted_head import FittedHead
from ._inputs import InputNorm
from ._label_head import LabelHead
from ._layers import ACTIVATIONS
from ._likelihoods import LIKELIHOODS
from ._linear_outputs import LinearOutputs
from ._masks import (
    SCHEDULES,
    both,
    check_schedule,
    mean_unmasked,
    narrowed,
    pair_schedule,
    subset_schedule,
    through_panels,
    users_mask,
)
from ._metacells import Metacells
from ._mosaic_coder import MosaicDecoder, MosaicEncoder
from ._priors import ClusterPrior, kl_standard, label_loss
from ._totals import TotalHead
from ._values import InputTransform, as_dense, nonzeros, row_sums

__all__ = [
    "ACTIVATIONS",
    "LIKELIHOODS",
    "SCHEDULES",
    "ClusterPrior",
    "Covariates",
    "FittedHead",
    "GrowingEmbedding",
    "InputNorm",
    "InputTransform",
    "LabelHead",
    "LinearOutputs",
    "Metacells",
    "MosaicDecoder",
    "MosaicEncoder",
    "TotalHead",
    "as_dense",
    "both",
    "check_schedule",
    "kl_standard",
    "label_loss",
    "mean_unmasked",
    "narrowed",
    "nonzeros",
    "pair_schedule",
    "row_sums",
    "subset_schedule",
    "through_panels",
    "users_mask",
]
