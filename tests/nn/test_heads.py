"""Heads that learn beside the model or after it."""

from __future__ import annotations

import torch

from mumask.nn import FittedHead, TotalHead
from mumask.nn._label_head import LabelHead


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


def test_unit_and_origin_of_the_latent_space_do_not_matter():
    z, source, labels = torch.randn(60, 4), torch.ones(60, 2).bool(), torch.arange(60) % 3
    logits = []
    for values in (z, 100 * z + 7):
        torch.manual_seed(0)
        head = FittedHead(4, 2, 2)
        head.fit(values, source, labels, n_steps=5)
        logits.append(head(values, source))
    torch.testing.assert_close(*logits, atol=1e-3, rtol=1e-3)


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


def _spread_within(u: torch.Tensor, group: torch.Tensor) -> float:
    """Share of the variance of representations that lies within the classes."""
    means = torch.stack([u[group == g].mean(0) for g in group.unique()])
    within = (u - means[group]).square().sum(1).mean()
    return float(within / (u - u.mean(0)).square().sum(1).mean())


def test_compact_head_draws_cells_to_their_class():
    """Labelled and unlabelled cells of a class come closer; what is predicted stays right."""
    within, group = {}, torch.arange(300).remainder(3)
    for compactness in (0.0, 0.1):
        within[compactness] = 0.0
        for seed in range(3):
            torch.manual_seed(seed)
            z = 3 * torch.nn.functional.one_hot(group, 6).float() + torch.randn(300, 6)
            labels = torch.where(torch.arange(300) < 90, group, 3)
            head = LabelHead(6, 3, n_hidden=32, smoothing=0.0, compactness=compactness)
            head.fit(z, labels, n_steps=300)
            head.eval()
            assert (head(z).argmax(1) == group)[90:].float().mean() > 0.9
            within[compactness] += _spread_within(head.hidden(z)[90:].detach(), group[90:])
    assert within[0.1] < 0.95 * within[0.0]


def test_class_means_follow_the_cells():
    """At the class means themselves nothing draws; away from them, the way leads there."""
    torch.manual_seed(0)
    head = LabelHead(4, 2)
    u = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 7.0]]).repeat(1, 128)
    belongs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    means = belongs @ (belongs.T @ u / 2)
    assert head._spread(means, belongs, torch.ones(4)) < 1e-10
    head.reset()
    moved = u.clone().requires_grad_()
    head._spread(moved, belongs, torch.tensor([1.0, 1.0, 1.0, 0.0])).backward()
    assert (moved.grad[0, ::2] < 0).all() and (moved.grad[1, ::2] > 0).all()
    assert not moved.grad[3].any()  # a cell that is not trusted is left where it is


def test_the_average_follows_the_head_slowly():
    """At first, when it holds the random start, at once; later by a hundredth."""
    for n_updates, followed in ((0, 0.9), (10_000, 0.01)):
        head = LabelHead(3, 2)
        head.n_updates.fill_(n_updates)
        with torch.no_grad():
            for parameter in head.network.parameters():
                parameter += 1
        before = [mean.clone() for mean in head.average.parameters()]
        head.update()
        assert head.n_updates == n_updates + 1
        for mean, old in zip(head.average.parameters(), before, strict=True):
            torch.testing.assert_close(mean - old, torch.full_like(old, followed))


def test_rows_are_drawn_as_often_as_asked_for():
    """Those of cells with labels, and of cells without; here some never."""
    torch.manual_seed(0)
    z, repeats = torch.randn(40, 3), torch.arange(40) % 2
    z[repeats == 0] = float("nan")
    head = LabelHead(3, 2)
    head.fit(z, torch.arange(40) % 3, n_steps=3, repeats=repeats)
    assert all(weights.isfinite().all() for weights in head.parameters())


def test_fitting_forgets_what_was_fitted_before():
    z, labels = torch.randn(60, 4), torch.arange(60).remainder(2)
    heads = []
    for before in (0.0, 1e3):
        torch.manual_seed(0)
        head = LabelHead(4, 2, n_hidden=8)
        head.class_sums += before
        head.class_sizes += before
        head.fit(z, labels, n_steps=3)
        heads.append(head.eval()(z))
    assert torch.equal(*heads)


def test_an_earlier_fit_does_not_outlive_its_latent_space():
    head = FittedHead(4, 2, 3)
    z, source = torch.randn(30, 4), torch.ones(30, 2, dtype=torch.bool)
    head.fit(z, source, torch.arange(30) % 3, n_steps=2)
    assert head.fitted
    head.fit(z + 1, source, torch.full((30,), 3), n_steps=2)
    assert not head.fitted


def test_a_cell_alone_is_not_held_to_the_variance_of_one():
    """The last minibatch of a training may have one cell."""
    torch.manual_seed(0)
    head = LabelHead(4, 3, compactness=0.1).train()
    z, labels = torch.randn(30, 4), torch.arange(30).remainder(3)
    head.loss(z, labels)
    alone, _ = head.loss(z[:1], labels[:1])
    assert alone < 10
