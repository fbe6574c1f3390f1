"""Normalisation inside the model: from registered raw values to standardised network inputs.

Depth (library size) is estimated from the *visible* features of a cell only. Were it
taken from all, hidden counts would leak into every visible value: exactly what a masked model must
not allow. The estimate is corrected for *which* features are visible, with constants of the
training data, so that a cell seen through a smaller panel keeps its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

TRANSFORMS = ("log1p", "clr", "tfidf", "binary", "identity")
_TARGET_SUM = 1e4
_CLIP = 10.0
N_PASSES = 4  # over the data, for their principal axes


class InputNorm(nn.Module):
    """Normalise and standardise one modality.

    ``log1p``  log(1 + 1e4 x / s), size factor s = sum(x) / sum(share) over visible features.
    ``clr``    log((1 + x) / g), g the geometric mean of 1 + x over the training cells: the centred
    log ratio of CITE-seq (Stoeckius et al. 2017), by feature as muon and Seurat take it. How much
    protein a cell binds in total is part of its type, and no hidden value enters a visible one.
    ``tfidf``  log(1 + 1e4 (x > 0) idf / s), s as for log1p on the binarised values.
    ``binary`` x > 0.
    ``identity`` x as it is.

    Values are then centred and divided by the training standard deviation, clipped to +-10, and 0
    (the training mean) where not measured.

    Parameters
    ----------
    n_features
        F.
    transform
        One of the names above.
    """

    def __init__(self, n_features: int, transform: str = "log1p"):
        super().__init__()
        if transform not in TRANSFORMS:
            raise ValueError(f"Unknown input transform {transform!r}; choose from {TRANSFORMS}.")
        self.transform = transform
        # base: share of the counts (log1p, tfidf) or geometric mean of 1 + x (clr) of each feature.
        level = 1.0 / n_features if transform in ("log1p", "tfidf") else 1.0
        self.register_buffer("base", torch.full((n_features,), level))
        self.register_buffer("idf", torch.ones(n_features))
        self.register_buffer("depth", torch.tensor(1.0))  # total of an average cell
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    def _raw(self, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype) if self.transform in ("tfidf", "binary") else x

    def _base_of(self, mask: Tensor) -> Tensor:
        """Share of the features in `mask` of an average cell's counts, ``[n, 1]``."""
        return (mask.to(self.base.dtype) @ self.base)[:, None].clamp(min=1e-8)

    def normalise(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Depth-corrected values on the log scale, before standardisation; ``[n, F]``."""
        x = self._raw(x)
        if self.transform in ("binary", "identity"):
            return x
        if self.transform == "clr":
            return torch.log1p(x) - self.base.log()
        if visible is None:
            size = x.sum(1, keepdim=True) / self.base.sum()
        else:
            size = (x * visible).sum(1, keepdim=True) / self._base_of(visible)
        return torch.log1p(x * (_TARGET_SUM / size.clamp(min=1e-8)) * self.idf)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Standardise.

        Parameters
        ----------
        x
            Raw values ``[n, F]``, dense.
        visible
            Bool ``[n, F]``: elements whose value may be used; None = all. Others come out as 0.

        Returns
        -------
        Network inputs ``[n, F]``.
        """
        out = self.standardise(self.normalise(x, visible))
        return out if visible is None else out * visible

    def standardise(self, normalised: Tensor) -> Tensor:
        """``(value - mean) / scale``, clipped."""
        return ((normalised - self.mean) / self.scale).clamp(-_CLIP, _CLIP)

    def destandardise(self, values: Tensor) -> Tensor:
        """Network outputs ``[n, F]`` back to the normalised scale."""
        return values * self.scale + self.mean

    def to_values(self, normalised: Tensor, total: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalised values ``[n, F]`` back to the registered scale.

        Parameters
        ----------
        normalised
            As from :meth:`destandardise`.
        total
            Total ``[n, 1]`` over the features in `mask` (counts, open peaks).
        mask
            Bool ``[n, F]`` or None = all. As on the way in, a cell's total over all features follows
            from the share that those in `mask` have of an average cell. What is decoded of the cell
            itself adds up too few values for that: divided by the sum over some eighty genes of a
            spatial panel, the noise of that sum is in every gene that is imputed.
        """
        if self.transform == "identity":
            return normalised
        if self.transform == "binary":
            return normalised.clamp(0.0, 1.0)
        if mask is not None and self.transform != "clr":  # which takes no depth out
            total, mask = total / self._base_of(mask), None
        share = self.share(normalised)
        counted = share if mask is None else share * mask
        values = share * (total / counted.sum(1, keepdim=True).clamp(min=1e-8))
        return values.clamp(max=1.0) if self.transform == "tfidf" else values

    def share(self, normalised: Tensor) -> Tensor:
        """Normalised values of counts back to multiples of what the cell has in total.

        For ``clr``, which takes no total out, these are the counts themselves; for ``tfidf`` the
        probabilities in a cell of average depth, since an open peak has one value and others zero.
        """
        if self.transform == "tfidf":
            return (normalised / torch.log1p(_TARGET_SUM * self.idf / self.depth)).clamp(min=0.0)
        ratio = normalised.exp()
        return ((ratio * self.base if self.transform == "clr" else ratio) - 1.0).clamp(min=0.0)

    def fit(self, rows: Callable[[], Iterable[tuple[Tensor, Tensor | None]]]) -> None:
        """Set the constants from training data, in two passes over ``rows()``.

        Parameters
        ----------
        rows
            Returns a fresh iterator of ``(x [n, F] dense, measured bool [n, F] or None)``.
        """
        raw = torch.log1p if self.transform == "clr" else self._raw
        count, total, _ = _moments((raw(x), m) for x, m in rows())
        if not len(count):
            return
        level = total / count.clamp(min=1)
        if self.transform in ("log1p", "tfidf"):
            self.depth.copy_(level.sum().clamp(min=1e-8))
            self.base.copy_(level / self.depth)
        elif self.transform == "clr":
            self.base.copy_(level.exp())
        if self.transform == "tfidf":
            idf = 1.0 / level.clamp(min=1e-4)
            self.idf.copy_(idf / (idf * self.base).sum())
        count, total, squares = _moments((self.normalise(x, m), m) for x, m in rows())
        count = count.clamp(min=1)
        mean = total / count
        deviation = (squares / count - mean**2).clamp(min=0).sqrt()
        typical = deviation[deviation > 0].mean() if bool((deviation > 0).any()) else 1.0
        # The floor keeps a feature seen in a handful of cells from being blown up.
        relative = (deviation / typical).clamp(min=0.05)
        self.mean.copy_(mean)
        self.scale.copy_(relative * typical)


def principal_axes(rows: Callable[[], Iterable[Tensor]], n_axes: int) -> tuple[Tensor, Tensor]:
    """Leading principal axes by subspace iteration over minibatches (Halko et al. 2011).

    Parameters
    ----------
    rows
        Returns a fresh iterator over centred values ``[n, F]``.
    n_axes
        Number of axes k, at most F.

    Returns
    -------
    tuple
        Orthonormal axes ``[F, k]`` and the standard deviation of the cells along each, ``[k]``,
        in falling order.
    """
    axes = spread = None
    for _ in range(N_PASSES):
        product, count = 0.0, 0
        for x in rows():
            if axes is None:
                generator = torch.Generator().manual_seed(0)
                start = torch.randn(x.shape[1], n_axes + 8, generator=generator)
                axes = torch.linalg.qr(start.to(x)).Q
            product = product + x.T @ (x @ axes)
            count += len(x)
        axes, spread, _ = torch.linalg.svd(product, full_matrices=False)
    return axes[:, :n_axes], (spread[:n_axes] / max(count, 1)).sqrt()


def _moments(rows: Iterable[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor]:
    """Measured count, sum and sum of squares by feature, accumulated in double precision."""
    count = total = squares = torch.zeros(0, dtype=torch.float64)
    for x, measured in rows:
        x = x.double()
        weight = torch.ones_like(x) if measured is None else measured.double()
        if not len(count):
            count = total = squares = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        count = count + weight.sum(0)
        total = total + (x * weight).sum(0)
        squares = squares + (x**2 * weight).sum(0)
    return count, total, squares
