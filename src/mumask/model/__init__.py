"""Models: registration, training and results."""

from ._masked_vae import MaskedVAE

__all__ = ["MaskedVAE"]
