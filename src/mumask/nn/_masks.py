"""The mask algebra: what the encoder may see and what enters the loss.

Every mask is a product of presence, panel, training objective and what the user adds. ``None``
stands for a mask without a single False, so that nothing as large as the data is built for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ._values import as_dense

Masks = tuple[torch.Tensor, torch.Tensor]
Schedule = Callable[[torch.Tensor], Masks]

# Share of the features up to which it pays to pick them out.
NARROW = 0.5


def both(*masks: torch.Tensor | None) -> torch.Tensor | None:
    """Product of masks that broadcast; None is neutral."""
    product = None
    for mask in masks:
        if mask is not None:
            product = mask if product is None else product & mask
    return product


def one_present(presence: torch.Tensor) -> torch.Tensor:
    """Choose one present modality per cell, evenly; one-hot booleans of shape ``(B, M)``."""
    choice = torch.multinomial(presence.float(), 1)
    return torch.zeros_like(presence).scatter_(1, choice, True)


def subset_schedule(presence: torch.Tensor, p_joint: float = 1 / 3) -> Masks:
    """Random sources, all targets: self- and alternative reconstruction mixed in every minibatch.

    A cell is encoded from all its modalities with probability `p_joint`, else from a random
    non-empty subset of them, and every present modality is decoded. Over training this visits
    each stage of the paper (Fig. 4 B-F) without stacked copies of the data.

    Parameters
    ----------
    presence
        Which modalities a cell has, shape ``(B, M)``.
    p_joint
        Share of cells that are encoded from everything they have.

    Returns
    -------
    Sources and targets, booleans of shape ``(B, M)``.
    """
    coin = torch.rand(presence.shape, device=presence.device) < 0.5
    subset = presence & coin
    empty = ~subset.any(dim=1, keepdim=True)
    subset = torch.where(empty, one_present(presence), subset)
    joint = torch.rand(len(presence), 1, device=presence.device) < p_joint
    return torch.where(joint, presence, subset), presence


def pair_schedule(presence: torch.Tensor) -> Masks:
    """The paper's stages: one source and one target modality per cell.

    Every ordered pair of modalities that the cell has is equally likely; source = target is
    self-reconstruction, source != target alternative reconstruction (Fig. 4 B-F, 6 B-C).

    Returns
    -------
    Sources and targets, one-hot booleans of shape ``(B, M)``.
    """
    return one_present(presence), one_present(presence)


SCHEDULES: dict[str, Schedule] = {"subsets": subset_schedule, "pairs": pair_schedule}


def through_panels(visible: torch.Tensor, panels: torch.Tensor) -> torch.Tensor:
    """Look at every cell through a random panel, at what both it and the cell have.

    So cells of a wide panel learn to be encoded from what a narrow one leaves, and are held to all
    that they measured: the imputation of the features that the narrow panel lacks. And cells of
    different panels meet in the same input.

    Parameters
    ----------
    visible
        Elements that the encoder may see, shape ``(n, n_features)``.
    panels
        Different panels, shape ``(n_panels, n_features)``.

    Returns
    -------
    Booleans of shape ``(n, n_features)``; a cell that has nothing of its panel keeps everything.
    """
    drawn = torch.randint(len(panels), (len(visible),), device=visible.device)
    seen = visible & panels[drawn]
    return torch.where(seen.any(dim=1, keepdim=True), seen, visible)


def check_schedule(masks: Masks, presence: torch.Tensor) -> Masks:
    """Confine the masks of a user's schedule to what is present."""
    two = isinstance(masks, tuple | list) and len(masks) == 2
    if not two or any(getattr(mask, "shape", None) != presence.shape for mask in masks):
        raise ValueError(
            "A mask schedule has to return two tensors of booleans, sources and targets, each of the "
            f"shape of the presence matrix, {tuple(presence.shape)}."
        )
    source, target = (mask.to(presence) & presence for mask in masks)
    if not source.any(dim=1).all():
        raise ValueError(
            "The mask schedule left a cell without any source modality. Return at least one "
            "present modality per cell in the first mask."
        )
    return source, target


def users_mask(
    masks: Mapping[str, Callable], x: torch.Tensor, modality: str
) -> torch.Tensor | None:
    """What a user's mask function says of raw values ``(n, n_features)``; None without one."""
    if modality not in masks:
        return None
    mask = masks[modality](as_dense(x))
    if mask.shape != x.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"The mask function of {modality!r} has to return booleans of shape "
            f"{tuple(x.shape)}, not {mask.dtype} of shape {tuple(mask.shape)}."
        )
    return mask


def narrowed(
    x: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Values and mask ``(n, n_features)`` of the features that some row has, if those are few.

    Returns
    -------
    Values, mask, and the numbers of their columns; the first two as they were and None where most
    features are there.
    """
    if mask is None:
        return x, mask, None
    columns = mask.any(dim=0).nonzero().squeeze(1)
    if not 0 < len(columns) <= NARROW * mask.shape[1]:
        return x, mask, None
    return as_dense(x).index_select(1, columns), mask.index_select(1, columns), columns


def mean_unmasked(total: torch.Tensor, mask: torch.Tensor | None, n_features: int) -> torch.Tensor:
    """Rescale a sum over unmasked elements to the size of a full cell.

    Parameters
    ----------
    total
        Sum over the unmasked elements of each row, shape ``(n,)``.
    mask
        Booleans of shape ``(n, n_features)``, or None.
    n_features
        Number of features of a full row.

    Returns
    -------
    Mean over the unmasked elements times `n_features`, shape ``(n,)``; 0 where all are masked.
    """
    if mask is None:
        return total
    return total * (n_features / mask.sum(dim=1).clamp(min=1))
