"""Public data sets: downloaded once, checked, cached."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import anndata
import mudata
import numpy as np
import pandas as pd
import pooch
from anndata import AnnData
from mudata import MuData

from mumask.data import keep_order


class _Remote(NamedTuple):
    url: str
    hash: str | None  # as published; None where nobody publishes one
    file: str


_10X = "https://cf.10xgenomics.com/samples"
_REMOTE = {
    # the hash is that of the file in the package scmidas 0.3.0
    "pbmc_mosaic": _Remote(
        "https://raw.githubusercontent.com/labomics/midas/"
        "f10c652368a3702b915d7406fa6fda2e624b8791/src/scmidas/data/quickstart_pbmc_mosaic.h5mu",
        "sha256:ba7e65819b77dca7cae0473043893a471920e25a07ee08bc91b3eb9fcc2e1cdd",
        "quickstart_pbmc_mosaic.h5mu",
    ),
    "pbmc10k_citeseq": _Remote(
        f"{_10X}/cell-exp/3.0.0/pbmc_10k_protein_v3/pbmc_10k_protein_v3_filtered_feature_bc_matrix.h5",
        None,
        "pbmc_10k_protein_v3_filtered_feature_bc_matrix.h5",
    ),
    # hashes of the package mudatasets 0.0.2
    "pbmc5k_citeseq": _Remote(
        f"{_10X}/cell-exp/3.0.2/5k_pbmc_protein_v3/5k_pbmc_protein_v3_filtered_feature_bc_matrix.h5",
        "md5:3366a47283177fe9af143d5819fad61f",
        "5k_pbmc_protein_v3_filtered_feature_bc_matrix.h5",
    ),
    "pbmc3k_multiome": _Remote(
        f"{_10X}/cell-arc/2.0.0/pbmc_granulocyte_sorted_3k/"
        "pbmc_granulocyte_sorted_3k_filtered_feature_bc_matrix.h5",
        "md5:e326066b51ec8975197c29a7f911a4fd",
        "pbmc_granulocyte_sorted_3k_filtered_feature_bc_matrix.h5",
    ),
    # hash of scvi-tools 1.4
    "mpfc_starmap": _Remote(
        "https://exampledata.scverse.org/scvi-tools/mpfc-starmap.h5ad",
        "sha256:c583eaef3835960405c6f1124f5fda36da80db3f940b76c9b2432a8d2e0b80ce",
        "mpfc-starmap.h5ad",
    ),
}

# Antibody counts above which a cell of pbmc10k_citeseq is positive: the valley between the two
# modes of each antibody (mixture of two normal distributions of log counts).
_GATES = {"CD3": 280, "CD4": 70, "CD8a": 270, "CD14": 170, "CD15": 400, "CD16": 190, "CD19": 70}
_GATES |= {"CD56": 65}


def fetch(name: str) -> Path:
    """Download a public file, unless it is there already, and say where it is.

    A file is looked for in the folder named by the environment variable ``MUMASK_DATA``, then in
    the cache (the user's cache folder, or the one named by ``MUMASK_CACHE``), then downloaded
    there by pooch and compared with its published checksum, if there is one.

    Parameters
    ----------
    name
        ``"pbmc10k_citeseq"``, ``"pbmc5k_citeseq"`` or ``"pbmc3k_multiome"`` (10x Genomics, CC BY
        4.0; read them with ``muon.read_10x_h5``); ``"pbmc_mosaic"`` or ``"mpfc_starmap"``, which
        have functions of their own.

    Returns
    -------
    Path of the file.

    Raises
    ------
    KeyError
        If the name is unknown.
    ConnectionError
        If the file is not there and cannot be downloaded.
    ValueError
        If the checksum is another one than published.

    Examples
    --------
    >>> path = mumask.datasets.fetch("pbmc5k_citeseq")  # read it with muon.read_10x_h5(path)
    >>> path.name
    '5k_pbmc_protein_v3_filtered_feature_bc_matrix.h5'
    """
    if name not in _REMOTE:
        raise KeyError(f"There is no data set {name!r}; choose from {list(_REMOTE)}.")
    remote = _REMOTE[name]
    if (path := _local(remote.file)) is not None:
        return path
    cache = os.environ.get("MUMASK_CACHE") or pooch.os_cache("mumask")
    try:
        found = pooch.retrieve(remote.url, remote.hash, fname=remote.file, path=cache)
    except OSError as error:
        raise ConnectionError(
            f"{name!r} could not be downloaded ({type(error).__name__}). Go online once, or get "
            f"{remote.url} and put it into the folder that MUMASK_DATA names."
        ) from error
    return Path(found)


def pbmc_mosaic() -> MuData:
    """Blood cells of four donors, a mosaic of CITE-seq: 1,600 cells, 500 genes, 224 proteins.

    Donor ``p1_0`` has RNA only, ``p2_0`` protein only, ``p3_0`` and ``p4_0`` have both. Cut out of
    GSE164378 (Hao et al., Cell 2021) by the authors of MIDAS, who ship it with scmidas (MIT).

    Returns
    -------
    MuData with the modalities ``"rna"`` and ``"protein"`` (counts), ``obs["batch"]`` and
    ``obs["cell_type"]`` (8 types).

    Raises
    ------
    ConnectionError
        If it is not there and cannot be downloaded, see :func:`fetch`.

    Examples
    --------
    >>> mdata = mumask.datasets.pbmc_mosaic()
    >>> {"batch", "cell_type"} <= set(mdata.obs)
    True
    """
    if (path := _local("pbmc_wnn_mosaic.h5mu")) is not None:
        return _read(path)
    raw = _read(fetch("pbmc_mosaic"))
    obs = raw.obs[["batch", "celltype"]].rename(columns={"celltype": "cell_type"})
    return _assemble({"rna": raw["rna"], "protein": raw["adt"]}, obs.astype("category"))


def pbmc10k_citeseq() -> MuData:
    """Blood cells of one donor by CITE-seq (10x Genomics, CC BY 4.0): genes and 14 proteins.

    Returns
    -------
    MuData with the modalities ``"rna"`` and ``"protein"`` (counts) and ``obs["cell_type"]``: seven
    types gated on antibody counts, ``"Unknown"`` where no gate or no single one fits (about 7 % of
    the cells). As these labels are read off the proteins, they are easy to predict from them;
    predict them from RNA to see what a model can do.

    Raises
    ------
    ConnectionError
        If it is not there and cannot be downloaded, see :func:`fetch`.

    Examples
    --------
    >>> mdata = mumask.datasets.pbmc10k_citeseq()
    >>> list(mdata.mod)
    ['rna', 'protein']
    """
    path = _local("pbmc10k_citeseq.h5mu")
    mdata = _read(path) if path else _citeseq(fetch("pbmc10k_citeseq"))
    types = _gated(mdata["protein"].to_df())
    mdata.obs["cell_type"] = types.reindex(mdata.obs_names).astype("category")
    return mdata


def mpfc_starmap() -> AnnData:
    """Mouse medial prefrontal cortex by STARmap: 3,704 cells, 158 to 166 genes and positions.

    From Wang et al., Science 2018, as distributed with scvi-tools.

    Returns
    -------
    AnnData of counts with ``obsm["spatial"]``, ``obs["cluster"]`` and ``obs["batch"]``, the section.

    Raises
    ------
    ConnectionError
        If it is not there and cannot be downloaded, see :func:`fetch`.

    Examples
    --------
    >>> spatial = mumask.datasets.mpfc_starmap()
    >>> spatial.obsm["spatial"].shape[1]  # x and y
    2
    """
    if (path := _local("mpfc_starmap.h5ad")) is not None:
        return anndata.read_h5ad(path)
    adata = anndata.read_h5ad(fetch("mpfc_starmap"))
    adata.obsm["spatial"] = adata.obs[["x_coord", "y_coord"]].to_numpy(dtype=np.float32)
    adata.obs["cluster"] = adata.obs["labels"].astype(str).astype("category")
    return adata


def mop_snareseq() -> MuData:
    """Mouse primary motor cortex by SNARE-seq: RNA and open chromatin of 10,309 nuclei.

    As prepared by the authors of scMoMaT. There is no single public file of it: this function
    reads ``mop_snareseq.h5mu`` from the folder that the environment variable ``MUMASK_DATA`` names.

    Returns
    -------
    MuData with the modalities ``"rna"`` and ``"atac"`` (counts), ``obs["batch"]`` and
    ``obs["cell_type"]`` (15 types, of which ``"Mis"`` is none).

    Raises
    ------
    FileNotFoundError
        If it is not there.

    Examples
    --------
    >>> mdata = mumask.datasets.mop_snareseq()
    >>> list(mdata.mod)
    ['rna', 'atac']
    """
    path = _local("mop_snareseq.h5mu")
    if path is None:
        raise FileNotFoundError(
            "'mop_snareseq' has no public download; put mop_snareseq.h5mu into the folder that "
            "MUMASK_DATA names."
        )
    return _read(path)


def _local(file: str) -> Path | None:
    folder = os.environ.get("MUMASK_DATA")
    path = Path(folder, file) if folder else None
    return path if path is not None and path.is_file() else None


def _read(path: Path) -> MuData:
    with keep_order():
        return mudata.read_h5mu(path)


def _assemble(modalities: dict[str, AnnData], obs: pd.DataFrame | None = None) -> MuData:
    """MuData whose modalities have no obs of their own."""
    for adata in modalities.values():
        adata.obs = adata.obs[[]]
    with keep_order():
        mdata = MuData(modalities)
    if obs is not None:
        mdata.obs = obs.reindex(mdata.obs_names)
    return mdata


def _citeseq(path: Path) -> MuData:
    """CITE-seq counts of 10x Genomics: names as people say them, no control antibodies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicated gene names, dealt with here
        import muon  # takes seconds to import

        with keep_order():
            raw = muon.read_10x_h5(path)
    rna, protein = raw["rna"], raw["prot"]
    rna.var_names_make_unique()
    protein.var_names = protein.var_names.str.replace("_TotalSeqB", "")
    protein = protein[:, ~protein.var_names.str.contains("control")].copy()
    return _assemble({"rna": rna, "protein": protein})


def _gated(counts: pd.DataFrame) -> pd.Series:
    """Cell types by gates on antibody counts, cells x proteins."""
    has = pd.DataFrame({name: counts[name] > gate for name, gate in _GATES.items()})
    t = has["CD3"] & ~has["CD19"] & ~has["CD14"] & ~has["CD15"]
    naive = counts["CD45RA"] > counts["CD45RO"]
    lone = ~has["CD3"] & ~has["CD19"]
    gates = {
        "B": has["CD19"] & ~has["CD3"] & ~has["CD14"],
        "CD4 T naive": t & has["CD4"] & ~has["CD8a"] & naive,
        "CD4 T memory": t & has["CD4"] & ~has["CD8a"] & ~naive,
        "CD8 T": t & has["CD8a"] & ~has["CD4"],
        "NK": lone & has["CD56"] & ~has["CD14"] & ~has["CD15"],
        "CD14 Mono": lone & has["CD14"] & ~has["CD16"],
        "CD16 Mono": lone & has["CD16"] & has["CD4"] & ~has["CD56"] & ~has["CD15"],
    }
    inside = np.column_stack(list(gates.values()))
    names = np.array(list(gates))[inside.argmax(axis=1)]
    return pd.Series(np.where(inside.sum(axis=1) == 1, names, "Unknown"), index=counts.index)
