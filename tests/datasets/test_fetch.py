"""Public data sets: cache, checksum, offline, and what the loaders make of the files."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from mumask import datasets
from mumask.datasets import _fetch

ANTIBODIES = [*_fetch._GATES, "CD45RA", "CD45RO"]
TYPICAL = {  # counts of a typical cell of each type, all others low
    "B": {"CD19": 600, "CD45RA": 3000},
    "CD4 T naive": {"CD3": 1700, "CD4": 2400, "CD45RA": 1800},
    "CD4 T memory": {"CD3": 1700, "CD4": 3000, "CD45RO": 900},
    "CD8 T": {"CD3": 1600, "CD8a": 5000, "CD45RA": 2900},
    "NK": {"CD16": 1000, "CD56": 370, "CD45RA": 4000},
    "CD14 Mono": {"CD14": 1200, "CD4": 300, "CD45RO": 400},
    "CD16 Mono": {"CD16": 1500, "CD4": 380, "CD45RA": 700},
    "Unknown": {},
}


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.delenv("MUMASK_DATA", raising=False)
    monkeypatch.setenv("MUMASK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path):
    """Folder that is served on this machine, its address, and what was asked for."""
    folder = tmp_path / "site"
    folder.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def serve(monkeypatch, site, name, known_hash="right", content=b"counts"):
    """Let a public name stand for a file of the site."""
    folder, address, _ = site
    file = _fetch._REMOTE[name].file
    if content is not None:
        (folder / file).write_bytes(content)
    if known_hash == "right":
        known_hash = "sha256:" + hashlib.sha256((folder / file).read_bytes()).hexdigest()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    remote = _fetch._Remote(f"{address}/{file}", known_hash, file)
    monkeypatch.setitem(_fetch._REMOTE, name, remote)


@pytest.mark.parametrize("known_hash", ["right", None])
def test_downloaded_once(monkeypatch, site, known_hash):
    serve(monkeypatch, site, "pbmc5k_citeseq", known_hash)
    path = datasets.fetch("pbmc5k_citeseq")
    assert path.read_bytes() == b"counts"
    assert path.name == _fetch._REMOTE["pbmc5k_citeseq"].file
    assert datasets.fetch("pbmc5k_citeseq") == path
    assert len(site[2]) == 1


def test_another_checksum_is_an_error(monkeypatch, site):
    serve(monkeypatch, site, "pbmc5k_citeseq", "sha256:" + "0" * 64)
    with pytest.raises(ValueError, match="hash"):
        datasets.fetch("pbmc5k_citeseq")
    assert not list((site[0].parent / "cache").iterdir())  # nothing is kept


def test_offline_says_what_to_do(monkeypatch):
    remote = _fetch._Remote("http://127.0.0.1:9/file.h5", None, "file.h5")
    monkeypatch.setitem(_fetch._REMOTE, "pbmc5k_citeseq", remote)
    with pytest.raises(ConnectionError, match=r"127.0.0.1:9/file.h5.*MUMASK_DATA"):
        datasets.fetch("pbmc5k_citeseq")
    with pytest.raises(FileNotFoundError, match="MUMASK_DATA"):
        datasets.mop_snareseq()


def test_own_folder_goes_first(monkeypatch, tmp_path):
    file = _fetch._REMOTE["pbmc5k_citeseq"].file
    (tmp_path / file).touch()
    monkeypatch.setenv("MUMASK_DATA", str(tmp_path))
    assert datasets.fetch("pbmc5k_citeseq") == tmp_path / file


def test_unknown_name():
    with pytest.raises(KeyError, match="pbmc5k_citeseq"):
        datasets.fetch("pbmc6k")


def test_published_files_are_addressed_by_https_and_checked():
    for name, remote in _fetch._REMOTE.items():
        assert remote.url.startswith("https://"), name
        assert remote.hash is None or remote.hash.split(":")[0] in ("md5", "sha256"), name
    assert [name for name, remote in _fetch._REMOTE.items() if remote.hash is None] == [
        "pbmc10k_citeseq"
    ]


def write_10x(path, counts, names, kinds):
    """A feature-barcode matrix of Cell Ranger 3."""
    matrix = sp.csc_matrix(counts.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["shape"] = matrix.shape
        group["data"], group["indices"] = matrix.data.astype(np.int32), matrix.indices
        group["indptr"] = matrix.indptr.astype(np.int64)
        group["barcodes"] = np.array([f"cell{i}-1" for i in range(len(counts))], "S")
        features = group.create_group("features")
        features["id"] = np.array([f"id{i}" for i in range(len(names))], "S")
        features["name"] = np.array(names, "S")
        features["feature_type"] = np.array(kinds, "S")
        features["genome"] = np.array(["GRCh38"] * len(names), "S")


def test_citeseq_as_published(monkeypatch, site):
    """Antibodies get their plain names, controls go, repeated genes stay, types are gated."""
    genes = ["CD19", "MS4A1", "MS4A1"]
    antibodies = [f"{name}_TotalSeqB" for name in ANTIBODIES] + ["IgG2a_control_TotalSeqB"]
    kinds = ["Gene Expression"] * len(genes) + ["Antibody Capture"] * len(antibodies)
    counts = np.full((len(TYPICAL), len(kinds)), 10)
    for row, levels in zip(counts, TYPICAL.values(), strict=True):
        for name, level in levels.items():
            row[len(genes) + ANTIBODIES.index(name)] = level
    write_10x(site[0] / _fetch._REMOTE["pbmc10k_citeseq"].file, counts, genes + antibodies, kinds)
    serve(monkeypatch, site, "pbmc10k_citeseq", content=None)

    mdata = datasets.pbmc10k_citeseq()
    assert list(mdata.mod) == ["rna", "protein"]
    assert list(mdata["rna"].var_names) == ["CD19", "MS4A1", "MS4A1-1"]
    assert list(mdata["protein"].var_names) == ANTIBODIES
    assert mdata["protein"].to_df().loc["cell0-1", "CD19"] == 600
    assert list(mdata.obs["cell_type"]) == list(TYPICAL)
    assert list(mdata.obs.columns) == ["cell_type"]


def test_a_cell_in_two_gates_has_no_type():
    doublet = pd.DataFrame(
        [dict.fromkeys(ANTIBODIES, 10) | {"CD19": 600, "CD3": 2000, "CD4": 2000}]
    )
    assert list(_fetch._gated(doublet)) == ["Unknown"]


def test_starmap_as_distributed(monkeypatch, site):
    cells = [f"cell{i}" for i in range(3)]
    obs = {"labels": ["Astro", "Sst", "Astro"], "x_coord": [0, 1, 2], "y_coord": [5, 6, 7]}
    adata = anndata.AnnData(
        sp.csr_matrix(np.eye(3, dtype=np.float32)), obs=pd.DataFrame(obs, index=cells)
    )
    adata.write_h5ad(site[0] / _fetch._REMOTE["mpfc_starmap"].file)
    serve(monkeypatch, site, "mpfc_starmap", content=None)
    spatial = datasets.mpfc_starmap()
    np.testing.assert_array_equal(spatial.obsm["spatial"], [[0, 5], [1, 6], [2, 7]])
    assert list(spatial.obs["cluster"]) == obs["labels"]


@pytest.mark.real
def test_real_files(monkeypatch, real_data):
    """From the folder: what the tutorials rely on."""
    monkeypatch.setenv("MUMASK_DATA", str(real_data))
    mosaic = datasets.pbmc_mosaic()
    assert (mosaic["rna"].shape, mosaic["protein"].shape) == ((1200, 500), (1200, 224))
    mdata = datasets.pbmc10k_citeseq()
    # gates agree with the annotation by clustering: a gated type is one group of clusters
    shares = pd.crosstab(mdata.obs["wnn_cluster"], mdata.obs["cell_type"], normalize="index")
    assert (shares.max(axis=1) > 0.8).sum() >= 11
    assert (mdata.obs["cell_type"] == "Unknown").mean() < 0.1
    assert datasets.mpfc_starmap().obsm["spatial"].shape == (3704, 2)
    assert datasets.mop_snareseq().obs["cell_type"].nunique() == 15
