"""What other libraries do to the threads of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Leave torch with the number of threads that it had before; a context or a decorator.

    When numba's first parallel function runs, such as that of scanpy's normalisation, numba starts
    threads and sets their number for all of OpenMP, and so for torch (numba issue 9387). Someone
    who gave torch one thread, on a machine with other work, then trains with as many as there are
    cores, and waits for them: by a factor of forty.
    """
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
