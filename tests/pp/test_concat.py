import logging

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from mumask import MaskedVAE, pp


def adata(cells, features, *, sparse=True, obs=None, seed=0):
    rng = np.random.default_rng(seed)
    counts = 1 + rng.poisson(2, (len(cells), len(features))).astype(np.float32)
    return ad.AnnData(
        sp.csr_matrix(counts) if sparse else counts,
        obs=pd.DataFrame(obs or {}, index=list(cells)),
        var=pd.DataFrame(index=list(features)),
    )


def names(prefix, n):
    return [f"{prefix}{i}" for i in range(n)]


@pytest.fixture
def batches():
    spatial = adata(names("s", 9), ["g3", "g1", "g7"], sparse=False, seed=3)
    spatial.obsm["spatial"] = np.arange(18.0).reshape(9, 2)
    return {
        "cite": {
            "rna": adata(names("c", 8), names("g", 5), obs={"type": ["a"] * 8}),
            "protein": adata(names("c", 8)[::-1], ["p1", "p2"], seed=1),
        },
        "asap": {"protein": adata(names("a", 6), ["p2", "p1"], seed=2)},
        "spatial": spatial,
    }


def test_values_come_by_name(batches):
    mdata = pp.concat_batches(batches)
    assert list(mdata["rna"].var_names) == ["g0", "g1", "g2", "g3", "g4", "g7"]
    assert mdata.n_obs == 23
    for batch, mods in {**batches, "spatial": {"rna": batches["spatial"]}}.items():
        for name, source in mods.items():
            merged = mdata[name][source.obs_names, source.var_names]
            np.testing.assert_array_equal(merged.to_df(), source.to_df(), err_msg=batch)
    unmeasured = mdata["rna"][batches["spatial"].obs_names, ["g0", "g2", "g4"]].X
    assert unmeasured.nnz == 0
    assert mdata["rna"].X.nnz == 8 * 5 + 9 * 3  # zeros that were not measured are not stored


def test_cells_are_only_where_they_were_measured(batches):
    mdata = pp.concat_batches(batches)
    assert set(mdata["protein"].obs_names) == set(names("c", 8) + names("a", 6))
    assert mdata.obs["batch"].value_counts().to_dict() == {"cite": 8, "asap": 6, "spatial": 9}
    assert list(mdata.obs["batch"].cat.categories) == ["cite", "asap", "spatial"]


def test_batches_stay_as_they_are(batches):
    before = batches["spatial"].copy()
    pp.concat_batches(batches)
    assert list(batches["spatial"].var_names) == list(before.var_names)
    assert list(batches["spatial"].obs_names) == list(before.obs_names)
    np.testing.assert_array_equal(batches["spatial"].X, before.X)


def test_panels_survive_a_file_and_a_subset_and_reach_the_model(batches, tmp_path):
    mdata = pp.concat_batches(batches)
    mdata.write(tmp_path / "m.h5mu")
    again = mudata.read_h5mu(tmp_path / "m.h5mu")
    panels = pp.panels(again)
    assert panels["rna"] == {"cite": names("g", 5), "spatial": ["g1", "g3", "g7"]}
    assert set(panels["protein"]["asap"]) == {"p1", "p2"}
    again.mod["rna"] = again["rna"][:, ["g7", "g0", "g1"]].copy()
    again.update()
    panels = pp.panels(again)
    assert panels["rna"]["spatial"] == ["g7", "g1"]
    MaskedVAE.setup_mudata(again, batch_key="batch")  # the record is read without being told
    module = MaskedVAE(again, n_latent=2, n_hidden=4).module
    assert module.panel_rna.tolist()[2] == [True, False, True]


def test_panels_of_batches_that_are_gone_are_left_out(batches):
    mdata = pp.concat_batches(batches)
    fewer = mdata[mdata.obs["batch"] != "spatial"].copy()
    assert list(pp.panels(fewer)["rna"]) == ["cite"]
    with pytest.raises(KeyError, match="donor"):
        pp.panels(mdata, "donor")


def test_no_record_no_panels(mosaic):
    assert pp.panels(mosaic) == {}


def test_names_that_occur_twice_get_their_batch(batches):
    batches["spatial"].obs_names = names("c", 9)
    mdata = pp.concat_batches(batches)
    assert mdata.obs_names.is_unique
    assert "cite_c0" in mdata["protein"].obs_names
    assert "spatial_c8" in mdata["rna"].obs_names
    assert mdata.n_obs == 23


def test_spatial_positions_are_kept(batches):
    mdata = pp.concat_batches(batches)
    rna = mdata["rna"]
    here = rna.obs_names.str.startswith("s")
    np.testing.assert_array_equal(rna.obsm["spatial"][here], batches["spatial"].obsm["spatial"])
    assert np.isnan(rna.obsm["spatial"][~here]).all()


def test_columns_come_up_where_every_cell_agrees(batches):
    batches["cite"]["rna"].obs["depth"] = 1.0
    batches["cite"]["protein"].obs["depth"] = 2.0
    for value in (batches["cite"]["rna"], batches["asap"]["protein"], batches["spatial"]):
        value.obs["donor"] = "d1"
    mdata = pp.concat_batches(batches, obs_keys=["type"])
    assert list(mdata.obs) == ["batch", "type", "donor"]
    assert mdata.obs["type"].value_counts().to_dict() == {"Unknown": 15, "a": 8}
    with pytest.raises(ValueError, match="differ in 'depth'"):
        pp.concat_batches(batches, obs_keys=["depth"])
    with pytest.raises(KeyError, match="nowhere"):
        pp.concat_batches(batches, obs_keys=["nowhere"])


def test_flags_that_some_lack_are_written(batches, tmp_path):
    """Of features, of cells of one modality, and at the top."""
    rna = batches["cite"]["rna"]
    rna.var["variable"] = [True, False, True, False, True]  # not of g7
    batches["cite"]["protein"].var["isotype"] = [True, False]  # all proteins of the other batch
    rna.obs["doublet"] = np.arange(8) == 3
    mdata = pp.concat_batches(batches, obs_keys=["doublet"])
    mdata.write(tmp_path / "m.h5mu")
    again = mudata.read_h5mu(tmp_path / "m.h5mu")
    for table in (again.obs, again["rna"].obs):
        assert table["doublet"].dtype == "boolean"
        assert table["doublet"].isna().sum() == len(table) - 8
        assert list(table.index[table["doublet"].fillna(False)]) == ["c3"]
    variable = again["rna"].var["variable"]
    assert variable.dtype == "boolean" and variable.isna().sum() == 1 and variable.sum() == 3
    assert again["protein"].var["isotype"].dtype == bool


def test_a_mudata_is_a_batch(mosaic, batches):
    mdata = pp.concat_batches({"old": mosaic, "new": batches["spatial"]}, obs_keys=["site"])
    assert mdata.n_obs == mosaic.n_obs + 9
    assert set(mdata.mod) == {"rna", "protein", "atac"}
    assert (mdata.obs.loc[mosaic.obs_names, "site"] == mosaic.obs["site"]).all()
    assert (mdata.obs.loc[names("s", 9), "site"] == "Unknown").all()
    assert mdata.obs["batch"].value_counts().to_dict() == {"old": 90, "new": 9}


def test_layers_of_all_batches_are_kept(batches, caplog):
    for value in (batches["cite"]["rna"], batches["spatial"]):
        value.layers["twice"] = 2 * value.X
    batches["spatial"].layers["own"] = batches["spatial"].X
    with caplog.at_level(logging.INFO, logger="mumask"):
        mdata = pp.concat_batches(batches)
    assert set(mdata["rna"].layers) - {None} == {"twice"}  # anndata 0.13 lists X, as None
    assert (mdata["rna"].layers["twice"] != 2 * mdata["rna"].X).nnz == 0
    assert "'own'" in caplog.text


def test_dense_stays_dense_where_panels_agree():
    mdata = pp.concat_batches(
        {b: adata(names(b, 4), f, sparse=False) for b, f in {"x": "pq", "y": "qp"}.items()}
    )
    assert isinstance(mdata["rna"].X, np.ndarray)
    assert pp.panels(mdata)["rna"] == {"x": ["p", "q"], "y": ["p", "q"]}


@pytest.mark.parametrize("sparse", [True, False])
def test_features_in_another_order_are_matched_by_name(sparse):
    parts = {
        b: adata(names(b, 4), f, sparse=sparse, seed=len(b))
        for b, f in (("x", "pqr"), ("yy", "rpq"))
    }
    joined = pp.concat_batches(parts)["rna"]
    assert list(joined.var_names) == list("pqr")
    for part in parts.values():
        found = joined[part.obs_names, part.var_names].to_df()
        np.testing.assert_array_equal(found, part.to_df())


def test_annotation_of_features_comes_from_whichever_batch_has_it(batches):
    rna, spatial = batches["cite"]["rna"], batches["spatial"]
    rna.var["chromosome"] = ["1", None, "3", None, "5"]
    spatial.var["chromosome"] = ["other", "2", "7"]  # of g3, g1 and g7
    spatial.var["length"] = [3.0, 1.0, 7.0]
    var = pp.concat_batches(batches)["rna"].var
    assert var["chromosome"].astype(object).to_dict() == {
        "g0": "1", "g1": "2", "g2": "3", "g3": "other", "g4": "5", "g7": "7"
    }  # fmt: skip
    assert var["length"].dropna().to_dict() == {"g1": 1.0, "g3": 3.0, "g7": 7.0}


def test_what_is_named_like_a_modality_of_another_batch_does_not_hide_its_cells(mosaic, batches):
    mosaic.mod.pop("protein")
    mosaic.obsm["protein"] = np.full((mosaic.n_obs, 2), 7.0)
    joined = pp.concat_batches({"old": mosaic, "new": batches["asap"]})
    has = joined.obs_names.isin(joined["protein"].obs_names)
    assert 0 < has.sum() < joined.n_obs
    np.testing.assert_array_equal(np.ravel(joined.obsm["protein"]), has)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update({"a/b": b["spatial"]}), "slash"),
        (lambda b: b.update({"none": {}}), "no modality"),
        (lambda b: b.update({"e": b["spatial"][:0]}), "empty"),
        (lambda b: b.update({"t": adata(["x", "x"], "ab")}), "obs names are not unique"),
        (lambda b: b.update({"t": adata("xy", "aa")}), "var names are not unique"),
        (lambda b: b.clear(), "empty"),
        (lambda b: b.update({1: b["spatial"], "1": b["spatial"]}), "one batch"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_bad_batches(batches, change, message):
    change(batches)
    with pytest.raises(ValueError, match=message):
        pp.concat_batches(batches)


def test_a_batch_in_a_file(batches, tmp_path):
    batches["asap"]["protein"].write(tmp_path / "asap.h5ad")
    batches["asap"]["protein"] = ad.read_h5ad(tmp_path / "asap.h5ad", backed="r")
    with pytest.raises(ValueError, match="Batch 'asap', modality 'protein' is backed.*read_h5ad"):
        pp.concat_batches(batches)


@pytest.mark.parametrize("kind", [list, lambda b: dict.fromkeys(b, "file.h5ad")])
def test_batches_of_the_wrong_type(batches, kind):
    with pytest.raises(
        TypeError, match=r"Name the batches: \{|is a str, 'file.h5ad'. Read it first"
    ):
        pp.concat_batches(kind(batches))


def test_recorded_panels_of_the_parts_are_kept(batches):
    """What a batch records about itself goes before what it has columns for."""
    first = pp.concat_batches(batches)
    parts = {name: first[first.obs["batch"] == name]["rna"].copy() for name in ("cite", "spatial")}
    again = pp.concat_batches(parts)
    recorded = first["rna"].varm["measured"]
    pd.testing.assert_frame_equal(again["rna"].varm["measured"], recorded)
    with pytest.raises(ValueError, match="'both', modality 'rna'.*different panels.*one by one"):
        pp.concat_batches({"both": first["rna"]})


def test_a_mudata_of_shared_features_is_no_batch(batches):
    rna = batches["cite"]["rna"]
    halves = mudata.MuData({"first": rna[:4].copy(), "second": rna[4:].copy()}, axis=1)
    with pytest.raises(ValueError, match="share features, not cells"):
        pp.concat_batches({"cite": halves})


def test_batches_named_by_numbers():
    """Names that went through a table with gaps are floats: 1.0 is the batch 1."""
    parts = {name: adata(names(f"b{name}_", 4), "pq") for name in (1.0, 2.0)}
    joined = pp.concat_batches(parts)
    assert list(joined.obs["batch"].cat.categories) == ["1", "2"]
    joined.obs["batch"] = joined.obs["batch"].astype(float)
    again = pp.concat_batches({1: joined[joined.obs["batch"] == 1].copy()})
    assert pp.panels(again)["rna"] == {"1": ["p", "q"]}


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">i4"])
def test_values_that_sparse_matrices_cannot_hold(dtype):
    parts = {b: adata(names(b, 4), f, sparse=False) for b, f in {"x": "pq", "y": "q"}.items()}
    expected = pp.concat_batches(parts)["rna"].to_df()
    for part in parts.values():
        part.X = part.X.astype(dtype)
    np.testing.assert_array_equal(pp.concat_batches(parts)["rna"].to_df(), expected)


@pytest.mark.parametrize("dtype", ["f2", ">f4"])
def test_a_dense_batch_beside_a_sparse_one(dtype):
    parts = {b: adata(names(b, 4), "pq", sparse=b == "x") for b in "xy"}
    expected = pp.concat_batches(parts)["rna"].to_df()
    parts["y"].X = parts["y"].X.astype(dtype)
    np.testing.assert_array_equal(pp.concat_batches(parts)["rna"].to_df(), expected)


def test_categories_keep_their_order_and_kind(batches):
    stages = ["early", "mid", "late"]
    rna, protein, spatial = (
        batches["cite"]["rna"], batches["asap"]["protein"], batches["spatial"],
    )  # fmt: skip
    for table, known in ((rna, stages), (protein, stages[:2]), (spatial, stages)):
        values = (known * table.n_obs)[: table.n_obs]
        table.obs["stage"] = pd.Categorical(values, known, ordered=True)
        table.obs["lane"] = pd.Categorical(np.arange(table.n_obs) % 2 + 1)
    obs = pp.concat_batches(batches).obs
    assert list(obs["stage"].cat.categories) == stages and obs["stage"].cat.ordered
    assert list(obs["lane"].cat.categories) == [1, 2]
    del protein.obs["stage"], protein.obs["lane"]
    obs = pp.concat_batches(batches, obs_keys=["stage", "lane"]).obs
    assert list(obs["stage"].cat.categories) == [*stages, "Unknown"]
    assert (obs.loc[names("a", 6), "stage"] == "Unknown").all()
    assert obs.loc[names("a", 6), "lane"].isna().all()  # numbers have gaps
    spatial.obs["stage"] = pd.Categorical(spatial.obs["stage"], stages[::-1], ordered=True)
    obs = pp.concat_batches(batches, obs_keys=["stage"]).obs
    assert list(obs["stage"].cat.categories) == [*stages, "Unknown"]
    assert not obs["stage"].cat.ordered
    assert (obs.loc[spatial.obs_names, "stage"] == spatial.obs["stage"].astype(str)).all()


def test_top_obsm_of_a_mudata_is_kept(mosaic, batches, tmp_path):
    other = pp.concat_batches({"again": batches["cite"]})
    mosaic.obsm["spatial"] = np.arange(2.0 * mosaic.n_obs).reshape(-1, 2)
    twin = mosaic.copy()
    twin.obsm["spatial"] += 1000
    zone = np.where(np.arange(mosaic.n_obs) % 2, "rim", "core")
    mosaic.obsm["zones"] = pd.DataFrame({"zone": zone, "level": 1}, index=mosaic.obs_names)
    other.obsm["zones"] = pd.DataFrame({"level": "top"}, index=other.obs_names)
    parts = {"old": mosaic, "twin": twin, "other": other, "new": batches["asap"]}
    mdata = pp.concat_batches(parts)
    mdata.write(tmp_path / "m.h5mu")
    for joined in (mdata, mudata.read_h5mu(tmp_path / "m.h5mu")):
        spatial = pd.DataFrame(joined.obsm["spatial"], joined.obs_names)
        for batch, source in (("old", mosaic), ("twin", twin)):
            found = spatial.loc[[f"{batch}_{name}" for name in source.obs_names]]
            np.testing.assert_array_equal(found, source.obsm["spatial"])
        assert spatial.isna().all(axis=1).sum() == other.n_obs + 6
        zones = joined.obsm["zones"].astype(object)
        assert list(zones.loc[[f"old_{name}" for name in mosaic.obs_names], "zone"]) == list(zone)
        assert set(zones["level"].dropna()) == {"1", "top"}
        assert zones["level"].isna().sum() == twin.n_obs + 6


def test_text_with_gaps_and_numbers_beside_text_are_written(batches, tmp_path):
    rna, spatial = batches["cite"]["rna"], batches["spatial"]
    rna.obs["lane"], spatial.obs["lane"] = [1] * 8, ["x"] * 9
    batches["cite"]["protein"].obs["lane"] = 1
    rna.obs["grade"], spatial.obs["grade"] = pd.Categorical([1] * 8), pd.Categorical(["x"] * 9)
    rna.var["code"] = [1, "a", 2.0, None, "b"]
    rna.obsm["guides"] = pd.DataFrame({"guide": names("k", 8), "n": 1}, index=rna.obs_names)
    spatial.obsm["guides"] = pd.DataFrame({"n": ["few"] * 9}, index=spatial.obs_names)
    mdata = pp.concat_batches(batches, obs_keys=["lane", "grade", "type"])
    mdata.write(tmp_path / "m.h5mu")
    for joined in (mdata, mudata.read_h5mu(tmp_path / "m.h5mu")):
        for key in ("lane", "grade"):
            assert joined.obs[key].value_counts().to_dict() == {"1": 8, "x": 9, "Unknown": 6}
        rna = joined["rna"]
        assert rna.obs["lane"].value_counts().to_dict() == {"1": 8, "x": 9}
        assert rna.var["code"].dropna().astype(str).to_dict() == {
            "g0": "1", "g1": "a", "g2": "2", "g4": "b"
        }  # fmt: skip
        guides = rna.obsm["guides"]
        assert list(guides["guide"].dropna()) == names("k", 8)
        assert guides["n"].value_counts().to_dict() == {"1": 8, "few": 9}


def test_colours_follow_their_categories():
    one = adata(names("a", 2), ["g"], obs={"type": pd.Categorical(["T", "B"], ["T", "B"])})
    other = adata(names("b", 2), ["g"], obs={"type": pd.Categorical(["T", "B"], ["B", "T"])})
    other.uns["type_colors"] = ["red", "blue"]
    rna = pp.concat_batches({"one": one, "other": other})["rna"]
    colors = dict(zip(rna.obs["type"].cat.categories, rna.uns["type_colors"], strict=True))
    assert colors == {"T": "blue", "B": "red"}
    one.obs["type"] = pd.Categorical(["NK", "B"])  # without a colour of its own
    assert "type_colors" not in pp.concat_batches({"one": one, "other": other})["rna"].uns


def test_panels_of_an_anndata():
    with pytest.raises(TypeError, match="MuData"):
        pp.panels(ad.AnnData(np.ones((2, 2))))
