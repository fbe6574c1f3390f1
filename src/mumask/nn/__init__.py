"""Networks, masks, priors and likelihoods: tensors in, tensors out."""

from ._covariates import Covariates, GrowingEmbedding
from ._layers import ACTIVATIONS
from ._likelihoods import LIKELIHOODS
from ._masks import (
    SCHEDULES,
    both,
    check_schedule,
    joint_schedule,
    mean_unmasked,
    pair_schedule,
    subset_schedule,
)
from ._mosaic_coder import MosaicDecoder, MosaicEncoder
from ._priors import ClusterPrior, kl_standard, kl_to_uniform, label_loss
from ._values import InputTransform, as_dense, nonzeros, row_sums

__all__ = [
    "ACTIVATIONS",
    "LIKELIHOODS",
    "SCHEDULES",
    "ClusterPrior",
    "Covariates",
    "GrowingEmbedding",
    "InputTransform",
    "MosaicDecoder",
    "MosaicEncoder",
    "as_dense",
    "both",
    "check_schedule",
    "joint_schedule",
    "kl_standard",
    "kl_to_uniform",
    "label_loss",
    "mean_unmasked",
    "nonzeros",
    "pair_schedule",
    "row_sums",
    "subset_schedule",
]
