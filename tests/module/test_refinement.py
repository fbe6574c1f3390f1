"""Refinement of the cells of a query: the objective, and each cell by itself."""

from __future__ import annotations

import torch

from mumask.module._query_inference import REFINE_RATE


def test_the_loss_of_the_training_is_what_goes_down(default_module, minibatch):
    """With its weights, and with the prior on what latent arithmetic leaves."""
    weights = {"reconstruction": 0.3, "kl": 2.0}
    module = default_module(arithmetic="subtract", weights=weights, n_categories=[2]).eval()
    module.modality_weights = {"rna": 4.0, "protein": 0.2, "atac": 1.0}
    module.latent_covariates.embeddings[0].weight.data *= 20
    tensors, _ = minibatch("count")
    del tensors["labels"]
    out, covariates = module.inference(tensors, sample=False), module.covariates(tensors)
    mean = out["mean"].detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([mean], lr=REFINE_RATE)
    for _ in range(module.refine_steps):
        optimizer.zero_grad()
        now = {"z": mean, "corrected": module.corrected(mean, covariates)}
        generative = module.generative(tensors, mean, covariates)
        module.loss(tensors, out | now, generative).loss.backward(inputs=[mean])
        optimizer.step()
    module.query_batches = torch.tensor([True, True])
    refined = module.inference(tensors, sample=False)["mean"]
    assert (refined - out["mean"]).abs().min() > 0
    torch.testing.assert_close(refined, mean.detach(), atol=1e-3, rtol=1e-3)


def test_other_cells_and_their_sources_have_no_influence(default_module, minibatch):
    module, (tensors, full) = default_module().eval(), minibatch("count")
    module.query_batches = torch.tensor([True, True])
    torch.manual_seed(3)
    presence = tensors["presence"]
    source = torch.zeros_like(presence)
    source.scatter_(1, torch.multinomial(presence.float(), 1), True)  # one modality of each cell
    together = module.inference(tensors, source=source, sample=False)["mean"]
    for cell in range(len(presence)):
        alone = {key: tensors[key][[cell]] for key in ("presence", "batch")}
        for column, (name, x) in enumerate(full.items()):
            alone[f"X_{name}"] = x[[cell]] if presence[cell, column] else x[:0]
        mean = module.inference(alone, source=source[[cell]], sample=False)["mean"]
        torch.testing.assert_close(mean[0], together[cell], atol=1e-3, rtol=1e-3)
