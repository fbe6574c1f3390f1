"""One module per model: the mathematics in the order of the papers."""

from ._masked_vae import MaskedVAEModule
from ._modality_spec import ModalitySpec

__all__ = ["MaskedVAEModule", "ModalitySpec"]
