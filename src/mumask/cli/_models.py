"""Which model a command means."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.model._io import MODEL_FILE, read_model_file

MODELS = {model.__name__: model for model in (MaskedVAE, CrossAttentionMAE)}
ModelName = StrEnum("ModelName", {name: name for name in MODELS})


def model_of(folder: Path):
    """Class of the model saved in a folder."""
    name = read_model_file(folder / MODEL_FILE)["class"]
    if name not in MODELS:
        raise ValueError(f"{folder} holds a {name}; this mumask knows {list(MODELS)}.")
    return MODELS[name]
