"""How far decoded differences between cells are to be believed, of features off a panel."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
from mudata import MuData

from mumask.data import keys, presence
from mumask.nn import LIKELIHOODS, as_dense, both

logger = logging.getLogger("mumask")

# Cells of a batch that are looked at, parts in which their features are hidden, and the least
# numbers of cells and of features from which anything is concluded.
CELLS, PARTS, LEAST_CELLS, LEAST_FEATURES = 1000, 5, 50, 20


class Trust(NamedTuple):
    """What is known of the features that a batch did not measure.

    Attributes
    ----------
    slope
        Share of a decoded deviation from the mean that is borne out, 0 to 1.
    rates
        Mean of every feature over the cells, per count measured of them, ``(n_features,)``.
    """

    slope: float
    rates: torch.Tensor


def trust_off_panel(
    model, mdata: MuData, cells: np.ndarray, name: str, decode_as: list
) -> dict[int, Trust]:
    """By code of the batch, for those of some cells whose panel of counts lacks features.

    What others measured and the batch did as well is hidden from the encoder, a fifth at a time,
    and decoded. The slope is that of the counts against it, each in units of its mean: the median
    over features of a Poisson regression linearised at the mean.

    Parameters
    ----------
    model, mdata
        Model, and data registered with it.
    cells
        Numbers of the cells asked for; of their batches, all cells are looked at.
    name
        Modality.
    decode_as
        Codes of the batches to decode as; None: each cell's own.
    """
    panel, state = getattr(model.module, f"panel_{name}"), model._state(keys.values_key(name))
    support = LIKELIHOODS[state["likelihood"]].support
    if panel is None or support != "count" or name not in mdata.mod:
        return {}
    found = {}
    manager = model.get_anndata_manager(mdata, required=True)
    batch_of = np.ravel(manager.get_from_registry(keys.BATCH))
    have = presence(mdata, [name])[:, 0]
    in_training = np.flatnonzero(state["has_cells"])  # panels of other batches are full for nothing
    for code in np.unique(batch_of[cells][have[cells]]):
        own, rng = panel[code], np.random.default_rng(0)
        others = in_training[in_training != code] if model.mapped_ is None else in_training
        shared = (own & panel[others].any(dim=0)).nonzero().squeeze(1)
        of_batch = np.flatnonzero(have & (batch_of == code))
        if own.all() or len(shared) < LEAST_FEATURES:
            continue
        if len(of_batch) < LEAST_CELLS:
            logger.info(
                "Batch %r has %d cells in %r, too few to tell how far its imputed differences are to "
                "be believed: they are as decoded.",
                model.batches[code], len(of_batch), name,
            )  # fmt: skip
            continue
        drawn = np.sort(rng.permutation(of_batch)[:CELLS])
        order = torch.as_tensor(rng.permutation(len(shared)), device=shared.device)
        slopes = [
            _slopes(_moments(model, mdata, drawn, name, decode_as, hidden)[:, hidden])
            for hidden in shared[order].chunk(PARTS)
        ]
        slopes = torch.cat(slopes)
        slopes = slopes[slopes.isfinite()]
        if len(slopes):
            total, _, expected, *_ = _moments(model, mdata, drawn, name, decode_as, shared[:0])
            found[int(code)] = Trust(float(slopes.median().clamp(0, 1)), (expected / total).float())
    return found


def _moments(model, mdata, cells, name, decode_as, hidden: torch.Tensor) -> torch.Tensor:
    """Sums over cells of one batch, with features hidden, ``(5, n_features)``.

    Of the totals T that are left, counts x, expected counts T r, and of x r and T r r.
    """
    module, key, sums = model.module, keys.mask_key(name), 0.0
    for tensors in model._minibatches(mdata, cells, None):
        x = as_dense(tensors[keys.values_key(name)])
        left = torch.ones_like(x, dtype=torch.bool).index_fill_(1, hidden, False)
        left = {**tensors, key: both(tensors.get(key), left)}
        out = module.inference(left, source=left[keys.PRESENCE], sample=False)
        inputs = module._get_generative_input(left, out)
        decoded = (model._hidden_as_if(inputs, out["corrected"], code) for code in decode_as)
        total, mask = module.measured_total(left, name), module.measured(left, name)
        expected = model._mean_over(decoded, name, total, False, mask)
        rate, weight = expected / total.clamp(min=1), (total > 0).double()
        if len(hidden) and (measured := module.measured(tensors, name)) is not None:
            weight = weight * measured
        terms = [total.expand_as(x), x, expected, x * rate, expected * rate]
        sums = sums + torch.stack([(term * weight).sum(dim=0) for term in terms])
    return sums


def _slopes(sums: torch.Tensor) -> torch.Tensor:
    """Regression of ``x / (T mean x)`` on ``r / mean r`` by feature, weights ``T mean x``."""
    total, x, expected, xr, trr = sums
    mean = expected / total
    return (xr / mean - x) / (x * (trr / mean**2 / total - 1))
