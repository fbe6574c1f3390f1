"""Attention between features, and uncertainty of labels: what the pictures say."""

import inspect

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import mumask
from mumask import pl


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def drawn(ax, left=None) -> pd.DataFrame:
    """The heat map of an Axes as a table; queries are named on the left Axes only."""
    ax.figure.canvas.draw()
    rows = [tick.get_text() for tick in (left or ax).get_yticklabels()]
    columns = [tick.get_text() for tick in ax.get_xticklabels()]
    values = np.asarray(ax.collections[0].get_array()).reshape(len(rows), len(columns))
    return pd.DataFrame(values, rows, columns)


class TestAttention:
    genes, proteins = ["CD3E", "MS4A1", "LYZ"], ["CD3", "CD20", "CD14", "IgG"]

    def matrix(self, own):
        """Every gene attends to its own protein with the weight `own`, evenly to the others."""
        values = np.full((3, 4), (4 - own) / 3)
        values[np.arange(3), np.arange(3)] = own
        return pd.DataFrame(values, self.genes, self.proteins)

    def long(self, matrices, **columns):
        parts = []
        for group, matrix in matrices.items():
            part = matrix.stack().rename("weight").rename_axis(["query", "key"]).reset_index()
            parts.append(part.assign(group=group))
        table = pd.concat(parts, ignore_index=True).assign(**columns)
        table["group"] = pd.Categorical(table["group"], list(matrices))
        for side in ("query", "key"):  # every feature is a token of its own
            table[f"{side}_token"] = pd.factorize(table[side])[0]
        return table

    def test_groups_share_features_order_and_scale(self):
        table = self.long({"T": self.matrix(3.1), "B": self.matrix(1.3)})
        axes = pl.attention(table)
        assert [ax.get_title() for ax in axes] == ["T", "B"]
        first, second = drawn(axes[0]), drawn(axes[1], axes[0])
        assert list(first.index) == list(second.index)
        for ax, own in zip(axes, (3.1, 1.3), strict=True):
            shown = drawn(ax, axes[0]).loc[self.genes, self.proteins]
            np.testing.assert_allclose(shown, self.matrix(own), rtol=1e-6)
        norms = [ax.collections[0].norm for ax in axes]
        assert (norms[0].vmin, norms[0].vmax) == (norms[1].vmin, norms[1].vmax)
        # a weight of 1 says nothing, so it has the colour of the middle
        assert (norms[0].vmin + norms[0].vmax) / 2 == pytest.approx(1) or norms[0].vmin == 0
        colors = axes[0].collections[0].to_rgba([0.2, 1.0, 3.0])[:, :3]
        assert colors[1].min() > 0.9 and colors[0, 2] > colors[0, 0] and colors[2, 0] > colors[2, 2]
        assert "weight (1: spread evenly)" in axes[0].figure.axes[-1].get_ylabel()

    def test_strongest_are_kept_and_queries_stand_beside_their_key(self):
        matrix = self.matrix(1.0)
        matrix.loc["LYZ", "CD14"], matrix.loc["CD3E", "CD3"] = 3.0, 2.0
        (ax,) = pl.attention(self.long({"all": matrix}), n_queries=2, n_keys=2)
        shown = drawn(ax)
        assert list(shown.columns) == ["CD14", "CD3"] and list(shown.index) == ["LYZ", "CD3E"]

    def test_strongest_stand_on_top_and_share_a_key_side_by_side(self):
        matrix = self.matrix(1.0)
        strong = {("LYZ", "CD14"): 3.0, ("MS4A1", "CD20"): 2.9, ("CD3E", "CD14"): 2.8}
        for (gene, protein), weight in strong.items():
            matrix.loc[gene, protein] = weight
        (ax,) = pl.attention(self.long({"all": matrix}))
        shown = drawn(ax)
        assert list(shown.index) == ["LYZ", "CD3E", "MS4A1"]
        assert list(shown.columns[:2]) == ["CD14", "CD20"]
        places = ax.transData.transform([(0.5, 0.5), (1.5, 2.5)])
        assert places[0, 1] > places[1, 1] and places[0, 0] < places[1, 0]

    def test_zscores_below_zero_count_as_strong(self):
        table = self.long({"all": self.matrix(1.0)}, zscore=0.1)
        table.loc[5, "zscore"] = -9.0
        (ax,) = pl.attention(table, "zscore", n_queries=1, n_keys=1)
        assert drawn(ax).to_numpy().item() == -9.0
        norm = ax.collections[0].norm
        assert norm.vmin == -norm.vmax == -9.0
        assert "z-score (0: as the baseline)" in ax.figure.axes[-1].get_ylabel()
        assert "query" in ax.get_ylabel() and "key" in ax.get_xlabel()

    def test_one_extreme_zscore_does_not_take_all_colours(self):
        table = self.long({str(g): self.matrix(1.0) for g in range(40)}, zscore=2.0)
        table.loc[5, "zscore"] = -100.0
        axes = pl.attention(table, "zscore", n_groups=40)
        assert axes[0].collections[0].norm.vmax == pytest.approx(2.0)
        assert axes[0].collections[0].colorbar.extend == "both"

    def test_without_groups(self):
        (ax,) = pl.attention(self.long({"all": self.matrix(3.0)}).drop(columns="group"))
        assert ax.get_title() == "" and ax.collections[0].norm.vmin == 0

    def test_features_of_one_token_are_one_row(self):
        """Two tokens of three genes each: the second attends to CD20."""
        genes = [f"G{i}" for i in range(6)]
        values = np.tile([[1.0, 1.0, 1.2, 0.8]], (6, 1))
        values[1::2, 1] = 2.0
        matrix = pd.DataFrame(values, genes, self.proteins)
        table = self.long({"T": matrix, "B": 2 - matrix})
        table["query_token"] = table["query"].str[1:].astype(int) % 2
        table["key_token"] = table["key"].map(self.proteins.index)
        axes = pl.attention(table)
        shown = drawn(axes[1], axes[0])
        assert set(shown.index) == {"G0, G2 + 1 more", "G1, G3 + 1 more"}
        assert shown.loc["G1, G3 + 1 more", "CD20"] == 0.0
        assert shown.loc["G0, G2 + 1 more", "CD20"] == 1.0
        assert set(shown.columns) == set(self.proteins)

    def test_tokens_of_equal_values_stay_apart(self):
        table = self.long({"all": self.matrix(1.0)})
        table["query_token"] = table["query"].map(self.genes.index)
        table["key_token"] = table["key"].map(lambda key: int(key == "IgG"))
        (ax,) = pl.attention(table)
        shown = drawn(ax)
        assert set(shown.index) == set(self.genes)
        assert set(shown.columns) == {"CD3, CD20 + 1 more", "IgG"}

    def test_long_names_stand_alone(self):
        peaks = [f"chr1:{i}00000-{i}00500" for i in range(1, 4)]
        table = self.long({"all": pd.DataFrame(2.0, peaks, ["CD3", "CD20"])})
        (ax,) = pl.attention(table.assign(query_token=0, key_token=0))
        shown = drawn(ax)
        assert list(shown.index) == [f"{peaks[0]} + 2 more"] and list(shown) == ["CD3, CD20"]

    def test_many_groups_make_a_bounded_picture(self):
        rng = np.random.default_rng(0)
        names = [str(g) for g in range(1, 41)]
        genes, proteins = [f"G{i}" for i in range(40)], [f"P{i}" for i in range(40)]
        matrices = {
            name: pd.DataFrame(rng.uniform(0.9, 1.1, (40, 40)), genes, proteins) for name in names
        }
        for name in ("2", "10", "33"):
            matrices[name].iloc[3, 5] = 9.0
        table = self.long(matrices)
        table["group"] = table["group"].astype(str)  # which sorts 10 before 2
        axes = pl.attention(table, n_groups=3)
        assert [ax.get_title() for ax in axes] == ["2", "10", "33"]
        figure = axes[0].figure
        assert figure.get_suptitle().startswith("3 of 40 groups")
        axes = pl.attention(table)
        figure = axes[0].figure
        assert len(axes) == 12 and max(figure.get_size_inches()) < 25
        figure.canvas.draw()
        bar = figure.axes[-1].get_window_extent().height / figure.dpi
        assert bar < 4.1
        rows = [tick.get_window_extent().height for tick in axes[0].get_yticklabels()]
        assert sum(rows) < axes[0].get_window_extent().height  # names do not overlap

    def test_names_are_seen_at_the_edges_only(self):
        axes = pl.attention(self.long({name: self.matrix(2.0) for name in "abcd"}), n_columns=3)
        axes[0].figure.canvas.draw()

        def seen(ticks):
            return [t.get_text() for t in ticks if t.get_visible() and t.get_text()]

        assert [bool(seen(ax.get_yticklabels())) for ax in axes] == [True, False, False, True]
        assert [bool(seen(ax.get_xticklabels())) for ax in axes] == [False, True, True, True]

    def test_bad_input(self):
        table = self.long({"a": self.matrix(2.0), "b": self.matrix(2.0)})
        with pytest.raises(KeyError, match="padj"):
            pl.attention(table, "padj")
        with pytest.raises(ValueError, match="no attention"):
            pl.attention(table[:0])
        with pytest.raises(ValueError, match="'b' lacks pairs"):
            pl.attention(table[:-1])
        with pytest.raises(ValueError, match="all of it is NaN"):
            pl.attention(table.assign(weight=np.nan))

    def test_what_was_not_measured_is_grey(self):
        table = self.long({"a": self.matrix(2.0), "b": self.matrix(2.0)})
        unknown = (table["group"] == "b") & (table["key_token"] == table["key_token"].iloc[0])
        table.loc[unknown, "weight"] = np.nan
        axes = pl.attention(table)
        gaps = [np.ma.getmaskarray(ax.collections[0].get_array()).sum() for ax in axes]
        assert gaps[0] == 0 and gaps[1] == table["query_token"].nunique()
        assert axes[1].get_facecolor()[:3] == (0.75, 0.75, 0.75)


class TestUncertainty:
    def table(self):
        """Three types of 40 cells; monocytes are unsure and a quarter of them new."""
        rng = np.random.default_rng(0)
        label = np.repeat(["B", "T", "Mono"], 40)
        value = np.select([label == "B", label == "T"], [0.05, 0.2], 0.7)
        table = pd.DataFrame({"mumask_label": pd.Categorical(label)})
        table["mumask_uncertainty"] = value + rng.uniform(0, 0.05, 120)
        table["mumask_novelty"] = rng.uniform(0, 0.9, 120)
        table["mumask_new_type"] = False
        table.loc[table.index[80:90], ["mumask_novelty"]] = 7.0
        table.loc[table.index[80:90], "mumask_new_type"] = True
        return table

    def test_violins_by_type_the_least_certain_on_top(self):
        axes = pl.uncertainty(self.table())
        assert len(axes) == 2
        names = [tick.get_text() for tick in axes[0].get_yticklabels()]
        assert names == ["Mono  (40)", "T  (40)", "B  (40)"]
        assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]  # first at the top
        spans = [path.get_paths()[0].vertices[:, 0] for path in axes[0].collections]
        middles = [(span.min() + span.max()) / 2 for span in spans]
        assert middles == sorted(middles, reverse=True)
        shares = [text.get_text() for text in axes[1].texts if "%" in text.get_text()]
        assert shares == ["25 % new", "0 % new", "0 % new"]

    def threshold(self, table, **kwargs):
        """Where the line of the novelty stands, and what is written above it."""
        (ax,) = pl.uncertainty(table, keys="mumask_novelty", **kwargs)
        lines = [line for line in ax.lines if line.get_color() == plt.rcParams["text.color"]]
        texts = [text.get_text() for text in ax.texts if "above" in text.get_text()]
        return [(line.get_xdata()[0], text) for line, text in zip(lines, texts, strict=True)]

    def test_line_where_a_new_type_begins(self):
        table = self.table()
        default = inspect.signature(mumask.MaskedVAE.annotate).parameters["known_share"].default
        assert self.threshold(table) == [(default, "new above 0.99")]
        assert self.threshold(table, new_type=None) == [(default, "new above 0.99")]
        (ax,) = pl.uncertainty(table, keys="mumask_uncertainty")
        assert not ax.texts or all("above" not in text.get_text() for text in ax.texts)

    def test_line_follows_the_flags(self):
        table = self.table()
        table["mumask_new_type"] = table["mumask_novelty"] > 0.5  # annotate(known_share=0.5)
        ((at, text),) = self.threshold(table)
        assert ((table["mumask_novelty"] > at) == table["mumask_new_type"]).all()
        assert text == f"new above {at:.3g}"
        table["mumask_new_type"] = table["mumask_novelty"] < 0.5  # flags of something else
        assert self.threshold(table) == []

    def test_unbounded_novelty_is_cut_and_said(self):
        axes = pl.uncertainty(self.table())
        assert axes[1].get_xlabel() == "novelty (cut at 2)"
        assert axes[0].get_xlabel() == "uncertainty"
        assert max(p.get_paths()[0].vertices[:, 0].max() for p in axes[1].collections) <= 2.0

    def test_cells_without_a_value_are_left_out(self):
        table = self.table()
        table.loc[table.index[:10], "mumask_uncertainty"] = np.nan
        axes = pl.uncertainty(table)
        assert "B  (30)" in [tick.get_text() for tick in axes[0].get_yticklabels()]

    def test_on_an_embedding(self):
        table, places = self.table(), np.random.default_rng(1).normal(size=(120, 2))
        table.loc[table.index[0], "mumask_uncertainty"] = np.nan
        axes = pl.uncertainty(table, basis=places)
        assert [ax.get_title() for ax in axes] == ["uncertainty", "novelty (cut at 1)"]
        for ax in axes:  # small values do not fill the scale
            assert ax.collections[0].get_clim() == (0, 1)
        cloud = axes[0].collections[0]
        values = np.asarray(cloud.get_array())
        assert len(values) == 119 and (np.diff(values) >= 0).all()  # unsure cells on top
        order = table["mumask_uncertainty"].dropna().argsort(kind="stable")
        np.testing.assert_allclose(cloud.get_offsets().data, places[1:][order])
        rims = np.asarray(axes[1].collections[0].get_linewidths())
        assert (rims > 0).sum() == 10 and (rims[-10:] > 0).all()
        assert [t.get_text() for t in axes[0].get_legend().get_texts()] == ["flagged as new"]
        table["mumask_new_type"] = False
        assert pl.uncertainty(table, basis=places)[0].get_legend() is None

    def test_keys_in_obsm_and_obs(self):
        from anndata import AnnData

        table = self.table().set_axis([f"c{i}" for i in range(120)])
        adata = AnnData(obs=table)
        adata.obsm["X_umap"] = np.zeros((120, 2))
        (ax,) = pl.uncertainty(adata, keys="mumask_novelty", basis="X_umap", new_type=None)
        assert not np.any(ax.collections[0].get_linewidths())
        with pytest.raises(KeyError, match="X_pca"):
            pl.uncertainty(adata, basis="X_pca")
        with pytest.raises(KeyError, match="annotate"):
            pl.uncertainty(adata, keys="doubt")
        with pytest.raises(ValueError, match="`keys` is empty"):
            pl.uncertainty(adata, keys=[])
        with pytest.raises(ValueError, match="two coordinates for 120 cells"):
            pl.uncertainty(adata, basis=np.zeros((120, 3)))
        adata.obs["mumask_novelty"] = np.nan
        with pytest.raises(ValueError, match="No cell has a value in each of.*mumask_novelty"):
            pl.uncertainty(adata)

    def test_saved(self, tmp_path):
        pl.uncertainty(self.table(), save=tmp_path / "u.png")
        assert (tmp_path / "u.png").stat().st_size > 1000


def test_confusion_of_cells_in_another_order_is_refused():
    labels = pd.Series(["B", "B", "T"], ["c0", "c1", "c2"])
    with pytest.raises(ValueError, match="same cells in another order"):
        pl.confusion(labels, labels[::-1])


def test_an_embedding_of_cells_in_another_order_is_refused():
    obs = pd.DataFrame({"type": ["B", "B", "T"]}, ["c0", "c1", "c2"])
    places = pd.DataFrame(np.arange(6.0).reshape(3, 2), obs.index)
    pl.embedding_panels(places, places.to_numpy(), obs, "type")
    with pytest.raises(ValueError, match="same cells in another order"):
        pl.embedding_panels(places, places[::-1], obs, "type")
