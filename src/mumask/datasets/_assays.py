"""What each simulated assay measures of a cell: expected values and sparse counts.

An assay is one class with two methods and one entry in :data:`ASSAYS`: ``expected`` (noise-free
values) and ``counts`` (a CSR draw).
All of them read the same latent, so that the modalities of one cell agree.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


class _Predictor:
    """Log-linear programmes of the latent, moved and bent by the batch.

    ``eta = base + z W + shift[batch] + z bend[batch]``: ``W`` is sparse (a feature belongs to few
    programmes), the shift moves a feature in all cells of a batch, the bend changes how strongly
    it answers to a programme there, which no per-feature rescaling removes.
    """

    def __init__(self, rng, base, n_latent, n_batches, *, share, effect, shift, bend):
        n_features = len(base)
        loadings = rng.normal(0, effect, (n_latent, n_features))
        loadings *= rng.random((n_latent, n_features)) < share
        shifts = rng.normal(0, shift, (n_batches, n_features))
        bends = rng.normal(0, bend, (n_batches, n_latent, n_features)) * loadings
        self.n_batches = n_batches
        self.coef = np.vstack([base, loadings, shifts, bends.reshape(-1, n_features)])
        self.coef = self.coef.astype(np.float32)

    def __call__(self, z, batch):
        """Predictor of the cells `z` [n, K]; `batch` [n] int, or None for no batch effect."""
        n = len(z)
        onehot = np.zeros((n, self.n_batches), np.float32)
        if batch is not None:
            onehot[np.arange(n), batch] = 1
        # one matrix product for all terms: a gathered [n, F] shift would double the chunk
        bent = (onehot[:, :, None] * z[:, None, :]).reshape(n, -1)
        return np.hstack([np.ones((n, 1), np.float32), z, onehot, bent]) @ self.coef


def poisson_csr(rng, rate):
    """Poisson draw of a dense `rate` [n, F] as CSR float32, without drawing the zeros twice.

    The first arrival of a unit Poisson process is exponential: later than `rate` means zero, and
    the arrivals after it are again Poisson. Only the non-zero entries need a count.
    """
    first = rng.standard_exponential(rate.shape, dtype=np.float32)
    hits = first < rate
    indptr = np.concatenate([[0], np.cumsum(hits.sum(1))])
    columns = np.nonzero(hits)[1].astype(np.int32)
    data = (1 + rng.poisson(rate[hits] - first[hits])).astype(np.float32)
    return sp.csr_matrix((data, columns, indptr), shape=rate.shape)


class _Assay:
    """What all have: `spread` of the depth between cells, `batch_spread` of that between batches."""

    def depths(self, rng, batch, n_batches):
        """Log-normal size factors around 1 of the cells, with one further factor per batch."""
        factor = np.exp(rng.normal(0, self.batch_spread, n_batches))[batch]
        return (factor * np.exp(rng.normal(0, self.spread, len(batch)))).astype(np.float32)


class RNA(_Assay):
    """Gene counts: negative binomial around (library size x programme shares)."""

    counts_per_gene = 0.35  # median library size / genes: about 90 % zeros
    spread = 0.45

    def __init__(self, rng, n_features, z, n_batches, strength):
        self.n_features = n_features
        base = np.clip(rng.normal(0, 1.7, n_features), -4, 4)
        self.eta = _Predictor(
            rng, base, z.shape[1], n_batches, share=0.25, effect=0.7, shift=0.35 * strength,
            bend=0.4 * strength,
        )  # fmt: skip
        self.library = self.counts_per_gene * n_features
        self.theta = rng.lognormal(np.log(2), 0.4, n_features).astype(np.float32)
        self.batch_spread = 0.3 * strength

    def expected(self, z, batch=None, depth=1.0):
        """Expected counts [n, F]; without `batch` and `depth` those of an average clean cell."""
        eta = self.eta(z, batch)
        np.exp(eta, out=eta)
        eta *= (self.library * depth / eta.sum(1))[:, None]
        return eta

    def counts(self, rng, z, batch, depth, measured):
        """Counts [n, F] as CSR; `measured` [n, F] bool or None blanks features off the panel."""
        rate = self.expected(z, batch, depth)
        rate *= rng.standard_gamma(self.theta, rate.shape, dtype=np.float32) / self.theta
        return poisson_csr(rng, rate if measured is None else rate * measured)


class Protein(_Assay):
    """Antibody counts: every protein is background or foreground in a cell, both overdispersed."""

    theta = 5.0
    spread = 0.3

    def __init__(self, rng, n_features, z, n_batches, strength):
        self.n_features = n_features
        n_latent = z.shape[1]
        markers = rng.normal(0, 1, (n_latent, n_features))
        markers *= rng.random((n_latent, n_features)) < 0.4
        markers[rng.integers(n_latent, size=n_features), np.arange(n_features)] += 1
        self.markers = (markers / np.linalg.norm(markers, axis=0)).astype(np.float32)
        # a threshold at a quantile of the cells' own scores: no protein is on or off everywhere
        scores, levels = z @ self.markers, rng.uniform(0.35, 0.92, n_features)
        self.threshold = np.array(
            [np.quantile(scores[:, j], q) for j, q in enumerate(levels)], np.float32
        )
        self.background = rng.normal(np.log(12), 0.7, n_features).astype(np.float32)
        self.gain = np.clip(rng.normal(2.4, 0.6, n_features), 1.2, 3.3).astype(np.float32)
        # ambient antibody and staining efficiency differ between runs, for either state
        self.shift = rng.normal(0, 0.5 * strength, (2, n_batches, n_features)).astype(np.float32)
        self.batch_spread = 0.3 * strength

    def _states(self, z, batch, depth):
        """Probability of foreground and the expected counts in background and in foreground."""
        score = z @ self.markers - self.threshold
        on = 1 / (1 + np.exp(-6 * score))
        shift = self.shift[:, batch] if batch is not None else np.zeros((2, 1, 1), np.float32)
        depth = np.broadcast_to(np.asarray(depth, np.float32), len(z))[:, None]
        off_level = depth * np.exp(self.background + shift[0])
        # the foreground is graded: cells further beyond the threshold carry more
        on_level = depth * np.exp(self.background + self.gain + 0.3 * score + shift[1])
        return on, off_level, off_level + on_level  # bound antibody comes on top of the ambient

    def expected(self, z, batch=None, depth=1.0):
        """Expected counts [n, F], averaged over the two states."""
        on, off_level, on_level = self._states(z, batch, depth)
        return off_level + on * (on_level - off_level)

    def counts(self, rng, z, batch, depth, measured):
        """Counts [n, F] as CSR, each entry from one of its two states."""
        on, off_level, on_level = self._states(z, batch, depth)
        rate = np.where(rng.random(on.shape, dtype=np.float32) < on, on_level, off_level)
        rate *= rng.standard_gamma(self.theta, rate.shape, dtype=np.float32) / self.theta
        return poisson_csr(rng, rate if measured is None else rate * measured)


class ATAC(_Assay):
    """Open chromatin: a peak reads 1 when at least one of its Poisson fragments was caught."""

    density = 0.03  # share of peaks seen per cell
    spread = 0.4

    def __init__(self, rng, n_features, z, n_batches, strength):
        self.n_features = n_features
        base = np.clip(rng.normal(0, 1.0, n_features), -2, 2.5)
        self.eta = _Predictor(
            rng, base, z.shape[1], n_batches, share=0.2, effect=0.8, shift=0.35 * strength,
            bend=0.4 * strength,
        )  # fmt: skip
        some = z[rng.choice(len(z), min(len(z), 200), replace=False)]
        for _ in range(5):  # a fixed point, because a peak cannot be more than open
            self.eta.coef[0] -= np.log(self.expected(some).mean() / self.density)
        self.batch_spread = 0.25 * strength

    def _fragments(self, z, batch, depth):
        rate = self.eta(z, batch)
        np.exp(rate, out=rate)
        np.minimum(rate, 1, out=rate)  # a site that is always open is caught in 63 % of cells
        rate *= np.broadcast_to(np.asarray(depth, np.float32), len(z))[:, None]
        return rate

    def expected(self, z, batch=None, depth=1.0):
        """Probability [n, F] that a peak reads 1."""
        return -np.expm1(-self._fragments(z, batch, depth))

    def counts(self, rng, z, batch, depth, measured):
        """Binary accessibility [n, F] as CSR."""
        rate = self._fragments(z, batch, depth)
        hits = rng.standard_exponential(rate.shape, dtype=np.float32) < rate
        if measured is not None:
            hits &= measured
        return sp.csr_matrix(hits, dtype=np.float32)


ASSAYS = {"rna": RNA, "protein": Protein, "atac": ATAC}
