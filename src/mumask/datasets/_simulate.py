"""A mosaic of single-cell assays with known cell types, latent and noise-free values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from mumask.data import keep_order

from ._assays import ASSAYS
from ._factors import add_factors

# Elements of one dense chunk (float32: 32 MB); a handful of arrays of this size exist at a time.
_CHUNK_ELEMENTS = 2**23

_BATCHES = {
    "CITE-seq": ("rna", "protein"),
    "ASAP-seq": ("protein", "atac"),
    "RNA-only": ("rna",),
}
_N_FEATURES = {"rna": 1000, "protein": 40, "atac": 3000}
_FEATURE_NAME = {"rna": "gene", "protein": "protein", "atac": "peak"}


def simulate_mosaic(
    n_cells: int | Mapping[str, int] = 600,
    batches: Mapping[str, Sequence[str]] | None = None,
    n_features: Mapping[str, int] | None = None,
    n_cell_types: int = 8,
    *,
    n_latent: int = 10,
    batch_strength: float = 1.0,
    factors: Mapping[str, Sequence[str]] | None = None,
    factor_strength: float = 1.0,
    panels: Mapping[str, Mapping[str, float | Sequence[str]]] | None = None,
    seed: int = 0,
    return_truth: bool = False,
) -> MuData | tuple[MuData, dict[str, AnnData]]:
    """Simulate a mosaic MuData: batches that measured different modalities of the same tissue.

    Cells belong to types of unequal size that form lineages (types of one lineage are close).
    A latent vector per cell drives gene counts (negative binomial, 85 to 90 % zeros), protein
    counts (background or foreground) and peaks (binary, 3 to 5 % open). Every batch changes
    the depth, the level of each feature and its answer to the latent, separately per modality,
    and the mix of cell types. Rows of a modality are shuffled, features of a panel that a batch
    did not measure are zero, and a cell has no row in a modality its batch lacks.

    Cells with no count and measured features without a count in a whole batch do not occur, as
    after quality control: an all-zero feature of a batch is one off its panel.

    Parameters
    ----------
    n_cells
        Cells per batch, one number or one per batch name.
    batches
        Batch name -> its modalities, out of ``"rna"``, ``"protein"`` and ``"atac"``. By default
        ``{"CITE-seq": ("rna", "protein"), "ASAP-seq": ("protein", "atac"), "RNA-only": ("rna",)}``.
    n_features
        Modality -> number of features; 1,000 genes, 40 proteins, 3,000 peaks where not given.
    n_cell_types
        Number of cell types, named by lineage and letter: ``L1a``, ``L1b``, ``L2a``...
    n_latent
        Dimensions of the latent.
    batch_strength
        Scale of all batch effects; 0 gives exchangeable batches.
    factors
        Biology beside the cell type: name of a column of obs -> names of its levels, such as
        ``{"tissue": ("blood", "tonsil")}``. Every cell has a level; all but the first move the
        latent in a direction of their own, for all cell types alike but not equally far.
    factor_strength
        Scale of these moves.
    panels
        Batch name -> modality -> what it measured: a share of the features (drawn at random) or
        their names. Kept as bool features x batches in ``mdata[modality].varm["measured"]``.
    seed
        Equal seeds give equal data.
    return_truth
        Also return the noise-free values. They are dense (cells x features) for every modality.

    Returns
    -------
    The MuData of CSR float32 counts, with ``obs["batch"]``, ``obs["cell_type"]`` (categorical)
    and the latent in ``obsm["X_true"]`` [n_cells, n_latent]. With `return_truth` also modality ->
    AnnData over *all* cells (in the order of ``mdata.obs_names``) and features, its ``X`` the
    expected value without batch effect at average depth: counts, for peaks the probability of 1.

    Raises
    ------
    ValueError
        For an unknown modality, batch or feature name, a batch without a number of cells, sizes
        that are not positive, shares of a panel that are not above 0 and at most 1, and a panel
        without features.

    Examples
    --------
    >>> mdata = mumask.datasets.simulate_mosaic(100, n_features={"rna": 200, "atac": 300})
    >>> {name: mdata[name].shape for name in mdata.mod}
    {'rna': (200, 200), 'protein': (200, 40), 'atac': (100, 300)}
    """
    batches = {name: tuple(mods) for name, mods in (batches or _BATCHES).items()}
    modalities = [mod for mod in ASSAYS if any(mod in mods for mods in batches.values())]
    n_features = {**_N_FEATURES, **(n_features or {})}
    panels = panels or {}
    _check(batches, n_features, n_cell_types, n_latent, panels)
    sizes = _sizes(n_cells, batches)

    obs, batch, z = _cells(np.random.default_rng([seed, 0]), sizes, n_cell_types, n_latent)
    if factors:
        z = add_factors(np.random.default_rng([seed, 9]), obs, z, factors, factor_strength)
    parts, skeleton, truth = {}, {}, {}
    for mod in modalities:
        # one stream per modality: leaving one out does not change the others
        rng = np.random.default_rng([seed, 1 + list(ASSAYS).index(mod)])
        assay = ASSAYS[mod](rng, n_features[mod], z, len(batches), batch_strength)
        names = pd.Index([f"{_FEATURE_NAME[mod]}{i}" for i in range(n_features[mod])])
        panel = _panel(rng, mod, names, batches, panels)
        has = np.array([mod in mods for mods in batches.values()])
        rows = rng.permutation(np.flatnonzero(has[batch]))
        counts = _counts(rng, assay, z[rows], batch[rows], len(batches), panel)
        var = pd.DataFrame(index=names)
        parts[mod] = AnnData(counts, obs=pd.DataFrame(index=obs.index[rows]), var=var)
        if panel is not None:
            parts[mod].varm["measured"] = pd.DataFrame(
                panel[has].T,
                index=names,
                columns=[b for b, h in zip(batches, has, strict=True) if h],
            )
        skeleton[mod] = AnnData(obs=pd.DataFrame(index=obs.index[np.sort(rows)]), var=var)
        if return_truth:
            truth[mod] = AnnData(_expected(assay, z), obs=obs.copy(), var=var.copy())

    mdata = _assemble(obs, z, skeleton, parts)
    if return_truth:
        return mdata, {mod: adata[mdata.obs_names].copy() for mod, adata in truth.items()}
    return mdata


def _cells(rng, sizes, n_types, n_latent):
    """Cell types, batches and the latent: lineages far apart, the types of one lineage close."""
    lineage = np.sort(np.arange(n_types) % max(1, -(-n_types // 3)))
    letter = np.arange(n_types) - np.searchsorted(lineage, lineage)
    names = [f"L{li + 1}{'abc'[le]}" for li, le in zip(lineage, letter, strict=True)]
    centres = _directions(rng, lineage[-1] + 1, n_latent)[lineage] * 2.6
    centres += _directions(rng, n_types, n_latent) * 1.1
    weights = rng.permutation(np.geomspace(1, 0.15, n_types))

    kinds = []
    for size in sizes.values():  # the mix of types differs from batch to batch
        mix = weights * np.exp(rng.normal(0, 0.3, n_types))
        kinds.append(rng.choice(n_types, size, p=mix / mix.sum()))
    kind = np.concatenate(kinds)
    batch = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    spread = rng.uniform(0.2, 0.5, (n_types, n_latent))  # types vary along programmes of their own
    z = centres[kind] + spread[kind] * rng.normal(size=(len(kind), n_latent))

    labels = list(sizes)
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical.from_codes(batch, labels),
            "cell_type": pd.Categorical.from_codes(kind, names),
        },
        index=[f"{labels[b]}_{i}" for b, size in enumerate(sizes.values()) for i in range(size)],
    )
    return obs, batch, z.astype(np.float32)


def _directions(rng, n, n_latent):
    """`n` random unit vectors."""
    vectors = rng.normal(size=(n, n_latent))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _chunks(n_rows, n_columns):
    step = max(1, _CHUNK_ELEMENTS // n_columns)
    return [slice(start, start + step) for start in range(0, n_rows, step)]


def _counts(rng, assay, z, batch, n_batches, panel):
    """Counts of the cells `z` [n, K] as CSR, drawn chunk by chunk."""
    depth = assay.depths(rng, batch, n_batches)
    n_features = assay.n_features
    seen = np.zeros((n_batches, n_features), bool)
    blocks = []
    for rows in _chunks(len(z), n_features):
        measured = None if panel is None else panel[batch[rows]]
        block = assay.counts(rng, z[rows], batch[rows], depth[rows], measured)
        empty = np.flatnonzero(np.diff(block.indptr) == 0)
        if len(empty):
            block = block + _ones(rng, empty, batch[rows][empty], panel, block.shape)
        seen[np.repeat(batch[rows], np.diff(block.indptr)), block.indices] = True
        blocks.append(block)
    _add_unseen(rng, blocks, batch, ~seen if panel is None else panel & ~seen)
    return _stack(blocks, n_features)


def _add_unseen(rng, blocks, batch, unseen):
    """One count, in any cell of the batch, for each measured feature that none of them showed."""
    row, column = [np.empty(0, int)], [np.empty(0, int)]
    for b in np.unique(batch):
        column.append(np.flatnonzero(unseen[b]))
        row.append(rng.choice(np.flatnonzero(batch == b), len(column[-1])))
    row, column = np.concatenate(row), np.concatenate(column)
    # into the blocks, because adding to the whole matrix would copy it
    start = 0
    for i, block in enumerate(blocks):
        here = (row >= start) & (row < start + block.shape[0])
        if here.any():
            cells, ones = row[here] - start, np.ones(here.sum(), np.float32)
            blocks[i] = block + sp.csr_matrix((ones, (cells, column[here])), block.shape)
        start += block.shape[0]


def _stack(blocks, n_features):
    """All rows of the CSR `blocks`, each block given up once copied: vstack would hold both."""
    indptr = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(b.indptr) for b in blocks]))])
    index = np.int32 if indptr[-1] < 2**31 else np.int64
    data, indices = np.empty(indptr[-1], np.float32), np.empty(indptr[-1], index)
    stop = len(data)
    while blocks:  # last first, because only the end of the heap goes back to the system
        block = blocks.pop()
        start = stop - block.nnz
        data[start:stop], indices[start:stop], stop = block.data, block.indices, start
    return sp.csr_matrix((data, indices, indptr.astype(index)), (len(indptr) - 1, n_features))


def _ones(rng, rows, batch, panel, shape):
    """One count in a measured feature for each of the empty `rows`."""
    columns = [
        rng.integers(shape[1]) if panel is None else rng.choice(np.flatnonzero(panel[b]))
        for b in batch
    ]
    ones = np.ones(len(rows), np.float32)
    return sp.csr_matrix((ones, (rows, columns)), shape=shape)


def _expected(assay, z):
    values = np.empty((len(z), assay.n_features), np.float32)
    for rows in _chunks(*values.shape):
        values[rows] = assay.expected(z[rows])
    return values


def _panel(rng, mod, names, batches, panels):
    """Measured features, bool [n_batches, F]; None where every batch measured all of them."""
    given = {b: asked[mod] for b, asked in panels.items() if mod in asked}
    if not given:
        return None
    panel = np.ones((len(batches), len(names)), bool)
    for b, name in enumerate(batches):
        if name not in given:
            continue
        if np.isscalar(given[name]):
            keep = rng.permutation(len(names))[: max(1, round(given[name] * len(names)))]
        else:
            keep = names.get_indexer(list(given[name]))
            if (keep < 0).any():
                raise ValueError(f"panels[{name!r}][{mod!r}] has names that are not in {mod!r}.")
        panel[b] = False
        panel[b, keep] = True
    return panel


def _assemble(obs, z, skeleton, parts):
    """MuData whose rows of a modality are *not* in the order of `mdata.obs`."""
    with keep_order():
        mdata = MuData(skeleton)  # fixes the order of cells; holds no values
        for mod, adata in parts.items():
            mdata.mod[mod] = adata
        mdata.update()
    for column in obs:
        mdata.obs[column] = obs[column].reindex(mdata.obs_names)
    mdata.obsm["X_true"] = z[obs.index.get_indexer(mdata.obs_names)]
    return mdata


def _sizes(n_cells, batches):
    """Cells per batch."""
    if not isinstance(n_cells, Mapping):
        n_cells = dict.fromkeys(batches, n_cells)
    if set(n_cells) != set(batches):
        raise ValueError(
            f"n_cells needs a number for each batch of {list(batches)}, got {list(n_cells)}."
        )
    sizes = {b: n_cells[b] for b in batches}
    if any(n < 1 or n != int(n) for n in sizes.values()):
        raise ValueError(
            f"Every batch needs at least one cell and a whole number, got n_cells={sizes}."
        )
    return {b: int(n) for b, n in sizes.items()}


def _check(batches, n_features, n_types, n_latent, panels):
    for name, mods in batches.items():
        unknown = sorted(set(mods) - set(ASSAYS))
        if unknown or not mods:
            raise ValueError(f"Batch {name!r} needs modalities out of {list(ASSAYS)}, got {mods}.")
    if unknown := sorted(set(n_features) - set(ASSAYS)):
        raise ValueError(f"n_features names unknown modalities {unknown}; known: {list(ASSAYS)}.")
    if min(n_types, n_latent, *n_features.values()) < 1:
        raise ValueError("n_cell_types, n_latent and n_features must be positive.")
    for name, asked in panels.items():
        if name not in batches or not set(asked) <= set(batches[name]):
            raise ValueError(
                f"panels[{name!r}] must name a batch and modalities of it, got {list(asked)}."
            )
        for mod, wanted in asked.items():
            where = f"panels[{name!r}][{mod!r}]"
            if isinstance(wanted, str):
                raise ValueError(f"{where} is the text {wanted!r}; give a list: [{wanted!r}].")
            if isinstance(wanted, Sized) and not len(wanted):
                raise ValueError(
                    f"{where} names no feature. Leave {mod!r} out of the batch's modalities if it "
                    "did not measure it."
                )
            if np.isscalar(wanted) and not 0 < wanted <= 1:
                raise ValueError(f"{where} is {wanted}; a share is above 0 and at most 1.")
