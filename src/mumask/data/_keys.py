"""Names under which a minibatch carries its tensors."""

from __future__ import annotations

from scvi import REGISTRY_KEYS

BATCH = REGISTRY_KEYS.BATCH_KEY
LABELS = REGISTRY_KEYS.LABELS_KEY
CAT_COVS = "cat_covs"
CONT_COVS = "cont_covs"
PRESENCE = "presence"


def values_key(modality: str) -> str:
    """Key of the measured values of one modality."""
    return f"X_{modality}"


def mask_key(modality: str) -> str:
    """Key of the element mask of one modality."""
    return f"mask_{modality}"
