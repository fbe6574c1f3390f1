"""Training plans."""

from ._autoencoder_plan import AutoencoderTrainingPlan
from ._plan import MaskedTrainingPlan

__all__ = ["AutoencoderTrainingPlan", "MaskedTrainingPlan"]
