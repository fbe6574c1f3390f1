"""The loader: every cell once, the same minibatches, also from files and over processes."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp
import torch
import zarr
from anndata.io import sparse_dataset
from torch.utils.data import DataLoader, Subset

from mumask.data import MosaicLoader, MosaicSplitter
from mumask.data import _loader as loader_file


@pytest.fixture
def numbered(make_mosaic):
    """Every cell carries its number, so that it is known again."""
    mosaic = make_mosaic(n=100)
    mosaic.obs["number"] = np.arange(mosaic.n_obs, dtype=float)
    return mosaic


@pytest.fixture
def backed(numbered, tmp_path):
    numbered.write(tmp_path / "m.h5mu")
    mdata = md.read_h5mu(tmp_path / "m.h5mu", backed="r")
    yield mdata
    mdata.file.close()


@pytest.fixture
def small_reads(monkeypatch):
    """Blocks of 5 cells, about 40 cells at once."""
    monkeypatch.setattr(loader_file, "CELLS_PER_BLOCK", 5)
    monkeypatch.setattr(loader_file, "FROM_FILE", 15_000)


def numbers(batch):
    """Which cells a minibatch holds."""
    scale = np.std(np.arange(300.0))
    return np.round(batch["cont_covs"][:, 0].numpy() * scale + 149.5).astype(int)


def manager(manager_of, mdata):
    return manager_of(mdata, continuous_covariate_keys=["number"])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("limit", [1, 2**25])
def test_minibatches_are_those_of_the_data_set(numbered, manager_of, monkeypatch, shuffle, limit):
    """Reading many at once changes nothing."""
    monkeypatch.setattr(loader_file, "FROM_MEMORY", limit)
    ours = manager(manager_of, numbered)
    cells = np.arange(0, 300, 3)
    dataset, seen = ours.create_torch_dataset(), []
    for batch in MosaicLoader(ours, indices=cells, batch_size=16, shuffle=shuffle):
        seen.append(numbers(batch))
        for key, value in dataset[seen[-1]].items():
            assert torch.equal(value.to_dense(), batch[key].to_dense()), key
    assert [len(part) for part in seen] == [16] * 6 + [4]
    seen = np.concatenate(seen)
    assert np.array_equal(seen, cells) == (not shuffle)
    assert np.array_equal(np.sort(seen), cells)


def test_a_file_gives_every_cell_once(backed, numbered, manager_of, small_reads):
    """In random order, the values those in memory; another order in the next epoch."""
    ours, reference = manager(manager_of, backed), manager(manager_of, numbered)
    dataset = reference.create_torch_dataset()
    loader = MosaicLoader(ours, batch_size=8, shuffle=True)
    orders = []
    for _ in range(2):
        seen = []
        for batch in loader:
            seen.append(numbers(batch))
            for key, value in dataset[seen[-1]].items():
                assert torch.equal(value.to_dense(), batch[key].to_dense()), key
        assert len(seen) == len(loader)
        orders.append(np.concatenate(seen))
        assert np.array_equal(np.sort(orders[-1]), np.arange(300))
    assert not np.array_equal(*orders)


@pytest.mark.parametrize(("n_cells", "longest"), [(300, 15), (240, 40)])
def test_a_file_is_read_in_stretches(
    backed, manager_of, small_reads, monkeypatch, n_cells, longest
):
    """Few reads of neighbouring rows per pool, and never much at once."""
    from mumask.data import _blocks

    ours, spans = manager(manager_of, backed), []
    read = _blocks.RowSpans.__getitem__

    def watched(self, part):
        if self.shape[1] == 40:
            spans.append(part.stop - part.start)
        return read(self, part)

    split = np.random.default_rng(0).permutation(300)[:n_cells]  # cells of a training
    loader = MosaicLoader(ours, indices=split, batch_size=8, shuffle=True)
    monkeypatch.setattr(_blocks.RowSpans, "__getitem__", watched)
    for _ in loader:
        pass
    assert sum(spans) < 2.5 * backed["atac"].n_obs
    assert np.mean(spans) > 4
    assert max(spans) <= longest  # neighbouring blocks that were drawn together


@pytest.mark.parametrize("n_processes", [2, 3])
def test_processes_share_the_blocks(backed, manager_of, small_reads, n_processes, monkeypatch):
    """Every process has its own cells, as many as the others, and all have all."""
    import torch.distributed as dist

    ours, seen = manager(manager_of, backed), []
    monkeypatch.setattr(dist, "is_available", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: n_processes)
    for rank in range(n_processes):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        loader = MosaicLoader(ours, batch_size=8, shuffle=True, distributed_sampler=True)
        batches = [numbers(batch) for batch in loader]
        assert len(batches) == len(loader)
        seen.append(np.concatenate(batches))
        loader.sampler.set_epoch(1)  # which has an order of its own
        assert not np.array_equal(np.concatenate([numbers(b) for b in loader]), seen[-1])
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(300))
    assert len({len(part) for part in seen}) == 1


def test_worker_processes_are_torchs(numbered, manager_of):
    """With and without them a seed gives the same minibatches."""
    ours, found = manager(manager_of, numbered), []
    for n_workers in (0, 1):
        torch.manual_seed(5)
        loader = MosaicLoader(ours, batch_size=100, shuffle=True, num_workers=n_workers)
        found.append(np.concatenate([numbers(batch) for batch in loader]))
    assert np.array_equal(*found)


@pytest.mark.parametrize("storage", [sp.csr_matrix, np.asarray])
def test_zarr(make_mosaic, names, storage, tmp_path, by_name, assert_same_batch):
    """Matrices of a Zarr store, left where they are."""
    mosaic = make_mosaic(storage=storage)
    mods = {}
    for name, adata in mosaic.mod.items():
        adata.write_zarr(tmp_path / f"{name}.zarr")
        group = zarr.open(tmp_path / f"{name}.zarr", mode="r")
        x = sparse_dataset(group["X"]) if storage is sp.csr_matrix else group["X"]
        mods[name] = ad.AnnData(x, obs=adata.obs, var=adata.var)
    lazy = md.MuData(mods)
    lazy.obs["batch"] = mosaic.obs["batch"].reindex(lazy.obs_names)
    assert_same_batch(by_name(mosaic, names), by_name(lazy, names))


def test_the_splitter_uses_the_loader(numbered, manager_of):
    splitter = MosaicSplitter(manager(manager_of, numbered), train_size=0.5, batch_size=32)
    splitter.setup()
    loader = splitter.train_dataloader()
    assert type(loader) is MosaicLoader
    assert isinstance(loader.dataset, Subset)
    assert sum(len(batch["batch"]) for batch in loader) == 150


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_spawned_worker_reads_from_the_file(numbered, manager_of, tmp_path, mode):
    """It inherits no open file; with "r+" this process keeps a lock on it."""
    numbered["protein"].X = numbered["protein"].X.toarray()
    numbered.write(tmp_path / "m.h5mu")
    mdata, cells = md.read_h5mu(tmp_path / "m.h5mu", backed=mode), [7, 205, 3, 120]
    dataset = manager_of(mdata, continuous_covariate_keys=["number"]).create_torch_dataset()
    worker = {"num_workers": 1, "multiprocessing_context": "spawn"}
    (found,) = DataLoader(dataset, sampler=[cells], batch_size=None, **worker)
    expected = dataset[cells]
    assert set(found) == set(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key].to_dense(), values.to_dense(), err_msg=key)
    mdata.file.close()
