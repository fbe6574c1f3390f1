"""Bad input stops before training, with a message that names the thing and the way out."""

from __future__ import annotations

import re
import warnings

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from mumask import MaskedVAE


def _mod(mdata, name, **new):
    """The MuData with one modality changed."""
    mods = {k: v.copy() for k, v in mdata.mod.items()}
    for what, value in new.items():
        setattr(mods[name], what, value)
    fresh = md.MuData(mods)
    for column in mdata.obs:
        fresh.obs[column] = mdata.obs[column].reindex(fresh.obs_names)
    return fresh


def _with_value(mdata, name, value, row=3, column=2):
    x = mdata[name].X.toarray()
    x[row, column] = value
    return _mod(mdata, name, X=sp.csr_matrix(x)), mdata[name].obs_names[row]


def _stops(error, mdata, unchanged, says, **setup):
    """`setup_mudata` raises, says all of `says`, and leaves the data alone."""
    check = unchanged(mdata)
    with pytest.raises(error) as caught:
        MaskedVAE.setup_mudata(mdata, **{"batch_key": "batch", **setup})
    message = str(caught.value)
    for part in says:
        assert part in message, message
    check()
    assert not any(key.startswith("_scvi") for key in mdata.uns)


def test_cells_in_no_modality(mosaic, unchanged):
    says = ["30 cells", "['protein', 'atac']", "'solo_", "Drop them", "add a modality"]
    _stops(ValueError, mosaic, unchanged, says, modalities=["protein", "atac"])


def test_modality_changed_behind_the_mudata(mosaic, unchanged):
    mosaic["rna"].obs_names = [f"{name}-1" for name in mosaic["rna"].obs_names]
    _stops(ValueError, mosaic, unchanged, ["'rna'", "60 cells", "-1'", "mdata.update()"])


def test_duplicate_feature_names(mosaic, unchanged):
    names = mosaic["rna"].var_names.to_numpy(dtype=object, copy=True)
    names[1] = names[0]
    mdata = _mod(mosaic, "rna", var_names=names)
    says = ["feature", "'rna0'", "modality 'rna'", "var_names_make_unique"]
    _stops(ValueError, mdata, unchanged, says)


def test_duplicate_cell_names_in_a_modality(mosaic):
    mdata = mosaic
    names = mdata["rna"].obs_names.to_numpy(dtype=object, copy=True)
    names[1] = names[0]
    mdata["rna"].obs_names = names
    with pytest.raises(ValueError, match=r"cell names.*modality 'rna'.*obs_names_make_unique"):
        MaskedVAE.setup_mudata(mdata, batch_key="batch")
    mdata["rna"].obs_names_make_unique()
    mdata.update()
    MaskedVAE.setup_mudata(mdata, batch_key=None)


def test_duplicate_cell_names_in_the_mudata(mosaic):
    names = mosaic.obs_names.to_numpy(dtype=object, copy=True)
    names[1] = names[0]
    mosaic._obs.index = names  # the modalities keep theirs
    with pytest.raises(ValueError, match=r"in the MuData.*mudata.MuData\(dict\(mdata.mod\)\)"):
        MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    anew = md.MuData(dict(mosaic.mod))
    MaskedVAE.setup_mudata(anew, batch_key=None)


@pytest.mark.parametrize("dtype", [object, str, np.complex64])
def test_values_that_are_no_numbers(mosaic, unchanged, dtype):
    rna = mosaic["rna"]
    rna.layers["read"] = rna.X.toarray().astype(dtype)
    says = ["'rna'", "layers['read'] holds", "mdata['rna'].layers['read'].astype('float32')"]
    _stops(TypeError, mosaic, unchanged, says, layers={"rna": "read"})


def test_a_query_of_normalised_values(mosaic, fit, make_mosaic):
    """It has no layers of its own to register, so it is told where counts belong."""
    mosaic["rna"].layers["counts"] = mosaic["rna"].X.copy()
    model = fit(mosaic, setup={"layers": {"rna": "counts"}}, epochs=1)
    query = make_mosaic(10, {"new": ("rna",)}, seed=1)
    query["rna"].layers["counts"] = query["rna"].X * 0.3
    with pytest.raises(ValueError, match=r"A query .* mdata\['rna'\].layers\['counts'\]"):
        MaskedVAE.load_query_data(query, model)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("batch_key", "lane"),
        ("labels_key", "lane"),
        ("categorical_covariate_keys", ["site", "lane"]),
        ("continuous_covariate_keys", ["lane"]),
    ],
)
def test_key_that_is_missing(mosaic, unchanged, argument, value):
    _stops(KeyError, mosaic, unchanged, [argument, "'lane'", "'donor'"], **{argument: value})


def test_key_that_is_in_a_modality(mosaic, unchanged):
    mosaic["rna"].obs["lane"] = "a"
    says = ["batch_key", "'lane'", "['rna']", "mdata.obs['lane'] = mdata['rna'].obs['lane']"]
    _stops(KeyError, mosaic, unchanged, says, batch_key="lane")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("likelihood", ["nb", "gaussian"])
def test_values_that_are_not_finite(mosaic, unchanged, value, likelihood):
    mdata, cell = _with_value(mosaic, "rna", value)
    says = ["'rna'", "NaN or infinite", repr(cell), "mask_layers"]
    _stops(ValueError, mdata, unchanged, says, likelihoods={"rna": likelihood})


@pytest.mark.parametrize("storage", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize(("value", "what"), [(-1.0, "negative"), (0.5, "not whole numbers")])
def test_values_that_are_no_counts(mosaic, unchanged, storage, likelihood, value, what):
    mdata, cell = _with_value(mosaic, "protein", value)
    mdata["protein"].X = storage(mdata["protein"].X.toarray())
    says = ["'protein'", what, likelihood, repr(cell), "'gaussian'", "layers="]
    _stops(ValueError, mdata, unchanged, says, likelihoods={"protein": likelihood})


def test_normalised_values_are_found_behind_the_first_cells(make_mosaic, unchanged):
    """scvi-tools looks at the first 20 values only."""
    mdata, cell = _with_value(make_mosaic(100), "rna", 0.25, row=150, column=13)
    _stops(ValueError, mdata, unchanged, ["'rna'", "not whole numbers", repr(cell)])


def test_values_that_are_not_binary(mosaic, unchanged):
    mdata, cell = _with_value(mosaic, "atac", 3.0)
    says = ["'atac'", "other than 0 and 1", repr(cell), "binarize", "'poisson'"]
    _stops(ValueError, mdata, unchanged, says, likelihoods={"atac": "bernoulli"})


@pytest.mark.parametrize("key", ["age", "site", "batch"])
def test_missing_entries_in_obs(mosaic, unchanged, key):
    cell = mosaic.obs_names[5]
    mosaic.obs[key] = mosaic.obs[key].astype(object if key != "age" else float)
    mosaic.obs.loc[cell, key] = np.nan
    argument, value = {
        "age": ("continuous_covariate_keys", ["age"]),
        "site": ("categorical_covariate_keys", ["site"]),
        "batch": ("batch_key", "batch"),
    }[key]
    _stops(
        ValueError,
        mosaic,
        unchanged,
        [argument, repr(key), repr(cell), "Fill them or drop"],
        **{argument: value},
    )


def test_infinite_covariate(mosaic, unchanged):
    mosaic.obs.loc[mosaic.obs_names[0], "age"] = np.inf
    says = ["continuous_covariate_keys", "'age'", "infinite", "Fill them or drop"]
    _stops(ValueError, mosaic, unchanged, says, continuous_covariate_keys=["age"])


def test_text_as_continuous_covariate(mosaic, unchanged):
    says = ["continuous_covariate_keys", "'site'", "categorical_covariate_keys"]
    _stops(TypeError, mosaic, unchanged, says, continuous_covariate_keys=["site"])


@pytest.mark.parametrize("shape", [(0, 14), (60, 0)])
def test_empty_modality(mosaic, unchanged, shape):
    names = mosaic["rna"].obs_names[: shape[0]]
    empty = ad.AnnData(sp.csr_matrix(shape), obs=pd.DataFrame(index=names))
    mods = {"rna": mosaic["rna"].copy(), "protein": mosaic["protein"].copy(), "extra": empty}
    mdata = md.MuData(mods)
    mdata.obs["batch"] = "a"
    _stops(ValueError, mdata, unchanged, ["'extra'", "empty", "`modalities`"])


def test_cells_without_any_count(mosaic, unchanged):
    x = mosaic["rna"].X.toarray()
    x[[4, 7]] = 0
    mdata = _mod(mosaic, "rna", X=sp.csr_matrix(x))
    says = ["'rna'", "no non-zero value", "2 cells", mosaic["rna"].obs_names[4], "Drop these cells"]
    _stops(ValueError, mdata, unchanged, says)


def test_cell_of_zeros_is_a_value_for_normalised_data(mosaic):
    x = mosaic["rna"].X.toarray()
    x[4] = 0
    MaskedVAE.setup_mudata(_mod(mosaic, "rna", X=x), likelihoods={"rna": "gaussian"})


def test_one_batch_is_said_and_works(mosaic):
    mosaic.obs["run"] = "only"
    with pytest.warns(
        UserWarning, match=r"`batch_key`: 'run' is 'only' in every cell.*Leave it out"
    ):
        MaskedVAE.setup_mudata(mosaic, batch_key="run")
    assert MaskedVAE(mosaic).batches == ["only"]


def test_categories_of_a_cell_each(make_mosaic):
    """A column of barcodes is no batch; few cells of a type are worth a word, a full column none."""
    mdata = make_mosaic()
    mdata.obs["barcode"] = pd.Categorical(mdata.obs_names)
    with pytest.warns(UserWarning, match=r"`batch_key`: 90 of the 90 .*'barcode'.*the column"):
        MaskedVAE.setup_mudata(mdata, batch_key="barcode")
    mdata.obs["rare"] = ["Unknown"] + ["rare"] * 2 + ["b"] * 40 + ["c"] * 47
    with pytest.warns(UserWarning, match=r"`labels_key`: 1 of the 3 .*'rare'"):
        MaskedVAE.setup_mudata(mdata, labels_key="rare")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        MaskedVAE.setup_mudata(mdata, batch_key="batch", categorical_covariate_keys=["donor"])


@pytest.mark.parametrize(
    ("labels", "says"),
    [("one", ["one class", "'T'", "at least two"]), ("Unknown", ["nothing to learn", "'Unknown'"])],
)
def test_labels_that_teach_nothing(mosaic, unchanged, labels, says):
    mosaic.obs["y"] = "Unknown"
    if labels == "one":
        mosaic.obs.loc[mosaic.obs_names[:9], "y"] = "T"
    way_out = ["labels_key", "'y'", "Leave labels_key out"]
    _stops(ValueError, mosaic, unchanged, says + way_out, labels_key="y")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "dot, space or slash") for name in ("r.na", "r na", "r/na")),
        *((name, "ModuleDict") for name in ("values", "type", "training")),
    ],
)
def test_modality_names_that_cannot_be_keys(mosaic, unchanged, name, reason):
    mdata = md.MuData({name: mosaic["rna"].copy()})
    mdata.obs["batch"] = "a"
    _stops(ValueError, mdata, unchanged, [repr(name), reason, "Rename it"])


@pytest.mark.parametrize(
    ("setup", "says"),
    [
        ({"modalities": ["rna", "spatial"]}, ["'spatial'", "'atac'"]),
        ({"modalities": []}, ["No modality"]),
        ({"modalities": ["rna", "rna", "protein", "atac"]}, ["twice"]),
        ({"layers": {"rna": "counts"}}, ["layers", "'rna'", "'counts'"]),
        ({"mask_layers": {"rna": "seen"}}, ["mask_layers", "'rna'", "'seen'"]),
        ({"layers": {"spatial": "counts"}}, ["layers", "'spatial'", "'atac'"]),
        ({"likelihoods": {"rna": "normal"}}, ["likelihoods", "'normal'", "'gaussian'"]),
        ({"panels": {"protein": {"cite": ["CD3"]}}}, ["panels", "'protein'", "'cite'", "'CD3'"]),
        ({"panels": {"protein": {"lane9": []}}}, ["panels", "'lane9'", "'asap'"]),
        ({"panels": {"protein": {"cite": []}}}, ["panels", "'cite'", "measured no feature"]),
    ],
)
def test_arguments_that_name_nothing(mosaic, unchanged, setup, says):
    _stops((ValueError, KeyError), mosaic, unchanged, says, **setup)


def test_argument_that_does_not_exist(mosaic, unchanged):
    _stops(TypeError, mosaic, unchanged, ["batch_keys"], batch_keys="batch")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("modalities", "rna"),
        ("categorical_covariate_keys", "site"),
        ("continuous_covariate_keys", "age"),
    ],
)
def test_text_where_a_list_belongs(mosaic, unchanged, argument, value):
    _stops(TypeError, mosaic, unchanged, [argument, f"[{value!r}]"], **{argument: value})


def test_anndata_instead_of_mudata(mosaic):
    for setup in (MaskedVAE.setup_mudata, MaskedVAE.setup_anndata):
        with pytest.raises(TypeError, match=re.escape("mudata.MuData({'rna': adata})")):
            setup(mosaic["rna"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preset": "incluster"}, ["preset", "'incluster'", "inclust+"]),
        ({"arithmetic": "minus"}, ["arithmetic", "'minus'", "subtract"]),
        ({"prior": "normal"}, ["prior", "'normal'", "mixture"]),
        ({"schedule": "random"}, ["schedule", "'random'", "pairs"]),
        ({"activation": "tan"}, ["activation", "'tan'", "relu"]),
        ({"input_panel": "shared"}, ["input_panel", "'shared'", "common"]),
        ({"prior": "clusters", "n_clusters": 0}, ["n_clusters", "prior"]),
        ({"n_clusters": 1}, ["n_clusters", "2"]),
        ({"prior": "standard", "n_clusters": 5}, ["n_clusters", "prior='mixture'"]),
        ({"loadings_sd": 0.0}, ["loadings_sd", "positive"]),
        ({"n_factors": 0}, ["n_factors", "at least 1"]),
        ({"weights": {"klz": 1.0}}, ["weights", "klz", "reconstruction"]),
        ({"held_out": {"rna": ["XIST"]}}, ["held_out", "'rna'", "'XIST'"]),
        ({"held_out": {"spatial": ["XIST"]}}, ["held_out", "'spatial'", "'atac'"]),
        ({"modality_weights": {"spatial": 1.0}}, ["modality_weights", "'spatial'", "'atac'"]),
    ],
)
def test_model_arguments(mosaic, options, says):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    with pytest.raises(ValueError) as caught:
        MaskedVAE(mosaic, **options)
    for part in says:
        assert part in str(caught.value)


def test_panels_that_share_nothing(mosaic):
    proteins = list(mosaic["protein"].var_names)
    panels = {"protein": {"cite": proteins[:3], "asap": proteins[3:]}}
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", panels=panels)
    with pytest.raises(ValueError, match="'common': no feature of 'protein'.*'random'"):
        MaskedVAE(mosaic, preset="inclust+")
    MaskedVAE(mosaic, preset="inclust+", input_panel="own")


def test_model_before_setup(mosaic):
    with pytest.raises(ValueError, match="set"):
        MaskedVAE(mosaic)
