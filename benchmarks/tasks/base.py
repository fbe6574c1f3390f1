"""What a task is, and what several tasks need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import accuracy_score, f1_score

from benchmarks.problem import Block, Problem

CORRELATIONS = ("mSCC", "aSCC", "mPCC", "aPCC")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes
    ----------
    name, title, description
        For the command line and the report.
    build
        ``build(data folder, seed)`` gives the :class:`Problem` and the truth.
    score
        ``score(scorer, problem, truth, outputs)`` gives the scores; a method that leaves out an
        output is not scored on it.
    columns
        Scores in the report, with their headings.
    lower
        Scores of which less is better.
    seeded_data
        The seed draws what is hidden, besides seeding the method.
    """

    name: str
    title: str
    description: str
    build: Callable[[Path, int], tuple[Problem, dict]]
    score: Callable[[object, Problem, dict, dict], dict]
    columns: dict[str, str]
    lower: tuple[str, ...] = ()
    seeded_data: bool = False


def read_mudata(path: Path, labels: str) -> tuple[pd.DataFrame, dict[str, Block]]:
    """Cells (``batch``, ``label``) and modalities of a file."""
    mdata = mudata.read_h5mu(path)
    obs = pd.DataFrame(
        {
            "batch": mdata.obs["batch"].astype(str).to_numpy(),
            "label": mdata.obs[labels].astype(str).to_numpy(),
        },
        index=pd.Index(mdata.obs_names.astype(str), name="cell"),
    )
    return obs, {name: block_of(adata) for name, adata in mdata.mod.items()}


def block_of(adata) -> Block:
    """Counts of an AnnData."""
    values = sparse.csr_matrix(adata.X, dtype=np.float32)
    return Block(values, adata.obs_names.to_numpy(str), adata.var_names.to_numpy(str))


def label_scores(truth: np.ndarray, found: np.ndarray) -> dict:
    """Accuracy and macro-F1 of predicted labels."""
    return {
        "accuracy": float(accuracy_score(truth, found)),
        "macro_f1": float(f1_score(truth, found, average="macro", zero_division=0)),
    }


def finite(predicted: np.ndarray) -> np.ndarray:
    """Predictions without gaps: where a method gives none, the mean of the feature."""
    predicted = np.asarray(predicted, dtype=np.float64)
    gaps = ~np.isfinite(predicted)
    if gaps.any():
        known = np.where(gaps, 0.0, predicted).sum(0) / np.maximum((~gaps).sum(0), 1)
        predicted = np.where(gaps, known, predicted)
    return predicted


def latent_of(outputs: dict, n_cells: int) -> np.ndarray:
    """The latent space, checked: a method must place every cell."""
    latent = outputs["latent"]
    if latent.shape[0] != n_cells or not np.isfinite(latent).all():
        raise ValueError(
            f"The latent space has shape {latent.shape} and {int((~np.isfinite(latent)).sum())} "
            f"values that are not finite, for {n_cells} cells."
        )
    return latent
