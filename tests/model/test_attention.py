"""What a CrossAttentionMAE attends to."""

from __future__ import annotations

import numpy as np
import pytest

from mumask import CrossAttentionMAE
from mumask.model._attention import _group_means, _shuffle_within

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def reference(make_mosaic):
    """Trained through stage 2; not to be changed."""
    mosaic = make_mosaic(60)
    CrossAttentionMAE.setup_mudata(mosaic, batch_key="batch", labels_key="some_labels")
    model = CrossAttentionMAE(mosaic, n_embed=16, n_latent=9, n_heads=2, max_tokens=6)
    model.train(max_epochs=6, **QUIET)
    model.finetune(head_steps=150, **QUIET)
    return model


def test_attention_table(reference):
    table = reference.get_attention("protein", "rna", n_permutations=20)
    assert len(table) == 6 * 14
    assert table.set_index(["query", "key"]).index.is_unique
    assert {"weight", "baseline", "zscore", "pvalue", "padj"} <= set(table)
    assert table["pvalue"].between(1 / 21, 1).all() and (table["padj"] >= table["pvalue"]).all()
    tokens = reference.module.encoders["rna"].tokens
    gene = reference.feature_names("rna")[int(tokens.members[2][0])]
    assert (table.loc[table["key"] == gene, "key_token"] == 2).all()
    # Shared attention: the mean over the keys of a cell with two modalities is one.
    cite = reference.adata.obs["batch"].astype(str).to_numpy() == "cite"
    table = reference.get_attention("protein", "rna", indices=cite, n_permutations=0)
    by_token = table.drop_duplicates(["query_token", "key_token"]).groupby("query_token")["weight"]
    np.testing.assert_allclose(by_token.mean(), 1, rtol=1e-4)


def test_attention_by_group_finds_the_group(reference):
    """A group that differs from the others is told from one drawn at random."""
    table = reference.get_attention("protein", "rna", groupby="cell_type", n_permutations=100)
    assert set(table["group"]) == {"type0", "type1", "type2", "type3"}
    mdata = reference.adata.copy()
    mdata.obs["random"] = np.random.default_rng(1).choice(["a", "b"], mdata.n_obs)
    random = reference.get_attention("protein", "rna", mdata, groupby="random", n_permutations=100)
    assert table["zscore"].abs().mean() > 1.5 * random["zscore"].abs().mean()


def test_attention_does_not_depend_on_minibatches(reference):
    one, two = (
        reference.get_attention("rna", "protein", n_permutations=0, batch_size=size)
        for size in (7, 500)
    )
    np.testing.assert_allclose(one["weight"], two["weight"], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("protein", "metabolites"), ValueError, "metabolites"),
        (("rna", "rna"), ValueError, "different"),
        (("rna", "atac"), ValueError, "None of the cells has both"),
    ],
)
def test_attention_of_what_is_not_there(reference, arguments, error, message):
    with pytest.raises(error, match=message):
        reference.get_attention(*arguments)
    with pytest.raises(KeyError, match="no column"):
        reference.get_attention("rna", "protein", groupby="sort")
    mdata = reference.adata.copy()
    mdata.obs["empty"] = np.nan
    with pytest.raises(ValueError, match="'empty' is empty"):
        reference.get_attention("rna", "protein", mdata, groupby="empty")


@pytest.mark.parametrize("n_permutations", [1, -1])
def test_a_z_score_needs_two_permutations(reference, n_permutations):
    with pytest.raises(ValueError, match="at least 2"):
        reference.get_attention("rna", "protein", n_permutations=n_permutations)


def test_a_baseline_of_cells_paired_with_themselves_is_said(reference):
    with pytest.warns(UserWarning, match="paired with themselves.*`batch_size`"):
        reference.get_attention("protein", "rna", n_permutations=2, batch_size=1)


def test_cells_are_paired_anew_within_their_batch():
    batch = np.tile([0, 1, 0, 2, 1], 20)
    order = _shuffle_within(batch, np.random.default_rng(0)).numpy()
    assert sorted(order) == list(range(100))
    np.testing.assert_array_equal(batch[order], batch)
    assert (order != np.arange(100)).mean() > 0.5


def test_permutations_follow_the_seed(reference):
    one, again, other = (
        reference.get_attention("rna", "protein", n_permutations=3, seed=seed) for seed in (1, 1, 2)
    )
    assert one.equals(again)
    np.testing.assert_allclose(one["weight"], other["weight"], rtol=1e-4)
    assert not np.allclose(one["baseline"], other["baseline"], rtol=1e-5)


def test_means_of_groups_leave_out_what_is_missing():
    """A token of which a cell has no feature has no weights there."""
    weights = np.random.default_rng(0).random((6, 2, 3)).astype(np.float32)
    weights[[0, 1, 5], 1] = np.nan
    groups = np.array([0, 0, 0, 1, 1, 1])
    means = _group_means(weights, (groups == np.arange(2)[:, None]).astype(np.float32))
    for group, mean in enumerate(means):
        np.testing.assert_allclose(mean, np.nanmean(weights[groups == group], axis=0), rtol=1e-5)


def test_what_no_cell_of_a_group_measured_is_unknown(make_mosaic):
    """It is not the weight zero, which would be far below that of any group drawn at random."""
    mosaic = make_mosaic(30, {"wide": ("rna", "protein"), "narrow": ("rna", "protein")})
    genes = mosaic["rna"].var_names
    panels = {"rna": {"narrow": list(genes[:3])}}
    CrossAttentionMAE.setup_mudata(mosaic, batch_key="batch", panels=panels)
    sizes = {"rna": 1, "protein": 1}
    model = CrossAttentionMAE(mosaic, n_embed=16, n_latent=9, n_heads=2, token_size=sizes)
    model.train(max_epochs=1, **QUIET)
    numbers = ["weight", "zscore", "pvalue", "padj"]
    table = model.get_attention("protein", "rna", groupby="batch", n_permutations=10)
    unknown = (table["group"] == "narrow") & ~table["key"].isin(genes[:3])
    assert unknown.any() and table.loc[unknown, numbers].isna().all(axis=None)
    assert table.loc[~unknown].notna().all(axis=None) and table["padj"].max() <= 1
    narrow = (mosaic.obs["batch"].astype(str) == "narrow").to_numpy()
    table = model.get_attention("protein", "rna", indices=narrow, n_permutations=3)
    unknown = ~table["key"].isin(genes[:3])
    assert table.loc[unknown, [*numbers, "baseline"]].isna().all(axis=None)
    assert table.loc[~unknown].notna().all(axis=None)
