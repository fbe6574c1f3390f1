"""Training plans."""

from ._plan import MaskedTrainingPlan

__all__ = ["MaskedTrainingPlan"]
