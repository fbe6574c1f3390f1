"""What the reference expects of the cells of a query, where their panel is not known."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from mumask.data import keys, presence
from mumask.nn import LIKELIHOODS, as_dense

# Cells of a batch that are asked about, at most: a feature due in one of a thousand is due in them.
CELLS = 5000


def expected_detections(model) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """For the batches with ``open_panels``, in how many cells each feature is, and should be.

    Cells are encoded from the features that some cell of their batch shows, which is what their
    panel holds so far; what is decoded says how often the others were due. (On held-out cells of
    pbmc10k, one cluster with all 4,000 genes at a time, the rates of the whole reference took 0 to
    281 genes for not measured, those decoded 0 or 1.)

    Parameters
    ----------
    model
        The reference, with the query as its data.

    Returns
    -------
    By modality and code of the batch, two arrays ``(n_features,)``.
    """
    found = {name: {} for name in model.adata_manager.open_panels}
    batch_of = np.ravel(model.adata_manager.get_from_registry(keys.BATCH))
    for name, by_batch in model.adata_manager.open_panels.items():
        batch_if_here = np.where(presence(model.adata, [name])[:, 0], batch_of, -1)
        for code in by_batch:
            cells = np.random.default_rng(0).permutation(np.flatnonzero(batch_if_here == code))
            parts = list(_detections(model, np.sort(cells[:CELLS]), name))
            found[name][code] = tuple(np.sum(parts, axis=0))
    return found


def _detections(model, cells: np.ndarray, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """By minibatch, cells that show each feature and cells that should."""
    module, state = model.module, model._state(keys.values_key(name))
    support = LIKELIHOODS[state["likelihood"]].support
    for tensors in model._minibatches(model.adata, cells, None):
        source, rows = tensors[keys.PRESENCE], module.rows_of(tensors, name)
        out = module.inference(tensors, source=source, sample=False)
        hidden = module.generative(**module._get_generative_input(tensors, out))["hidden"]
        x = as_dense(tensors[keys.values_key(name)])
        total = x.new_ones(len(source), 1)
        total[rows] = module.measured_total(tensors, name)
        mask = torch.ones(len(source), x.shape[1], dtype=torch.bool, device=x.device)
        if (measured := module.measured(tensors, name)) is not None:
            mask[rows] = measured
        mean = module.expected(hidden, name, total, mask)[rows]
        if not module.decodes_rare and module.metacells.knows(name):
            depth = mean.sum(dim=1, keepdim=True) / float(state["total"])
            mean = _remembered(module.metacells, out["corrected"][rows], name) * depth
        mean = mean.double()  # of rates that are small beside 1
        # Real values are normalised counts, too, most of which are 0: expected values say not which.
        rate = torch.as_tensor(state["detection"], device=x.device).expand_as(mean)
        due = {"count": -torch.expm1(-mean), "binary": mean, "real": rate}
        shown, due = x != 0, due[support]
        if (elements := tensors.get(keys.mask_key(name))) is not None:
            shown, due = shown & elements, due * elements
        yield shown.sum(dim=0).cpu().numpy(), due.sum(dim=0).cpu().numpy()


def _remembered(metacells, z: torch.Tensor, name: str) -> torch.Tensor:
    """Mean counts of rare features in like reference cells, ``(n, n_features)``: log1p(1) is log 2."""
    return metacells(z, name).clamp(min=0) / math.log(2)
