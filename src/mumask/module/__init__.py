"""One module per model: the mathematics in the order of the papers."""

from ._cross_attention_mae import CrossAttentionMAEModule
from ._masked_vae import MaskedVAEModule
from ._modality_spec import ModalitySpec

__all__ = ["CrossAttentionMAEModule", "MaskedVAEModule", "ModalitySpec"]
