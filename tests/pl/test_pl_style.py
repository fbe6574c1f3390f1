"""Colours of categories, dark backgrounds, and names that are long."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgba
from mudata import MuData

from mumask import pl
from mumask.datasets import simulate_mosaic
from mumask.pl._utils import category_colors

LONG = "naive thymus-derived CD8-positive, alpha-beta T cell of donor"
WHITE = to_rgba("white")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """Labels with a category that no cell has, before the others."""
    rng = np.random.default_rng(0)
    label = pd.Categorical(np.repeat(["B", "T"], 30), ["absent", "B", "T"])
    obs = pd.DataFrame({"mumask_label": label}, index=[f"c{i}" for i in range(60)])
    obs["mumask_uncertainty"] = rng.uniform(0, 0.4, 60) + (label == "T")
    obs["mumask_novelty"] = rng.uniform(0, 0.9, 60)
    obs["mumask_new_type"] = np.arange(60) < 5
    obs.loc[obs["mumask_new_type"], "mumask_novelty"] = 3.0
    adata = AnnData(obs=obs)
    adata.obsm["X_umap"] = rng.normal(size=(60, 2))
    return adata


def crowded(n_types=18, name="type"):
    rng = np.random.default_rng(0)
    true = rng.integers(0, n_types, 3000)
    predicted = np.where(rng.random(3000) < 0.8, true, rng.integers(0, n_types, 3000))
    names = np.array([f"{name} {i}" for i in range(n_types)])
    return names[true], names[predicted]


class TestColours:
    def violins(self, data):
        (ax,) = pl.uncertainty(data, keys="mumask_uncertainty")
        return [to_hex(violin.get_facecolor()[0]) for violin in ax.collections]

    def test_violins_have_the_colours_of_uns(self, adata):
        default = category_colors(3)
        assert self.violins(adata) == [default[2], default[1]]  # T, B
        assert self.violins(adata.obs) == [default[2], default[1]]
        adata.uns["mumask_label_colors"] = np.array(["#000000", "#ff0000", "#00ff00"])
        assert self.violins(adata) == ["#00ff00", "#ff0000"]
        adata.uns["mumask_label_colors"] = ["#000000", "#ff0000"]  # of other categories
        assert self.violins(adata) == [default[2], default[1]]

    def test_legend_has_the_categories_of_the_cells(self, adata):
        adata.uns["mumask_label_colors"] = ["#000000", "#ff0000", "#00ff00"]
        axes = pl.embedding_panels("X_umap", "X_umap", adata, "mumask_label")
        legend = axes[1].get_legend()
        assert [text.get_text() for text in legend.get_texts()] == ["B", "T"]
        assert [handle.get_color() for handle in legend.legend_handles] == ["#ff0000", "#00ff00"]
        drawn = {to_hex(color) for color in axes[0].collections[0].get_facecolors()}
        assert drawn == {"#ff0000", "#00ff00"}


class TestDark:
    @pytest.fixture(autouse=True)
    def _dark(self):
        with plt.style.context("dark_background"):
            yield

    def test_uncertainty(self, adata):
        (ax,) = pl.uncertainty(adata, keys="mumask_novelty")
        assert WHITE in [to_rgba(line.get_color()) for line in ax.lines]
        shares = {t.get_text(): to_rgba(t.get_color()) for t in ax.texts if "%" in t.get_text()}
        assert shares["17 % new"] == WHITE
        (ax,) = pl.uncertainty(adata, keys="mumask_novelty", basis="X_umap")
        assert tuple(ax.collections[0].get_edgecolors()[0]) == WHITE
        (handle,) = ax.get_legend().legend_handles
        assert to_rgba(handle.get_markeredgecolor()) == WHITE

    @pytest.mark.parametrize("n_features", [4, 40])
    def test_imputation(self, n_features):
        values = pd.DataFrame(np.random.default_rng(0).normal(size=(20, n_features)))
        ax = pl.measured_vs_imputed(values, values + 1, [1])[0]
        marks = [line for line in ax.lines if line.get_linestyle() != "-"]
        assert marks and {to_rgba(line.get_color()) for line in marks} == {WHITE}

    def test_share_of_a_panel(self):
        sizes = {"rna": 40, "protein": 8}
        mdata = simulate_mosaic(20, n_features=sizes, panels={"RNA-only": {"rna": 0.5}})
        (text,) = pl.mosaic(mdata, "batch").texts
        assert to_rgba(text.get_bbox_patch().get_facecolor()) != to_rgba(text.get_color()) == WHITE


class TestLongNames:
    def size(self, ax):
        """Of an Axes, in inches, and whether its names lie inside the figure."""
        ax.figure.canvas.draw()
        whole = ax.figure.get_tightbbox()
        assert whole.x0 > -0.05 and whole.y0 > -0.05
        return ax.get_window_extent().size / ax.figure.dpi

    def test_confusion(self):
        def draw(names):
            return self.size(pl.confusion(np.repeat(names, 5), np.repeat(names, 5)))

        short = draw(["B", "T", "NK"])
        assert (draw([f"{LONG} 1", f"{LONG} 2", "B"]) > 0.8 * short).all()

    def test_mosaic(self):
        mdata = simulate_mosaic(20, n_features={"rna": 40, "protein": 8}, n_cell_types=2)
        short = self.size(pl.mosaic(mdata, "batch"))
        mdata.obs["batch"] = mdata.obs["batch"].astype(str) + LONG
        assert (self.size(pl.mosaic(mdata, "batch")) > 0.8 * short).all()
        names = {"rna": "gene expression of the nucleus", "protein": "proteins of the surface"}
        ax = pl.mosaic(MuData({name: mdata[mod] for mod, name in names.items()}))
        self.size(ax)
        first, second = (tick.get_window_extent() for tick in ax.get_xticklabels())
        assert first.x1 < second.x0

    def test_uncertainty(self, adata):
        short = self.size(pl.uncertainty(adata)[0])
        adata.obs["mumask_label"] = adata.obs["mumask_label"].cat.rename_categories({"T": LONG})
        assert (self.size(pl.uncertainty(adata)[0]) > 0.8 * short).all()

    def test_numbers_are_not_cut(self):
        def widest(ax):
            cell = ax.get_window_extent().width / 18
            return max(text.get_window_extent().width for text in ax.texts) / cell

        for name in ("type", LONG):
            assert widest(pl.confusion(*crowded(name=name))) < 1
        _, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
        own = left.text(0, 0, "a")
        assert list(pl.confusion(*crowded(), ax=left).texts) == [own]
        assert pl.confusion(["B", "T"], ["B", "T"], ax=right).texts
