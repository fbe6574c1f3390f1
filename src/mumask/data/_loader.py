"""Minibatches in random order, from memory or from files that do not fit into it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi.dataloaders import AnnDataLoader, DataSplitter
from torch.utils.data import Subset

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bytes that are read at once: from memory, enough to forget the cost of an access; from a file,
# also enough to mix cells from many places of it.
FROM_MEMORY, FROM_FILE = 2**25, 2**28
# Neighbouring cells of a file that stay together until they are mixed with others in memory.
CELLS_PER_BLOCK = 64


class MosaicLoader(AnnDataLoader):
    """scvi-tools' loader, reading many minibatches with one access.

    Where values lie in a file, shuffling is done in two steps, so that the disk is read in
    stretches and memory stays bounded: blocks of neighbouring cells are drawn in random order,
    and what fits into ``FROM_FILE`` bytes is shuffled in memory.
    """

    def __init__(self, adata_manager, indices=None, batch_size=128, shuffle=False, **kwargs):
        super().__init__(
            adata_manager, indices=indices, batch_size=batch_size, shuffle=shuffle, **kwargs
        )
        self.minibatch_size, self.in_random_order = batch_size, shuffle

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Minibatches; worker processes and pinned memory are left to torch."""
        if self.num_workers or self.pin_memory or self.batch_size is not None:
            return super().__iter__()
        return self._walk()

    def _walk(self) -> Iterator[dict[str, torch.Tensor]]:
        # Drawn by torch's own iterator, too: a seed gives the same minibatches with and without it.
        seed = int(torch.empty((), dtype=torch.int64).random_())
        cells, dataset = None, self.dataset
        if isinstance(dataset, Subset):
            cells, dataset = np.asarray(dataset.indices), dataset.dataset
        place = dataset.order_in_file()
        most = FROM_MEMORY if place is None else FROM_FILE
        at_once = max(1, int(most / max(dataset.bytes_per_cell, 1) / self.minibatch_size))
        batches = iter(self.sampler)
        if place is not None and self.in_random_order:
            place = place if cells is None else place[cells]
            batches = self._from_blocks(place, at_once * self.minibatch_size, seed)
        while groups := [np.asarray(batch) for batch in islice(batches, at_once)]:
            yield from dataset.minibatches(groups if cells is None else [cells[g] for g in groups])

    def _from_blocks(self, place: np.ndarray, n_at_once: int, seed: int) -> Iterator[np.ndarray]:
        """Positions of the cells of every minibatch, of which every few come from few blocks."""
        rank = getattr(self.sampler, "rank", 0)
        n_processes = getattr(self.sampler, "num_replicas", 1)
        if n_processes > 1:  # every process has to draw the same order
            seed = self.sampler.seed + self.sampler.epoch
        rng = np.random.default_rng(seed)
        order = np.argsort(place, kind="stable")
        blocks = np.array_split(order, max(1, len(order) // CELLS_PER_BLOCK))
        drawn = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
        share = -(-len(drawn) // n_processes)
        drawn = np.resize(drawn, share * n_processes)[rank * share : (rank + 1) * share]
        n_left = len(self)
        for start in range(0, share, n_at_once):
            mixed = rng.permutation(drawn[start : start + n_at_once])
            for first in range(0, len(mixed), self.minibatch_size):
                if n_left:
                    yield mixed[first : first + self.minibatch_size]
                n_left -= 1


class MosaicSplitter(DataSplitter):
    """scvi-tools' split into training, validation and test cells, with our loader."""

    data_loader_cls = MosaicLoader

    def __init__(self, *args, external_indexing: list[np.ndarray] | None = None, **kwargs):
        if external_indexing is not None:  # scvi-tools writes into the list
            external_indexing = list(external_indexing)
        super().__init__(*args, external_indexing=external_indexing, **kwargs)
