"""What the pictures say: their texts, blocks and points, not their pixels."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgba
from matplotlib.patches import Rectangle
from mudata import MuData

from mumask import metrics, pl
from mumask.datasets import simulate_mosaic


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def mdata():
    """A mosaic whose RNA-only batch lacks the 9 genes that are seen most."""
    design = {"n_features": {"rna": 60, "protein": 10, "atac": 100}, "n_cell_types": 3}
    rna = simulate_mosaic(40, **design)["rna"]
    rare = rna.var_names[np.argsort(rna.X.getnnz(axis=0))[:51]]
    return simulate_mosaic(40, **design, panels={"RNA-only": {"rna": rare}})


def drawn_inside(figure):
    """Whether every text and legend lies inside the saved picture."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    outer = figure.get_tightbbox(renderer)
    return outer.width <= figure.get_figwidth() + 0.05 and outer.height <= (
        figure.get_figheight() + 0.05
    )


class TestMosaic:
    def test_blocks(self, mdata):
        ax = pl.mosaic(mdata, "batch")
        names = [tick.get_text().split("\n")[0] for tick in ax.get_yticklabels()]
        assert names == ["CITE-seq", "ASAP-seq", "RNA-only"]
        assert [t.get_text() for t in ax.get_xticklabels()] == [
            "rna\n60 features", "protein\n10 features", "atac\n100 features",
        ]  # fmt: skip
        blocks = [p for p in ax.patches if isinstance(p, Rectangle)]
        dashed = [p for p in blocks if p.get_linestyle() not in ("-", "solid")]
        hatched = [p for p in blocks if p.get_hatch()]
        assert len(dashed) == 4 and len(hatched) == 1  # 9 places, 5 of them measured
        whole = next(p for p in blocks if p.get_alpha() == 0.25)
        assert hatched[0].get_width() == pytest.approx(9 / 60 * whole.get_width())
        assert [text.get_text() for text in ax.texts] == ["51 of 60"]
        legend = [text.get_text() for text in ax.get_legend().get_texts()]
        assert legend == ["not measured", "off the panel"]
        assert drawn_inside(ax.figure)

    def test_present_blocks_stand_where_the_batch_has_the_modality(self, mdata):
        ax = pl.mosaic(mdata, "batch")
        ax.figure.canvas.draw()
        rows = dict(zip(ax.get_yticks(), ["CITE-seq", "ASAP-seq", "RNA-only"], strict=True))
        columns = dict(zip(ax.get_xticks(), mdata.mod, strict=True))
        found = {
            (rows[_nearest(rows, p.get_y() + p.get_height() / 2)],
             columns[_nearest(columns, p.get_x() + p.get_width() / 2)])
            for p in ax.patches if p.get_alpha() == 0.25
        }  # fmt: skip
        assert found == {
            ("CITE-seq", "rna"), ("CITE-seq", "protein"), ("ASAP-seq", "protein"),
            ("ASAP-seq", "atac"), ("RNA-only", "rna"),
        }  # fmt: skip

    def test_panels_are_found_where_none_is_recorded(self, mdata):
        mdata = mdata.copy()
        del mdata["rna"].varm["measured"]  # the 9 frequent genes are missed beyond chance
        assert [text.get_text() for text in pl.mosaic(mdata, "batch").texts] == ["51 of 60"]

    def test_zeros_by_chance_are_not_drawn_as_a_panel(self, mdata):
        mdata = mdata.copy()
        batch = mdata.obs.loc[mdata["protein"].obs_names, "batch"].to_numpy()
        X = mdata["protein"].X.tolil()
        X[:, 0] = 0
        X[np.flatnonzero(batch == "CITE-seq")[:3], 0] = 1  # 3 of 40: none of 40 is no surprise
        mdata["protein"].X = X.tocsr()
        ax = pl.mosaic(mdata, "batch")
        assert [text.get_text() for text in ax.texts if "of 10" in text.get_text()] == []

    def test_without_x_no_panel_is_found(self, mdata):
        rna = mdata["rna"].copy()
        del rna.X, rna.varm["measured"]
        assert not pl.mosaic(MuData({"rna": rna})).texts

    def test_without_batches_rows_are_combinations(self, mdata):
        ax = pl.mosaic(mdata)
        labels = {tick.get_text() for tick in ax.get_yticklabels()}
        assert labels == {"rna + protein\n40 cells", "protein + atac\n40 cells", "rna\n40 cells"}

    def test_a_batch_with_a_modality_in_part_of_its_cells_has_two_rows(self, mdata):
        few = mdata.obs_names[mdata.obs["batch"] == "CITE-seq"][:10]
        joined = mdata[~mdata.obs_names.isin(few)].copy()
        joined.obs["site"] = joined.obs["batch"].astype(str).replace("RNA-only", "CITE-seq")
        ax = pl.mosaic(joined, "site")
        labels = [tick.get_text() for tick in ax.get_yticklabels()]
        assert labels == ["ASAP-seq\n40 cells", "CITE-seq\n40 cells", "CITE-seq\n30 cells"]

    @pytest.mark.parametrize("view", [True, False])
    @pytest.mark.parametrize("batch_key", [None, "batch"])
    def test_a_modality_without_cells_is_absent(self, mdata, batch_key, view):
        some = mdata[(mdata.obs["batch"] == "CITE-seq").to_numpy()]
        assert some["atac"].n_obs == 0
        ax = pl.mosaic(some if view else some.copy(), batch_key)
        (dashed,) = [p for p in ax.patches if p.get_linestyle() not in ("-", "solid")]
        columns = dict(zip(ax.get_xticks(), mdata.mod, strict=True))
        assert columns[_nearest(columns, dashed.get_x() + dashed.get_width() / 2)] == "atac"
        assert len([p for p in ax.patches if p.get_alpha() == 0.25]) == 2

    def test_missing_column_is_named(self, mdata):
        with pytest.raises(KeyError, match="donor"):
            pl.mosaic(mdata, "donor")
        with pytest.raises(TypeError, match="Expected a MuData, got AnnData"):
            pl.mosaic(mdata["rna"])

    def test_cells_without_a_batch_are_missing(self, mdata):
        mdata = mdata.copy()
        mdata.obs["batch"] = mdata.obs["batch"].where(mdata.obs["batch"] != "CITE-seq")
        labels = [tick.get_text() for tick in pl.mosaic(mdata, "batch").get_yticklabels()]
        assert labels == ["ASAP-seq\n40 cells", "RNA-only\n40 cells", "missing\n40 cells"]

    @pytest.mark.parametrize("batch_key", [None, "batch"])
    def test_modalities_named_as_columns_are(self, mdata, batch_key):
        named = {"batch": mdata["rna"].copy(), "n_cells": mdata["protein"].copy()}
        other = MuData(named)
        other.obs["batch"] = mdata.obs["batch"].reindex(other.obs_names)
        ax = pl.mosaic(other, batch_key)
        texts = [text.get_text() for text in ax.get_xticklabels()]
        assert texts == ["batch\n60 features", "n_cells\n10 features"]
        assert {text.get_text().split("\n")[1] for text in ax.get_yticklabels()} == {"40 cells"}

    def test_more_modalities_than_colours(self):
        from mumask.pl._utils import modality_colors

        colors = modality_colors(["rna", "protein", "adt", "x", "y"])
        assert len(set(colors.values())) == 5


def _nearest(values, at):
    return min(values, key=lambda value: abs(value - at))


class TestEmbedding:
    def obs(self, n=30):
        kinds = pd.Categorical.from_codes(np.arange(n) % 3, ["B", "T", "NK"])
        batch = pd.Categorical.from_codes(np.arange(n) // (n // 2), ["p1", "p2"])
        return pd.DataFrame({"cell_type": kinds, "batch": batch, "depth": np.linspace(0, 1, n)})

    def test_two_columns_are_drawn_as_they_are_and_in_their_colour(self):
        obs, places = self.obs(), np.random.default_rng(0).normal(size=(30, 2))
        axes = pl.embedding_panels(places, places + 5, obs)
        assert [ax.get_title() for ax in axes] == ["before", "after", "", ""]
        palette = dict(zip(["B", "T", "NK"], sc.pl.palettes.default_20, strict=False))
        cloud = axes[1].collections[0]
        drawn = {
            tuple(np.round(place, 5)): to_hex(color)
            for place, color in zip(cloud.get_offsets().data, cloud.get_facecolors(), strict=True)
        }
        assert len(drawn) == 30
        for place, kind in zip(places + 5, obs["cell_type"], strict=True):
            key = min(drawn, key=lambda p: np.abs(np.array(p) - place).sum())
            assert drawn[key] == palette[kind]
        titles = [axes[i].get_legend().get_title().get_text() for i in (1, 3)]
        assert titles == ["cell_type", "batch"]
        assert [t.get_text() for t in axes[3].get_legend().get_texts()] == ["p1", "p2"]
        assert axes[0].get_legend() is None
        assert drawn_inside(axes[0].figure)

    def test_umap_separates_what_is_apart_and_leaves_nan_out(self):
        rng = np.random.default_rng(0)
        latent = rng.normal(size=(60, 4)) + 40 * (np.arange(60) % 3 == 0)[:, None]
        before = latent.copy()
        before[:10] = np.nan
        axes = pl.embedding_panels(before, latent, self.obs(60), "cell_type", n_neighbors=10)
        places = [ax.collections[0].get_offsets().data for ax in axes]
        assert [len(p) for p in places] == [50, 60]
        colors = axes[1].collections[0].get_facecolors()
        first = np.isclose(colors, to_rgba(sc.pl.palettes.default_20[0])).all(1)
        gap = np.linalg.norm(places[1][first].mean(0) - places[1][~first].mean(0))
        assert gap > 3 * places[1][first].std(0).max()

    def test_keys_numbers_missing_and_palette(self, mdata):
        mdata = mdata.copy()
        mdata.obsm["Z"] = mdata.obsm["X_true"][:, :2]
        mdata.obs["depth"] = np.arange(mdata.n_obs, dtype=float)
        mdata.obs["label"] = mdata.obs["cell_type"].where(mdata.obs["batch"] == "CITE-seq")
        mdata.uns["batch_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
        axes = pl.embedding_panels("Z", "Z", mdata, ["depth", "label", "batch"])
        assert axes[1].get_legend() is None and axes[1].child_axes[0].get_ylabel() == "depth"
        assert axes[3].get_legend().get_texts()[-1].get_text() == "missing"
        used = {to_hex(c) for c in axes[4].collections[0].get_facecolors()}
        assert used == {"#ff0000", "#00ff00", "#0000ff"}
        with pytest.raises(KeyError, match="X_gone"):
            pl.embedding_panels("X_gone", "Z", mdata)
        with pytest.raises(KeyError, match="gone"):
            pl.embedding_panels("Z", "Z", mdata, "gone")
        with pytest.raises(ValueError, match="120 cells"):
            pl.embedding_panels(np.ones((3, 2)), "Z", mdata)


class TestTraining:
    def history(self, n=5):
        keys = ["train_loss_step", "train_loss_epoch", "validation_loss", "elbo_train",
                "elbo_validation", "kl_weight"]  # fmt: skip
        index = pd.Index(range(n), name="epoch")
        return {key: pd.DataFrame({key: np.arange(n) + 10.0 * i}, index=index, dtype=object)
                for i, key in enumerate(keys)}  # fmt: skip

    def test_train_and_validation_share_axes(self):
        axes = pl.training_curves(self.history())
        assert [ax.get_title() for ax in axes] == ["loss", "negative ELBO", "kl weight"]
        lines = {line.get_label(): line.get_ydata() for line in axes[0].lines}
        np.testing.assert_array_equal(lines["train"], np.arange(5) + 10)
        np.testing.assert_array_equal(lines["validation"], np.arange(5) + 20)
        assert len(axes[2].lines) == 1 and axes[2].get_legend() is None

    def test_only_train_model_keys_and_skip(self):
        history = self.history()
        del history["validation_loss"], history["elbo_validation"]
        model = type("Model", (), {"history": history})()
        (ax,) = pl.training_curves(model, keys=["elbo"], skip=2)
        assert [line.get_label() for line in ax.lines] == ["train"]
        assert list(ax.lines[0].get_xdata()) == [2, 3, 4]
        with pytest.raises(ValueError, match="nothing"):
            pl.training_curves(model, keys=["nothing"])
        with pytest.raises(ValueError, match="`keys` is empty.*'elbo'"):
            pl.training_curves(model, keys=[])
        (ax,) = pl.training_curves(model, keys="elbo")
        assert ax.get_title() == "negative ELBO"

    def test_what_says_nothing_is_left_out(self):
        """A model without a KL divergence: its parts are 0, and the ELBO is what remains."""
        history = self.history()
        del history["kl_weight"]
        for split in ("train", "validation"):
            history[f"reconstruction_loss_{split}"] = history[f"elbo_{split}"].copy()
            history[f"kl_local_{split}"] = 0 * history[f"elbo_{split}"]
        titles = [ax.get_title() for ax in pl.training_curves(history)]
        assert titles == ["loss", "reconstruction loss"]
        axes = pl.training_curves(history, ["elbo", "kl_local"])  # who asks for them gets them
        assert [ax.get_title() for ax in axes] == ["negative ELBO", "kl local"]
        history["elbo_validation"] = history["elbo_validation"] + 1
        assert len(pl.training_curves(history)) == 3

    def test_gaps_and_one_epoch(self):
        history = self.history(4)
        history["validation_loss"].iloc[[0, 1, 3]] = np.nan
        axes = pl.training_curves(history)
        validation = next(line for line in axes[0].lines if line.get_label() == "validation")
        assert list(validation.get_xdata()) == [2] and validation.get_marker() == "o"

    def test_untrained_model(self):
        with pytest.raises(ValueError, match="train the model"):
            pl.training_curves(type("Model", (), {"history": None})())


class TestMeasuredVsImputed:
    def tables(self, n=50, n_features=6):
        rng = np.random.default_rng(0)
        names = [f"p{i}" for i in range(n_features)]
        cells = [f"c{i}" for i in range(n)]
        measured = pd.DataFrame(rng.poisson(5, (n, n_features)), cells, names)
        noise = np.arange(n_features) * rng.normal(size=(n, n_features))
        return measured, measured + noise

    def test_best_to_worst_and_their_scores(self):
        measured, imputed = (table.iloc[:, ::-1] for table in self.tables())
        axes = pl.measured_vs_imputed(measured, imputed)
        scores = metrics.feature_correlation(imputed, measured, per_feature=True)
        ranked = scores["pearson"].sort_values(ascending=False)
        assert f"{ranked.median():.2f}" in axes[0].get_title()
        assert [t.get_text() for t in axes[0].get_yticklabels()] == list(ranked.index)
        np.testing.assert_allclose([bar.get_width() for bar in axes[0].patches], ranked)
        shown = [ax.get_title().split("\n")[0] for ax in axes[1:]]
        assert shown[0] == ranked.index[0] and shown[-1] == ranked.index[-1]
        for ax, name in zip(axes[1:], shown, strict=True):
            assert f"r = {scores.loc[name, 'pearson']:.2f}" in ax.get_title()

    def test_tables_are_matched_by_name(self):
        measured, imputed = self.tables()
        turned = imputed.iloc[::-1, ::-1].iloc[:, :5]
        axes = pl.measured_vs_imputed(measured, turned, ["p3", "p1"])
        assert [ax.get_title().split("\n")[0] for ax in axes[1:]] == ["p3", "p1"]
        x, y = axes[1].lines[0].get_data()
        np.testing.assert_array_equal(x, measured["p3"])
        np.testing.assert_array_equal(y, imputed["p3"])
        axes = pl.measured_vs_imputed(measured, turned, "p3")
        assert [ax.get_title().split("\n")[0] for ax in axes[1:]] == ["p3"]
        for missing in ("p0", ["p0"]):
            with pytest.raises(KeyError, match=r"\['p0'\]"):
                pl.measured_vs_imputed(measured, turned, missing)
        with pytest.raises(ValueError, match="share no cell"):
            pl.measured_vs_imputed(measured, imputed.add_prefix("x"))
        with pytest.raises(ValueError, match="`features` is empty"):
            pl.measured_vs_imputed(measured, imputed, [])

    def test_many_features_are_a_curve_and_many_cells_a_density(self, monkeypatch):
        from mumask.pl import _imputation

        monkeypatch.setattr(_imputation, "_MAX_POINTS", 20)
        measured, imputed = self.tables(n_features=40)
        axes = pl.measured_vs_imputed(measured, imputed.clip(lower=0), ["p1"], log1p=True)
        assert len(axes[0].lines[0].get_xdata()) == 40 and not axes[0].patches
        (text,) = axes[0].get_legend().get_texts()
        assert text.get_text() == "shown cell by cell" == axes[0].lines[1].get_label()
        assert "log1p" in axes[1].get_xlabel() and axes[1].collections and not axes[1].lines

    def test_anndata_and_plain_arrays(self, mdata):
        protein = mdata["protein"]
        axes = pl.measured_vs_imputed(protein, protein[::-1], ["protein3"])
        assert "r = 1.00" in axes[1].get_title()
        axes = pl.measured_vs_imputed(protein.X, protein.X.toarray())
        assert "median r = 1.00" in axes[0].get_title()
        with pytest.raises(ValueError, match="must match"):
            pl.measured_vs_imputed(protein.X, protein.X[:5])

    def test_names_that_occur_twice_are_named(self):
        table = pd.DataFrame(np.eye(3), columns=["p", "p", "q"])
        with pytest.raises(ValueError, match="several features 'p'"):
            pl.measured_vs_imputed(table, table)


class TestConfusion:
    true = pd.Series(pd.Categorical(["T", "T", "T", "T", "B", "B", "NK"], ["T", "NK", "B"]))
    predicted = ["T", "T", "B", "Unknown", "B", "B", "T"]

    def test_shares_of_the_row(self):
        ax = pl.confusion(self.true, self.predicted)
        ax.figure.canvas.draw()
        assert [t.get_text() for t in ax.get_yticklabels()] == ["T  (4)", "NK  (1)", "B  (2)"]
        assert [t.get_text() for t in ax.get_xticklabels()] == ["T", "NK", "B", "Unknown"]
        shares = np.asarray(ax.collections[0].get_array()).reshape(3, 4)
        np.testing.assert_allclose(shares, [[0.5, 0, 0.25, 0.25], [1, 0, 0, 0], [0, 0, 1, 0]])
        assert {"50", "25", "100"} <= {text.get_text() for text in ax.texts}
        assert "57.1 %" in ax.get_title()
        bar = ax.figure.axes[-1]  # on the scale of the numbers in the cells
        assert [t.get_text() for t in bar.get_yticklabels()][-1] == "100 %"
        assert drawn_inside(ax.figure)

    def test_clusters_stand_beside_their_label(self):
        ax = pl.confusion(self.true, [2, 2, 2, 0, 1, 1, 3])
        assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "2", "3", "1"]
        assert ax.get_title() == ""

    def test_bad_labels(self):
        with pytest.raises(ValueError, match="7 true labels but 1"):
            pl.confusion(self.true, ["T"])
        with pytest.raises(ValueError, match="NaN"):
            pl.confusion(self.true, [None, *self.predicted[1:]])


class TestFinish:
    def test_saved_and_not_shown(self, tmp_path, monkeypatch):
        monkeypatch.setattr(plt, "show", lambda: pytest.fail("shown"))
        ax = pl.confusion(["a", "b"], ["a", "b"], save=tmp_path / "c.png")
        assert (tmp_path / "c.png").stat().st_size > 1000
        assert isinstance(ax, plt.Axes)

    @pytest.mark.parametrize("save", [True, ".pdf", "figures/.png"])
    def test_a_file_without_a_name(self, save, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match="`save` is .*path of a file"):
            pl.confusion(["a", "b"], ["a", "b"], save=save)
        assert not list(tmp_path.iterdir())

    def test_shown_when_asked(self, monkeypatch):
        shown = []
        monkeypatch.setattr(plt, "show", lambda: shown.append(1))
        ax = pl.confusion(["a", "b"], ["a", "b"], show=True)
        assert shown and isinstance(ax, plt.Axes)

    def test_given_axes_are_used(self, mdata):
        figure, axes = plt.subplots(1, 2)
        assert pl.mosaic(mdata, ax=axes[0]) is axes[0]
        assert pl.confusion(["a"], ["a"], ax=axes[1]) is axes[1]
        assert plt.get_fignums() == [figure.number]

    def test_axes_in_part_of_a_figure(self, tmp_path):
        ax = plt.figure().subfigures(1, 2)[0].subplots()
        pl.confusion(["B", "T"], ["B", "B"], ax=ax, save=tmp_path / "part.png")
        assert (tmp_path / "part.png").stat().st_size > 1000
