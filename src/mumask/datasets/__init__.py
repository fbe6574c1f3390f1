"""Data to try the models on: simulated mosaics whose truth is known, and public data sets."""

from ._fetch import fetch, mop_snareseq, mpfc_starmap, pbmc10k_citeseq, pbmc_mosaic
from ._simulate import simulate_mosaic

__all__ = [
    "fetch",
    "mop_snareseq",
    "mpfc_starmap",
    "pbmc10k_citeseq",
    "pbmc_mosaic",
    "simulate_mosaic",
]
