"""Models: registration, training and results."""

from ._cross_attention_mae import CrossAttentionMAE
from ._masked_vae import MaskedVAE

__all__ = ["CrossAttentionMAE", "MaskedVAE"]
