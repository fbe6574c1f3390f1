"""Which model a command means."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.model._io import MODEL_FILE, read_model_file

MODELS = {model.__name__: model for model in (MaskedVAE, CrossAttentionMAE)}
ModelName = StrEnum("ModelName", {name: name for name in MODELS})


def saved_model(folder: Path) -> tuple[type, list[str | None]]:
    """Class of the model saved in a folder, and the columns of obs in which its batches differ."""
    content = read_model_file(folder / MODEL_FILE)
    if (name := content["class"]) not in MODELS:
        raise ValueError(f"{folder} holds a {name}; this mumask knows {list(MODELS)}.")
    setup = content["registry"]["setup_args"]
    return MODELS[name], [setup["batch_key"], *(setup["categorical_covariate_keys"] or [])]
