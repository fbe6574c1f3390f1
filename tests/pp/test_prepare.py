import logging
from types import SimpleNamespace

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from mumask import MaskedVAE, datasets, pp


@pytest.fixture
def simulated():
    return datasets.simulate_mosaic(60, n_features={"rna": 150, "protein": 12, "atac": 200})


def test_layers_are_added_and_counts_stay(simulated):
    before = {name: adata.X.copy() for name, adata in simulated.mod.items()}
    pp.lognorm(simulated)
    pp.clr(simulated)
    pp.clr(simulated, axis=1, to_layer="clr_cells")
    pp.tfidf(simulated)
    for name, X in before.items():
        assert (simulated[name].X != X).nnz == 0
    rna = simulated["rna"]
    np.testing.assert_allclose(np.expm1(rna.layers["lognorm"].toarray()).sum(1), 1e4, rtol=1e-3)
    assert simulated["protein"].layers["clr"].shape == simulated["protein"].shape
    assert sp.issparse(simulated["atac"].layers["tfidf"])
    assert np.isfinite(simulated["atac"].layers["tfidf"].data).all()
    # zeros stay zero, everything else is above
    assert (rna.layers["lognorm"].toarray() > 0).sum() == before["rna"].nnz


@pytest.mark.parametrize("storage", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asarray])
def test_transformations_of_any_storage(simulated, storage):
    dense = simulated["protein"].X.toarray().astype(np.int64)
    simulated["protein"].X = storage(dense)
    pp.clr(simulated)
    pp.lognorm(simulated, "protein")
    pp.tfidf(simulated, "protein")
    pp.binarize(simulated, "protein", to_layer="on")
    on = simulated["protein"].layers["on"]
    np.testing.assert_array_equal(on.toarray() if sp.issparse(on) else on, dense > 0)
    X = simulated["protein"].X
    np.testing.assert_array_equal(X.toarray() if sp.issparse(X) else X, dense)


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">i4"])
def test_values_that_sparse_matrices_cannot_hold(simulated, dtype):
    """Half precision, and the byte order of another machine."""
    other = simulated.copy()
    for name in ("rna", "atac"):
        other[name].X = other[name].X.toarray().astype(dtype)
        other[name].obsm["spatial"] = np.arange(2.0 * other[name].n_obs).reshape(-1, 2)
        simulated[name].obsm["spatial"] = other[name].obsm["spatial"]
    for mdata in (simulated, other):
        mdata["atac"].var_names = [f"chr1:{500 * i}-{500 * i + 200}" for i in range(200)]
        mdata.update()
        pp.lognorm(mdata)
        pp.clr(mdata, "rna")
        pp.tfidf(mdata)
        pp.binarize(mdata, to_layer="on")
        pp.gene_activity(mdata, 2000)
        pp.spatial_context(mdata, n_neighbors=3)
    made = [("rna", "lognorm"), ("rna", "clr"), ("atac", "tfidf"), ("atac", "on")]
    for name, layer in [*made, ("activity", None), ("context", None)]:
        expected = simulated[name].to_df(layer)
        np.testing.assert_allclose(other[name].to_df(layer), expected, rtol=1e-5, err_msg=layer)
    ready, expected = (pp.prepare(mdata, n_top_genes=30) for mdata in (other, simulated))
    assert list(ready["rna"].var_names) == list(expected["rna"].var_names)


def test_clr_of_panels_that_differ():
    """The advice of the docstring: only centring over cells keeps shared proteins comparable."""
    counts = np.random.default_rng(0).poisson(20, (400, 8)).astype(np.float32)
    half = np.arange(400) < 200
    counts[np.ix_(half, np.arange(4, 8))] = 0  # which this half did not measure
    mdata = md.MuData({"protein": ad.AnnData(counts)})
    shift = []
    for axis in (0, 1):
        pp.clr(mdata, axis=axis)
        shared = mdata["protein"].layers["clr"][:, :4]
        shift.append(abs(shared[half].mean() - shared[~half].mean()))
    assert shift[0] < 0.01 < 0.5 < shift[1]


def test_binarize_keeps_the_counts(simulated):
    counts = 3 * simulated["atac"].X
    simulated["atac"].X = counts.copy()
    pp.binarize(simulated)
    assert sp.issparse(simulated["atac"].X)
    assert set(simulated["atac"].X.data) == {1.0}
    assert (simulated["atac"].layers["counts"] != counts).nnz == 0
    MaskedVAE.setup_mudata(simulated, likelihoods={"atac": "bernoulli"})
    simulated["atac"].X = -counts
    with pytest.raises(ValueError, match="negative"):
        pp.binarize(simulated)


def test_binarize_a_layer_without_x(simulated):
    atac = simulated["atac"]
    atac.layers["raw"] = 2 * atac.X
    atac.X = None
    pp.binarize(simulated, layer="raw")
    assert set(atac.X.data) == {1.0} and "counts" not in atac.layers


@pytest.mark.parametrize("flavor", ["seurat", "frequency", "auto"])
def test_selection(simulated, flavor):
    chosen = pp.select_features(simulated, "rna", 40, batch_key="batch", flavor=flavor)
    assert chosen["rna"].n_vars == 40
    assert simulated["rna"].n_vars == 150
    assert chosen.n_vars == 40 + 12 + 200
    assert chosen["rna"].var_names.isin(simulated["rna"].var_names).all()
    assert list(chosen.obs) == list(simulated.obs)
    assert (chosen["rna"].X != simulated["rna"][:, chosen["rna"].var_names].X).nnz == 0


def test_cells_without_a_count_in_the_chosen_features_are_told(simulated):
    """Fifty cells lose all their counts: what the warning says to do makes them usable."""
    rna = simulated["rna"]
    X = rna.X.toarray()
    X[:50] = 0
    X[np.arange(50), np.argsort((X > 0).sum(axis=0))[:50]] = 1
    rna.X = sp.csr_matrix(X)
    with pytest.warns(
        UserWarning, match=r"'rna': 50 cells have no count.*CITE-seq_.*47 more"
    ) as told:
        chosen = pp.select_features(simulated, "rna", 40, flavor="frequency")
    assert chosen["rna"].n_obs == rna.n_obs
    with pytest.raises(ValueError, match="no non-zero value at all in 50 cells"):
        MaskedVAE.setup_mudata(chosen)
    ours = next(str(one.message) for one in told if "have no count" in str(one.message))
    way_out = ours.split("not measured: ")[1].split(" mumask.pp")[0].rstrip(".")
    exec(way_out, {"np": np, "mdata": chosen})
    assert chosen["rna"].n_obs == rna.n_obs - 50
    kept_by_protein = chosen[chosen.obs_names.isin(chosen["protein"].obs_names)]
    assert kept_by_protein.n_obs == simulated["protein"].n_obs


@pytest.mark.filterwarnings("ignore:.*have no count in any")
def test_exactly_as_many_genes_as_asked(simulated):
    """Scanpy keeps all that tie for the last place, and none without a dispersion."""
    rna = simulated["rna"]
    first = rna.X.toarray()
    order = pp.select_features(simulated, "rna", 10)["rna"].var_names
    twins = np.hstack([first, first, first[:, :20] * 0 + 1])  # each gene twice, 20 are constant
    mdata = md.MuData({"rna": ad.AnnData(sp.csr_matrix(twins), obs=rna.obs.copy())})
    chosen = pp.select_features(mdata, "rna", 21)["rna"]
    assert chosen.n_vars == 21
    assert pp.prepare(mdata, n_top_genes=21)["rna"].n_vars == 21
    assert pp.select_features(mdata, "rna", 315)["rna"].n_vars == 315
    shell = ad.AnnData(rna.X.copy(), var=rna.var.copy())
    sc.pp.normalize_total(shell, target_sum=1e4)
    sc.pp.log1p(shell)
    sc.pp.highly_variable_genes(shell, n_top_genes=10)
    assert list(order) == list(rna.var_names[shell.var["highly_variable"]])


def test_batches_in_which_no_gene_varies_are_named(simulated):
    """A cell alone; twenty, because rounding gives some of them a variance."""
    alone = {name: f"alone{i}" for i, name in enumerate(simulated["rna"].obs_names[:20])}
    simulated.obs["lane"] = [alone.get(name, "others") for name in simulated.obs_names]
    match = r"`batch_key`: no feature varies in the batches \['alone\d+'(, 'alone\d+')*\].*Join"
    with pytest.raises(ValueError, match=match):
        pp.select_features(simulated, "rna", 40, batch_key="lane")
    with pytest.raises(ValueError, match=match):
        pp.prepare(simulated, batch_key="lane", n_top_genes=40)
    same = md.MuData({"rna": ad.AnnData(np.ones((4, 60), np.float32))})
    with pytest.raises(ValueError, match="No feature varies among these 4 cells.*frequency"):
        pp.select_features(same, "rna", 40)


def test_selection_by_scikit_misc():
    pytest.importorskip("skmisc")
    mdata = datasets.simulate_mosaic(300, n_features={"rna": 400, "protein": 5, "atac": 20})
    assert pp.select_features(mdata, "rna", 40, flavor="seurat_v3")["rna"].n_vars == 40


def test_selection_by_batch_is_that_of_scanpy(simulated):
    chosen = pp.select_features(simulated, "rna", 40, batch_key="batch")
    shell = simulated["rna"].copy()
    shell.obs["group"] = simulated.obs["batch"].reindex(shell.obs_names).astype(str)
    sc.pp.normalize_total(shell, target_sum=1e4)
    sc.pp.log1p(shell)
    by_batch, at_once = (
        sc.pp.highly_variable_genes(shell, n_top_genes=40, batch_key=key, inplace=False)
        for key in ("group", None)
    )
    kept = simulated["rna"].var_names.isin(chosen["rna"].var_names)
    np.testing.assert_array_equal(kept, by_batch["highly_variable"])
    assert (kept != at_once["highly_variable"]).any()


def test_selection_in_place_and_by_kind(simulated):
    assert pp.select_features(simulated, "protein", 4).n_vars == simulated.n_vars
    assert pp.select_features(simulated, "atac", 50, inplace=True) is None
    assert simulated["atac"].n_vars == 50
    chosen = pp.select_features(simulated, "atac", 10)["atac"]
    assert chosen.X.mean() > simulated["atac"].X.mean()


def test_prepare_says_what_it_does_and_leaves_the_data(simulated, caplog, unchanged):
    rna = simulated["rna"]
    X = rna.X.tolil()
    X[:3] = 0
    X[:, 5] = 0
    rna.X = sp.csr_matrix(X)
    simulated["atac"].X = 2 * simulated["atac"].X
    check = unchanged(simulated)
    with caplog.at_level(logging.INFO, logger="mumask"):
        ready = pp.prepare(simulated, batch_key="batch", n_top_genes=80, n_top_peaks=100)
    check()
    assert ready["rna"].shape == (rna.n_obs - 3, 80)
    assert ready["atac"].n_vars == 100
    assert set(ready["atac"].X.data) == {1.0}
    assert "counts" in ready["atac"].layers
    for text in ("3 cells and 1 features", "80 most variable", "100 most frequent", "0 and 1"):
        assert text in caplog.text
    lost = rna.obs_names[:3]
    alone = lost.difference(simulated["protein"].obs_names)
    assert ready.n_obs == simulated.n_obs - len(alone)
    assert list(ready.obs["batch"]) == list(simulated.obs.loc[ready.obs_names, "batch"])
    MaskedVAE.setup_mudata(ready, batch_key="batch")


def test_prepare_copies_the_data_once(simulated, monkeypatch):
    whole, copy = [], ad.AnnData.copy
    monkeypatch.setattr(
        ad.AnnData,
        "copy",
        lambda self, *args: (whole.append(not self.is_view), copy(self, *args))[1],
    )
    pp.prepare(simulated, n_top_genes=80)
    assert sum(whole) == len(simulated.mod)


@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_prepare_in_place_is_all_or_nothing(simulated, monkeypatch, unchanged):
    simulated["rna"].var_names = ["twin", "twin", *simulated["rna"].var_names[2:]]
    simulated.update()
    check = unchanged(simulated)

    def fails(values, limit, flavor, batch):
        if flavor == "frequency":  # of the last modality
            raise MemoryError
        return rank(values, limit, flavor, batch)

    rank = pp._prepare.rank_features
    monkeypatch.setattr(pp._prepare, "rank_features", fails)
    with pytest.raises(MemoryError):
        pp.prepare(simulated, n_top_genes=80, n_top_peaks=100, inplace=True)
    check()


def test_prepare_takes_batches_by_name(simulated):
    """A column of numbers means the same whether a join made floats of it or not."""
    kinds = simulated.obs["batch"].astype("category").cat.codes
    columns = []
    for batch in (kinds.astype(int), kinds.astype(float), kinds.astype(str)):
        simulated.obs["lane"] = batch
        columns.append(pp._mudata.column_by_cell(simulated, simulated["rna"], "lane"))
    pd.testing.assert_series_equal(columns[1], columns[0])
    pd.testing.assert_series_equal(columns[2], columns[0])


def test_prepare_finds_the_counts(simulated, caplog):
    counts = simulated["rna"].X.copy()
    simulated["rna"].layers["counts"] = counts
    simulated["rna"].X = np.log1p(counts)
    simulated["protein"].X = np.log1p(simulated["protein"].X)
    names = simulated["rna"].var_names.to_list()
    with caplog.at_level(logging.INFO, logger="mumask"):
        assert pp.prepare(simulated, inplace=True) is None
    assert (simulated["rna"][:, names].X != counts).nnz == 0
    assert "'protein' holds no counts" in caplog.text


@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_prepare_makes_gene_names_unique(simulated):
    rna = simulated["rna"]
    rna.var_names = ["twin", "twin", *rna.var_names[2:]]
    ready = pp.prepare(simulated)
    assert list(ready["rna"].var_names) == ["twin", "twin-1", *rna.var_names[2:]]
    assert not rna.var_names.is_unique


@pytest.mark.filterwarnings("ignore:.*names are not unique")
@pytest.mark.parametrize("pull", [None, True, False])
@pytest.mark.parametrize("inplace", [False, True])
def test_prepare_filters_features_whose_names_were_repeated(simulated, inplace, pull):
    names = simulated["rna"].var_names[2:]
    simulated["rna"].var_names = ["twin", "twin", *names]
    options = getattr(md, "set_options", lambda **_: SimpleNamespace(opts={}))  # gone in mudata 0.4
    before = options(pull_on_update=pull).opts
    try:
        mdata = md.MuData(dict(simulated.mod))
        mdata.varm["row"] = np.arange(float(mdata.n_vars))[:, None]
        ready = pp.prepare(mdata, n_top_genes=140, inplace=inplace)
        ready = mdata if inplace else ready
        row = pd.Series(np.arange(150.0), ["twin", "twin-1", *names])
        assert ready["rna"].shape == (simulated["rna"].n_obs, 140)
        assert {"twin", "twin-1"} <= set(ready["rna"].var_names)
        found = pd.Series(ready.varm["row"][:, 0], ready.var_names)[ready["rna"].var_names]
        np.testing.assert_array_equal(found, row[ready["rna"].var_names])
        MaskedVAE.setup_mudata(ready)
    finally:
        options(**{"pull_on_update": None, **before})


@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_prepare_follows_a_filter_without_update(simulated):
    rna = simulated["rna"]
    rna.var_names = ["twin", "twin", *rna.var_names[2:]]
    simulated.update()
    simulated.mod["rna"] = rna[:, :100].copy()
    pp.prepare(simulated, n_top_genes=80, inplace=True)
    assert simulated.n_vars == 80 + 12 + 200


def test_kinds_by_feature_type(simulated):
    adata = simulated["rna"].copy()
    adata.var["feature_types"] = "Gene Expression"
    mdata = md.MuData({"x": adata})
    assert pp.prepare(mdata, n_top_genes=30)["x"].n_vars == 30


def test_wrong_arguments(simulated):
    with pytest.raises(KeyError, match="'adt' is not in the MuData"):
        pp.clr(simulated, "adt")
    with pytest.raises(KeyError, match="no layer 'raw'"):
        pp.lognorm(simulated, layer="raw")
    for transform in (pp.lognorm, pp.clr, pp.tfidf):
        with pytest.raises(TypeError, match="`to_layer` is None; name the layer"):
            transform(simulated, to_layer=None)
    for wrong in ({"copy": True}, {"inplace": False}, {"from_layer": "raw"}):
        with pytest.raises(TypeError, match=rf"tfidf takes no \['{next(iter(wrong))}'\]"):
            pp.tfidf(simulated, **wrong)
    with pytest.raises(TypeError, match="Expected a MuData"):
        pp.lognorm(simulated["rna"])
    with pytest.raises(ValueError, match="view"):
        pp.lognorm(simulated[:10])
    with pytest.raises(ValueError, match="n_top"):
        pp.select_features(simulated, n_top=0)
    for limit in ("n_top_genes", "n_top_peaks"):
        with pytest.raises(ValueError, match=f"`{limit}` is 0.*None keeps all"):
            pp.prepare(simulated, **{limit: 0})
    with pytest.raises(KeyError, match="batch_key"):
        pp.prepare(simulated, batch_key="lane")
