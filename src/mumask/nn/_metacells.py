"""Groups of like reference cells, and what was measured in them on the average."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sklearn.cluster import KMeans
from torch import nn

# More do not predict better: 100, 250 and 500 did alike on held-out cells of the PBMC data.
N_METACELLS = 100
CELLS_EACH = 10  # at least, on the average


class Metacells(nn.Module):
    """Memory of a latent space: centres of like cells, and their mean levels by modality.

    They are fitted after the model's training and take no part in it.

    Parameters
    ----------
    n_latent
        Latent dimensions.
    n_features
        Number of features of every modality whose levels are remembered.
    from_others
        Room for a second memory of each modality, ``without[name]``: of the same cells where they
        are encoded from their other modalities.
    """

    def __init__(self, n_latent: int, n_features: Mapping[str, int], from_others: bool = False):
        super().__init__()
        self.names = list(n_features)
        self.without = nn.ModuleDict(
            {name: Metacells(n_latent, {name: n}) for name, n in n_features.items() if from_others}
        )
        self.register_buffer("places", torch.zeros(N_METACELLS, n_latent))
        self.register_buffer("radius", torch.ones(()))
        for name, n in n_features.items():
            self.register_buffer(f"sizes_{name}", torch.zeros(N_METACELLS))
            self.register_buffer(f"levels_{name}", torch.zeros(N_METACELLS, n))

    @torch.no_grad()
    def forget(self) -> None:
        """Know no levels any more."""
        for name in self.names:
            self.get_buffer(f"sizes_{name}").zero_()
        for memory in self.without.values():
            memory.forget()

    @torch.no_grad()
    def place(self, z: torch.Tensor) -> None:
        """Choose centres for latent vectors ``(n, n_latent)``, by k-means; levels are forgotten."""
        self.forget()
        n_used = max(1, min(N_METACELLS, len(z) // CELLS_EACH))
        found = KMeans(n_used, n_init=1, random_state=0).fit(z.cpu().numpy())
        centres = torch.as_tensor(found.cluster_centers_).to(z)
        self.places.copy_(centres[:1].expand_as(self.places))  # no cell is nearest to a copy
        self.places[:n_used] = centres
        self.radius.fill_((found.inertia_ / len(z)) ** 0.5).clamp_(min=1e-6)

    @torch.no_grad()
    def add(self, name: str, z: torch.Tensor, levels: torch.Tensor) -> None:
        """Take cells into the means of their metacells.

        Parameters
        ----------
        name
            Modality.
        z, levels
            Latent vectors ``(n, n_latent)`` and levels ``(n, n_features)`` of the cells.
        """
        sizes, means = self.get_buffer(f"sizes_{name}"), self.get_buffer(f"levels_{name}")
        own = torch.cdist(z, self.places).argmin(dim=1)
        sizes.index_add_(0, own, torch.ones_like(z[:, 0]))
        means.index_add_(0, own, (levels - means[own]) / sizes[own].unsqueeze(1))

    def knows(self, name: str) -> bool:
        """Whether levels of a modality are known."""
        return name in self.names and bool(self.get_buffer(f"sizes_{name}").any())

    def forward(self, z: torch.Tensor, name: str) -> torch.Tensor:
        """Levels ``(n, n_features)`` around latent vectors ``(n, n_latent)``.

        A mean over metacells: each weighs as its number of cells, and the less the farther it is,
        in units of the distance that cells have from their own.
        """
        squares = torch.cdist(z, self.places).square() / self.radius**2
        sizes = self.get_buffer(f"sizes_{name}")
        return torch.softmax(sizes.log() - squares, dim=1) @ self.get_buffer(f"levels_{name}")
