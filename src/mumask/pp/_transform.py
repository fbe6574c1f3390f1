"""Values made from counts: written to a layer beside them."""

from __future__ import annotations

import warnings

import numpy as np
import scanpy as sc
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mumask.data import native, torch_threads_kept

from ._mudata import get_modality, values_of


def binarize(
    mdata: MuData, modality: str = "atac", *, layer: str | None = None, to_layer: str | None = None
) -> None:
    """Set every value above 0 to 1, as the Bernoulli likelihood of peaks wants it.

    Parameters
    ----------
    mdata
        Multimodal data, changed in place.
    modality
        Key of the modality.
    layer
        Layer to read; ``X`` by default.
    to_layer
        Layer to write. By default ``X`` is replaced, and what was there, if anything, is kept in
        ``layers["counts"]`` unless that layer exists.

    Notes
    -----
    Sparse stays sparse. Values that are not finite or negative are an error.

    Examples
    --------
    >>> mumask.pp.binarize(mdata, "atac", to_layer="binary")
    >>> float(mdata["atac"].layers["binary"].max())
    1.0
    """
    adata = get_modality(mdata, modality, layer)
    values = _copy(adata, layer)
    stored = values.data if sparse.issparse(values) else values
    if stored.size and not (np.isfinite(stored).all() and stored.min() >= 0):
        raise ValueError(
            f"Modality {modality!r} has negative, NaN or infinite values; binarise counts."
        )
    stored[...] = stored > 0
    if sparse.issparse(values):
        values.eliminate_zeros()
    if to_layer is not None:
        adata.layers[to_layer] = values
        return
    if "counts" not in adata.layers and adata.X is not None:
        adata.layers["counts"] = adata.X
    adata.X = values


@torch_threads_kept()
def lognorm(
    mdata: MuData,
    modality: str = "rna",
    *,
    layer: str | None = None,
    to_layer: str = "lognorm",
    target_sum: float = 1e4,
) -> None:
    """Counts per `target_sum`, then ``log(1 + x)``, by scanpy.

    Parameters
    ----------
    mdata
        Multimodal data, changed in place: a layer is added, ``X`` stays.
    modality
        Key of the modality.
    layer
        Layer with the counts; ``X`` by default.
    to_layer
        Layer to write.
    target_sum
        Total of every cell before the logarithm.

    Examples
    --------
    >>> mumask.pp.lognorm(mdata, "rna", target_sum=1e4)
    >>> total = np.expm1(mdata["rna"].layers["lognorm"].toarray()).sum(axis=1)
    >>> bool(np.allclose(total, 1e4, rtol=1e-3))
    True
    """
    adata, shell = _read(mdata, modality, layer, to_layer)
    sc.pp.normalize_total(shell, target_sum=target_sum)
    sc.pp.log1p(shell)
    adata.layers[to_layer] = shell.X


def clr(
    mdata: MuData,
    modality: str = "protein",
    *,
    layer: str | None = None,
    to_layer: str = "clr",
    axis: int = 0,
) -> None:
    """Centred log ratio of antibody counts, by muon.

    Parameters
    ----------
    mdata
        Multimodal data, changed in place: a layer is added, ``X`` stays.
    modality
        Key of the modality.
    layer
        Layer with the counts; ``X`` by default.
    to_layer
        Layer to write.
    axis
        0 centres each protein over the cells, 1 each cell over its proteins. Take 0 where panels
        differ between batches: the zeros of a protein that a batch did not measure then spoil
        that protein alone, with 1 all proteins of these cells.

    Examples
    --------
    >>> mumask.pp.clr(mdata, "protein")
    >>> mdata["protein"].layers["clr"].shape == mdata["protein"].shape
    True
    """
    adata, shell = _read(mdata, modality, layer, to_layer)
    if sparse.issparse(shell.X) and axis == 0:  # muon warns when it has to convert
        shell.X = shell.X.tocsc()
    _muon().prot.pp.clr(shell, axis=axis)
    adata.layers[to_layer] = shell.X.tocsr() if sparse.issparse(shell.X) else shell.X


def tfidf(
    mdata: MuData,
    modality: str = "atac",
    *,
    layer: str | None = None,
    to_layer: str = "tfidf",
    **kwargs,
) -> None:
    """Term frequency - inverse document frequency of peaks, by muon.

    Parameters
    ----------
    mdata
        Multimodal data, changed in place: a layer is added, ``X`` stays.
    modality
        Key of the modality.
    layer
        Layer with counts or binary values; ``X`` by default.
    to_layer
        Layer to write.
    **kwargs
        Passed to :func:`muon.atac.pp.tfidf`, such as `log_tf`, `log_idf`, `scale_factor`; not
        what says where to read and write.

    Examples
    --------
    >>> mumask.pp.tfidf(mdata, "atac")
    >>> bool(mdata["atac"].layers["tfidf"].max() > 0)
    True
    """
    if taken := sorted({"copy", "inplace", "from_layer"} & kwargs.keys()):
        raise TypeError(
            f"tfidf takes no {taken}: it reads `layer` and writes `to_layer`, and X stays as it is."
        )
    adata, shell = _read(mdata, modality, layer, to_layer)
    with np.errstate(divide="ignore", invalid="ignore"):  # cells or peaks that are all zero give 0
        _muon().atac.pp.tfidf(shell, **kwargs)
    adata.layers[to_layer] = sparse.csr_matrix(shell.X)


def _read(
    mdata: MuData, modality: str, layer: str | None, to_layer: str
) -> tuple[AnnData, AnnData]:
    """A modality to write a layer to, and its values alone, as floats, to be transformed."""
    if not isinstance(to_layer, str):
        raise TypeError(f"`to_layer` is {to_layer!r}; name the layer to write. X stays as it is.")
    adata = get_modality(mdata, modality, layer)
    values = _copy(adata, layer)
    return adata, AnnData(values if values.dtype.kind == "f" else values.astype(np.float32))


def _copy(adata: AnnData, layer: str | None):
    """Own copy of the values; sparse ones as CSR."""
    values = native(values_of(adata, layer))
    # csr_matrix even from a csr_array, which muon's CLR cannot take
    if not sparse.issparse(values):
        return np.array(values)
    values = sparse.csr_matrix(values, copy=True)
    values.sum_duplicates()
    return values


def _muon():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it asks scanpy for `__version__`
        import muon  # takes seconds to import, and few functions need it

    return muon
