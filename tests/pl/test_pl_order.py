"""Names that hold numbers stand in the order of the numbers, unless an order was chosen."""

import matplotlib

matplotlib.use("Agg")

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from mumask import pl
from mumask.datasets import simulate_mosaic
from mumask.pl._utils import category_colors, natural_order

NAMES = ["cluster 8", "cluster 10", "cluster 9"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


class TestNaturalOrder:
    def test_numbers_are_counted(self):
        assert natural_order(NAMES) == ["cluster 8", "cluster 9", "cluster 10"]
        assert natural_order(["p10_2", "p2_10", "p2_9"]) == ["p2_9", "p2_10", "p10_2"]
        assert natural_order(["10", "9", "B", "T"]) == ["9", "10", "B", "T"]
        assert natural_order([10, 2, 1]) == [1, 2, 10]
        assert natural_order(["x²", "x1", None]) == ["x1", "x²"]  # no number to Python

    def test_order_that_was_chosen_stays(self):
        assert natural_order(pd.Categorical(NAMES, NAMES)) == NAMES
        days = ["day 1", "day 10", "day 2"]
        assert natural_order(pd.Categorical(days, days)) == ["day 1", "day 2", "day 10"]
        assert natural_order(pd.Categorical(days, days, ordered=True)) == days


class TestPictures:
    def test_confusion(self):
        ax = pl.confusion(NAMES, NAMES)
        expected = ["cluster 8", "cluster 9", "cluster 10"]
        assert [t.get_text() for t in ax.get_xticklabels()] == expected
        assert [t.get_text().split("  ")[0] for t in ax.get_yticklabels()] == expected

    def test_clusters_of_one_label(self):
        ax = pl.confusion(["B", "B", "T"], ["10", "9", "8"])
        assert [t.get_text() for t in ax.get_xticklabels()] == ["9", "10", "8"]

    def test_mosaic(self):
        mdata = simulate_mosaic(20, n_features={"rna": 30, "protein": 8}, n_cell_types=2)
        names = dict(zip(mdata.obs["batch"].unique(), ["run 10", "run 9", "run 2"], strict=False))
        mdata.obs["run"] = mdata.obs["batch"].astype(str).map(names)
        ax = pl.mosaic(mdata, "run")
        rows = [tick.get_text().split("\n")[0] for tick in ax.get_yticklabels()]
        assert rows == [name for name in ("run 2", "run 9", "run 10") if name in names.values()]
        assert len(rows) > 1

    def test_legend_of_an_embedding(self):
        obs = pd.DataFrame({"cluster": NAMES})
        places = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": 0.0}).to_numpy()
        axes = pl.embedding_panels(places, places, obs, "cluster")
        legend = [text.get_text() for text in axes[1].get_legend().get_texts()]
        assert legend == ["cluster 8", "cluster 9", "cluster 10"]
        at = dict(
            zip(axes[0].collections[0].get_offsets().data[:, 0],
                map(to_hex, axes[0].collections[0].get_facecolors()), strict=True)
        )  # fmt: skip
        colors = category_colors(3)
        assert [at[0.0], at[1.0], at[2.0]] == [colors[0], colors[2], colors[1]]

    def test_the_colour_of_a_type_does_not_depend_on_its_values(self):
        def colors(middle):
            values = [middle[i % 3] + 0.01 * i for i in range(12)]
            table = pd.DataFrame({"kind": NAMES * 4, "mumask_uncertainty": values})
            (ax,) = pl.uncertainty(table, "kind", "mumask_uncertainty")
            rows = [tick.get_text().split("  ")[0] for tick in ax.get_yticklabels()]
            return rows, {
                name: tuple(violin.get_facecolor()[0])
                for name, violin in zip(rows, ax.collections, strict=True)
            }

        (rows, one), (others, other) = colors([0.1, 0.4, 0.7]), colors([0.4, 0.7, 0.1])
        assert rows != others and one == other and len(set(one.values())) == 3
