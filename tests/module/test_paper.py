"""MaskedVAEModule with the paper's preset against a plain reading of its pseudocode.

The reference stacks all modalities of a cell in one zero-padded row, multiplies it with a dense
input mask, and multiplies the stacked output with a dense output mask, as the paper describes it
(Wang et al. 2024, Methods). It shares no code with mumask, only the values of the weights. The
pseudocode has no biases; ours of the first layer belong to the modalities, which is the weight of
one more input per modality that is always 1.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mumask.model._masked_vae import PRESETS
from mumask.module import MaskedVAEModule

NAMES = ["rna", "protein", "atac"]
WEIGHTS = {"reconstruction": 5.0, "kl": 1.0, "prior": 1.0, "labels": 50.0}


def test_preset_is_the_papers():
    preset = PRESETS["inclust+"]
    assert (preset["n_hidden"], preset["n_latent"]) == (200, 50)
    assert preset["weights"] == WEIGHTS
    assert preset["arithmetic"] == "subtract"
    assert preset["prior"] == "clusters"


class Reference:
    """Steps 1 to 6 and the clustering steps on stacked matrices."""

    def __init__(self, state, sign):
        self.w, self.sign = {k: v.detach().clone() for k, v in state.items()}, sign
        w1 = [
            torch.cat(
                [self.w[f"encoder.first.{m}.weight"], self.w[f"encoder.first.{m}.bias"][None]]
            )
            for m in NAMES
        ]
        self.W1 = torch.cat(w1).requires_grad_()
        self.Wout = torch.cat([self.w[f"decoder.last.{m}.weight"] for m in NAMES]).requires_grad_()
        self.bout = torch.cat([self.w[f"decoder.last.{m}.bias"] for m in NAMES])

    def linear(self, name, h):
        return h @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def forward(self, input1, input2, input_mask, output_mask, noise):
        relu = torch.relu
        inputin = input1 * input_mask  # step 1
        h2 = relu(self.linear("encoder.hidden.0", relu(inputin @ self.W1)))  # 2
        mu, log_var = self.linear("encoder.mean", h2), self.linear("encoder.log_var", h2)  # 3
        z1 = mu + torch.exp(0.5 * log_var) * noise  # 4
        h = relu(self.linear("decoder.first", z1))
        output1 = relu(h @ self.Wout.T + self.bout)  # 5
        output = output1 * output_mask  # 6
        e = input2 @ self.w["latent_covariates.embeddings.0.weight"]  # clustering, 3
        z2 = mu + self.sign * e  # 4
        output2 = torch.softmax(self.linear("classifier", z2), dim=1)  # 5
        return {
            "inputin": inputin, "mu": mu, "log_var": log_var, "z1": z1, "z2": z2,
            "output": output, "output2": output2,
        }  # fmt: skip

    def loss(self, r, target, output_mask, sizes, labels):
        """Squared error per modality as mean over unmasked elements times features, and the rest."""
        error = 0.5 * (r["output"] - target * output_mask) ** 2
        total, start = 0.0, 0
        for n in sizes:
            part, mask = error[:, start : start + n], output_mask[:, start : start + n]
            total = total + part.sum(1) * n / mask.sum(1).clamp(min=1)
            start += n
        q, means = r["output2"], self.w["prior.means"]
        var = r["log_var"].exp()
        kl = 0
        for k in range(q.shape[1]):  # KL(N(z2, var) || N(m_k, 1)) weighted by the classifier
            to_k = 0.5 * ((r["z2"] - means[k]) ** 2 + var - r["log_var"] - 1).sum(1)
            kl = kl + q[:, k] * to_k
        prior = (q * (q * q.shape[1]).log()).sum(1)
        known = labels < q.shape[1]
        ce = -q[known, labels[known]].log().mean()
        w = WEIGHTS
        cells = w["reconstruction"] * total + w["kl"] * kl + w["prior"] * prior
        return cells.mean() + w["labels"] * ce


def dense_masks(presence, source, target, panel, held_out, batch):
    """Input mask (with a column for the constant of each modality) and output mask.

    Common features alone are encoded, each batch's own are reconstructed (Fig. 2B and C).
    """
    inputs, outputs = [], []
    for m, name in enumerate(NAMES):
        measured = presence[:, m : m + 1] & torch.as_tensor(panel[name])[batch[:, 0]]
        common = torch.as_tensor(panel[name].all(axis=0) & ~held_out[name])
        encoded = presence[:, m : m + 1] & source[:, m : m + 1]
        inputs += [encoded & common, encoded]
        outputs.append(measured & target[:, m : m + 1])
    return torch.cat(inputs, 1).float(), torch.cat(outputs, 1).float()


@pytest.fixture(params=["subtract", "add"])
def both_ways(request, specs, minibatch, monkeypatch):
    """Outputs of mumask and of the reference for the same step."""
    panel = {n: np.ones((2, s), dtype=bool) for n, s in zip(NAMES, (6, 4, 5), strict=True)}
    panel["protein"][1, :2] = panel["rna"][0, 5] = False
    held_out = {n: np.zeros(s, dtype=bool) for n, s in zip(NAMES, (6, 4, 5), strict=True)}
    held_out["rna"][1] = True
    options = {**PRESETS["inclust+"], "n_hidden": 12, "n_latent": 4}
    options["arithmetic"] = request.param
    torch.manual_seed(0)
    module = MaskedVAEModule(
        specs(dict.fromkeys(NAMES, "gaussian"), panel, held_out),
        n_categories=[2],
        n_classes=3,
        **options,
    )
    for parameter in module.parameters():  # no zeros that could hide a missing term
        torch.nn.init.normal_(parameter, std=0.4)
    tensors, full = minibatch()
    presence = tensors["presence"]
    # One source and one target per cell; both cover self- and alternative reconstruction.
    first = presence.float().argmax(1)
    last = 2 - presence.flip(1).float().argmax(1)
    source, target = (torch.nn.functional.one_hot(i, 3).bool() for i in (first, last))
    source[:7] = presence[:7]  # and some cells from everything
    noise = torch.randn(len(presence), 4)
    monkeypatch.setattr(torch, "randn_like", lambda x, **_: noise)
    module.schedule = lambda p: (source, target)
    module.train()

    seen = {}
    module.encoder.register_forward_pre_hook(lambda _, args: seen.update(inputs=args[0]))
    inference, generative, losses = module(tensors)
    losses.loss.backward()

    reference = Reference(module.state_dict(), -1.0 if request.param == "subtract" else 1.0)
    input_mask, output_mask = dense_masks(
        presence, source, target, panel, held_out, tensors["batch"]
    )
    padded = [full[n] * presence[:, m : m + 1] for m, n in enumerate(NAMES)]
    input1 = torch.cat([torch.cat([x, torch.ones(len(x), 1)], 1) for x in padded], 1)
    input2 = torch.nn.functional.one_hot(tensors["batch"][:, 0], 2).float()
    result = reference.forward(input1, input2, input_mask, output_mask, noise)
    loss = reference.loss(
        result, torch.cat(padded, 1), output_mask, (6, 4, 5), tensors["labels"][:, 0]
    )
    loss.backward()
    ours = {"module": module, "inference": inference, "losses": losses, "seen": seen["inputs"]}
    ours |= {"hidden": generative["hidden"], "tensors": tensors, "source": source}
    return ours, {**result, "loss": loss, "reference": reference, "output_mask": output_mask}


def close(ours, paper):
    torch.testing.assert_close(ours, paper, rtol=1e-5, atol=1e-5)


def test_masked_input(both_ways):
    """Step 1."""
    ours, paper = both_ways
    start = 0
    for m, (name, n) in enumerate(zip(NAMES, (6, 4, 5), strict=True)):
        rows = ours["tensors"]["presence"][:, m]
        values, offset = ours["seen"][name]
        assert offset is None  # the paper does not standardise
        visible = values.to_dense() * ours["source"][rows, m : m + 1]
        close(visible, paper["inputin"][rows, start : start + n])
        assert not paper["inputin"][~rows, start : start + n].any()
        start += n + 1


def test_forward(both_ways):
    """Steps 2 to 5 and the clustering steps."""
    ours, paper = both_ways
    inference = ours["inference"]
    for name, key in {"mean": "mu", "log_var": "log_var", "z": "z1", "corrected": "z2"}.items():
        close(inference[name], paper[key])
    close(torch.softmax(inference["logits"], 1), paper["output2"])


def test_masked_output(both_ways):
    """Step 6."""
    ours, paper = both_ways
    module, start = ours["module"], 0
    for name, n in zip(NAMES, (6, 4, 5), strict=True):
        mask = paper["output_mask"][:, start : start + n]
        decoded = module.expected(ours["hidden"], name, torch.zeros(len(ours["hidden"]), 1))
        close(decoded * mask, paper["output"][:, start : start + n])
        start += n


def test_loss_and_its_gradient(both_ways):
    ours, paper = both_ways
    close(ours["losses"].loss, paper["loss"])
    module, reference = ours["module"], paper["reference"]
    first = [
        torch.cat([layer.weight.grad, layer.bias.grad[None]])
        for layer in module.encoder.first.values()
    ]
    close(torch.cat(first), reference.W1.grad)
    last = torch.cat([layer.weight.grad for layer in module.decoder.last.values()])
    close(last, reference.Wout.grad)
