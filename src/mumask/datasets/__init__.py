"""Data to try the models on: simulated mosaics whose truth is known."""

from ._simulate import simulate_mosaic

__all__ = ["simulate_mosaic"]
