"""Heads that learn beside the model or after it."""

from __future__ import annotations

import torch

from mumask.nn import FittedHead, TotalHead


def test_total_head_learns_the_mean_and_nothing_else():
    torch.manual_seed(0)
    head = TotalHead(2, average=100.0)
    group = torch.randint(0, 2, (400,))
    hidden = torch.nn.functional.one_hot(group, 2).float().requires_grad_()
    mean = torch.tensor([30.0, 250.0])[group][:, None]
    total = mean * torch.distributions.Gamma(4.0, 4.0).sample((400, 1))
    assert torch.equal(head(hidden), torch.full((400, 1), 100.0))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        head.nll(hidden, total).backward()
        optimizer.step()
    assert hidden.grad is None
    for g in (0, 1):
        torch.testing.assert_close(
            head(hidden)[group == g].mean(), total[group == g].mean(), rtol=0.02, atol=0
        )


def test_fitted_head_uses_unlabelled_cells():
    torch.manual_seed(0)
    group = torch.arange(300).remainder(3)
    z = 50 + 20 * torch.nn.functional.one_hot(group, 4).float() + torch.randn(300, 4)
    labels = torch.where(torch.arange(300) < 6, group, 3)  # two labelled cells per class
    source = torch.ones(300, 2, dtype=torch.bool)
    head = FittedHead(4, 2, 3)
    head.fit(z, source, torch.full((300,), 3), n_steps=10)
    assert not head.fitted
    head.fit(z, source, labels, n_steps=200)
    assert head.fitted and not any(p.requires_grad for p in head.parameters())
    assert (head(z, source).argmax(1) == group).float().mean() > 0.97


def test_head_tells_views_apart():
    """The same embedding can mean another class where it comes from another modality."""
    torch.manual_seed(0)
    z = torch.randn(400, 4)
    source = torch.zeros(400, 2, dtype=torch.bool)
    source[:200, 0] = source[200:, 1] = True
    labels = (z[:, 0] > 0).long()
    labels[200:] = 1 - labels[200:]
    head = FittedHead(4, 2, 2)
    head.fit(z, source, labels, n_steps=300)
    assert (head(z, source).argmax(1) == labels).float().mean() > 0.95
