"""What a method is given and what it hands back, as plain arrays that any environment can read.

A method may run in an environment of its own, with other versions of everything. So a problem
travels as a folder of ``.npz`` and ``.json`` files, and the only needs of this file are numpy,
scipy and pandas.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

UNKNOWN = "Unknown"


@dataclass
class Block:
    """One modality: counts of the cells that have it.

    Attributes
    ----------
    values
        Counts, cells x features.
    cells, features
        Names.
    """

    values: sparse.csr_matrix
    cells: np.ndarray
    features: np.ndarray

    def subset(self, cells=None, features=None) -> Block:
        """Cells and features by name, in the given order."""
        block = self
        if cells is not None:
            cells = np.asarray(cells)
            block = Block(
                block.values[pd.Index(block.cells).get_indexer(cells)], cells, block.features
            )
        if features is not None:
            features = np.asarray(features)
            columns = pd.Index(block.features).get_indexer(features)
            block = Block(block.values[:, columns].tocsr(), block.cells, features)
        return block

    def to_anndata(self):
        """AnnData with the counts in ``X``."""
        from anndata import AnnData

        return AnnData(
            self.values.copy(),
            obs=pd.DataFrame(index=self.cells.astype(str)),
            var=pd.DataFrame(index=self.features.astype(str)),
        )


@dataclass
class Problem:
    """A task with its hidden truth taken out.

    Attributes
    ----------
    task
        Name of the task.
    obs
        One row per cell; ``batch``, and ``label`` where labels may be used (hidden ones are
        ``"Unknown"``).
    blocks
        Modalities by name.
    query
        A second data set to be mapped onto the first, or None.
    targets
        By modality, the features to predict: for the cells of the query, or without a query for
        the cells of the problem that lack the modality, in the order of `obs`.
    asks
        What is scored: ``"latent"``, ``"labels"``, ``"query_labels"``, ``"targets"``.
    """

    task: str
    obs: pd.DataFrame
    blocks: dict[str, Block]
    query: Problem | None = None
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    asks: tuple[str, ...] = ("latent",)

    @property
    def cells(self) -> np.ndarray:
        return self.obs.index.to_numpy()

    def has(self, modality: str) -> np.ndarray:
        """Which cells have a modality."""
        return self.obs.index.isin(self.blocks[modality].cells)

    @property
    def paired(self) -> np.ndarray:
        """Which cells have every modality."""
        return np.all([self.has(name) for name in self.blocks], axis=0)

    def block(self, modality: str) -> Block:
        """A modality with its cells in the order of `obs`."""
        block = self.blocks[modality]
        return block.subset(cells=self.obs.index[self.has(modality)].to_numpy())

    def shared(self, modality: str) -> tuple[Block, Block]:
        """A modality of problem and query, with the features that both have."""
        one, other = self.block(modality), self.query.block(modality)
        features = one.features[np.isin(one.features, other.features)]
        return one.subset(features=features), other.subset(features=features)

    def to_mudata(self, modalities=None):
        """MuData with ``batch`` and ``label`` in ``obs``; cells in the order of `obs`."""
        from mudata import MuData

        names = list(modalities or self.blocks)
        mdata = MuData({name: self.block(name).to_anndata() for name in names})
        mdata = mdata[self.obs.index[self.obs.index.isin(mdata.obs_names)]].copy()
        for column in self.obs:
            mdata.obs[column] = self.obs[column].reindex(mdata.obs_names).astype("category")
        return mdata

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.obs.to_csv(folder / "obs.csv", index_label="cell")
        for name, block in self.blocks.items():
            sparse.save_npz(folder / f"{name}.values.npz", sparse.csr_matrix(block.values))
            np.savez(
                folder / f"{name}.names.npz",
                cells=block.cells.astype(str),
                features=block.features.astype(str),
            )
        described = {
            "task": self.task,
            "blocks": list(self.blocks),
            "targets": {name: list(map(str, names)) for name, names in self.targets.items()},
            "asks": list(self.asks),
        }
        (folder / "problem.json").write_text(json.dumps(described))
        if self.query is not None:
            self.query.save(folder / "query")

    @classmethod
    def load(cls, folder: Path) -> Problem:
        described = json.loads((folder / "problem.json").read_text())
        blocks = {}
        for name in described["blocks"]:
            names = np.load(folder / f"{name}.names.npz")
            values = sparse.csr_matrix(sparse.load_npz(folder / f"{name}.values.npz"))
            blocks[name] = Block(values, names["cells"], names["features"])
        obs = pd.read_csv(folder / "obs.csv", index_col="cell", dtype=str, keep_default_na=False)
        return cls(
            described["task"],
            obs,
            blocks,
            cls.load(folder / "query") if (folder / "query").is_dir() else None,
            {name: np.asarray(names) for name, names in described["targets"].items()},
            tuple(described["asks"]),
        )


def save_outputs(outputs: dict, folder: Path) -> None:
    """Write what a method returned: arrays, and sparse graphs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in outputs.items():
        if sparse.issparse(value):
            sparse.save_npz(folder / f"{name}.graph.npz", value.tocsr())
        else:
            value = np.asarray(value)
            np.save(folder / f"{name}.npy", value if value.dtype.kind == "f" else value.astype(str))


def load_outputs(folder: Path) -> dict:
    """Read what :func:`save_outputs` wrote."""
    found = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    for path in folder.glob("*.graph.npz"):
        found[path.name.removesuffix(".graph.npz")] = sparse.load_npz(path)
    return found


def clr(values) -> np.ndarray:
    """Centred log-ratio of every cell (row) with a pseudocount of one."""
    logs = np.log1p(
        np.asarray(values.todense() if sparse.issparse(values) else values, dtype=float)
    )
    return logs - logs.mean(axis=1, keepdims=True)


def lognorm(values, target: float = 1e4) -> sparse.csr_matrix:
    """``log1p`` of counts scaled to `target` per cell."""
    values = sparse.csr_matrix(values, dtype=np.float64)
    totals = np.asarray(values.sum(axis=1)).ravel()
    scaled = sparse.diags(target / np.maximum(totals, 1.0)) @ values
    return scaled.log1p().tocsr()
