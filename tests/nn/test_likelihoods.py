"""Likelihoods against scvi.distributions and torch.distributions."""

from __future__ import annotations

import pytest
import scvi.distributions as sd
import torch
import torch.distributions as td

from mumask.nn import LIKELIHOODS, LinearOutputs

N, F = 7, 12
MASK = torch.ones(N, F, dtype=torch.bool)
MASK[::2, :5] = False
MASK[3, 1:] = False


@pytest.fixture(params=list(LIKELIHOODS))
def likelihood(request):
    torch.manual_seed(0)
    result = LIKELIHOODS[request.param](F)
    for parameter in result.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    result.name = request.param
    return result


@pytest.fixture
def values(likelihood):
    torch.manual_seed(1)
    if likelihood.support == "count":
        x = torch.poisson(torch.rand(N, F) * 3)
        x[:, 6] = 1  # measured everywhere: no row is empty
        return x
    x = torch.randn(N, F)
    return (x > 0.5).float() if likelihood.support == "binary" else x


@pytest.fixture
def raw(likelihood):
    torch.manual_seed(2)
    return torch.randn(N, F * likelihood.n_heads, requires_grad=True)


def given(raw):
    """Outputs as a layer that copies its input gives them."""
    return LinearOutputs(raw, torch.eye(raw.shape[1]), torch.zeros(raw.shape[1]))


def reference(likelihood, raw, x, mask):
    """Log-probability of every element by another implementation."""
    head = raw[:, :F]
    if likelihood.support != "real":
        mu = torch.zeros(N, F)
        for i in range(N):  # the total of a cell, spread over what was measured
            at = mask[i]
            mu[i, at] = torch.softmax(head[i, at], 0) * x[i, at].sum().clamp(min=1)
        mu = mu + (~mask) * 1.0
        if likelihood.name == "bernoulli":
            mu = mu * likelihood.log_excess.exp()
            return x * torch.log(-torch.expm1(-mu)) - (1 - x) * mu
        if likelihood.name == "poisson":
            return td.Poisson(mu).log_prob(x)
        theta = likelihood.log_theta.exp()
        if likelihood.name == "zinb":
            return sd.ZeroInflatedNegativeBinomial(
                mu=mu, theta=theta, zi_logits=raw[:, F:]
            ).log_prob(x)
        return sd.NegativeBinomial(mu=mu, theta=theta).log_prob(x)
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    return td.Normal(head, likelihood.log_sigma.exp()).log_prob(x) + constant


@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("mask", [None, MASK])
def test_value_and_gradients(likelihood, raw, values, mask, layout):
    parameters = [raw, *likelihood.parameters()]
    x = values.to_sparse_csr() if layout == "csr" else values
    weight = torch.rand(N)
    nll = likelihood.nll(given(raw), x, mask)
    gradients = torch.autograd.grad((nll * weight).sum(), parameters)

    full = torch.ones(N, F, dtype=torch.bool) if mask is None else mask
    other = -(reference(likelihood, raw, values, full) * full).sum(dim=1)
    torch.testing.assert_close(nll, other, rtol=1e-4, atol=1e-4)
    expected = torch.autograd.grad((other * weight).sum(), parameters)
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_masked_elements_are_nothing(likelihood, raw, values, layout):
    """Neither their value nor their output matters, however large, and their gradient is 0."""

    def run(raw, x):
        x = x.to_sparse_csr() if layout == "csr" else x
        nll = likelihood.nll(given(raw), x, MASK)
        return nll, torch.autograd.grad(nll.sum(), [raw, *likelihood.parameters()])

    nll, (grad, *others) = run(raw, values)
    heads = MASK.repeat(1, likelihood.n_heads)
    assert not grad[~heads].any()
    changed = torch.where(MASK, values, 1 - values if likelihood.support == "binary" else 50.0)
    far = torch.where(heads, raw, 200.0).detach().requires_grad_()
    for other_raw, x in ((raw, changed), (far, values)):
        again, (other_grad, *rest) = run(other_raw, x)
        assert torch.equal(again, nll)
        assert torch.equal(other_grad, grad)
        for one, other in zip(others, rest, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("mask", [None, MASK])
def test_extreme_outputs_stay_finite(likelihood, values, mask):
    raw = (torch.randn(N, F * likelihood.n_heads) * 30).requires_grad_()
    nll = likelihood.nll(given(raw), values, mask)
    nll.sum().backward()
    assert nll.isfinite().all()
    assert raw.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in likelihood.parameters())


@pytest.mark.parametrize("mask", [None, MASK])
def test_means_of_some_features(likelihood, raw, mask):
    total, some = torch.full((N, 1), 20.0), torch.tensor([7, 0, 11])
    picked = likelihood.mean(raw, total, mask, some)
    torch.testing.assert_close(picked, likelihood.mean(raw, total, mask)[:, some])


def test_means(likelihood, raw):
    total = torch.full((N, 1), 20.0)
    mean = likelihood.mean(raw, total)
    if likelihood.name == "zinb":
        mean = mean / torch.sigmoid(-raw[:, F:])
    if likelihood.support == "count":
        torch.testing.assert_close(mean.sum(1), total[:, 0])
    elif likelihood.support == "binary":
        counts = 20 * torch.softmax(raw, dim=1) * likelihood.log_excess.exp()
        torch.testing.assert_close(mean, 1 - torch.exp(-counts))
    else:
        torch.testing.assert_close(mean, raw)


def test_mean_beyond_the_panel():
    """Features that were not measured are expected beside the counts of those that were."""
    likelihood = LIKELIHOODS["nb"](4)
    raw = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    mask = torch.tensor([[True, True, False, False]])
    mean = likelihood.mean(raw, torch.tensor([[30.0]]), mask)
    torch.testing.assert_close(mean, torch.tensor([[10.0, 20.0, 30.0, 40.0]]))


def test_paper_outputs():
    likelihood = LIKELIHOODS["gaussian"](3, paper=True)
    assert not list(likelihood.parameters())
    raw, x = torch.tensor([[-1.0, 2.0, 0.5]]), torch.tensor([[1.0, 1.0, 0.5]])
    assert likelihood.mean(raw).tolist() == [[0.0, 2.0, 0.5]]
    assert likelihood.nll(given(raw), x).item() == pytest.approx(0.5 * (1 + 1))


@pytest.mark.parametrize("mask", [None, MASK])
def test_distributions(likelihood, raw, values, mask):
    """What values are drawn from is what the loss assumes of them."""
    full = torch.ones(N, F, dtype=torch.bool) if mask is None else mask
    total = (values * full).sum(1, keepdim=True).clamp(min=1)
    distribution = likelihood.distribution(raw, total, mask)
    log_prob = distribution.log_prob(values)
    if likelihood.name == "gaussian":
        log_prob = log_prob + 0.5 * torch.log(torch.tensor(2 * torch.pi))
    expected = reference(likelihood, raw, values, full)
    torch.testing.assert_close(log_prob[full], expected[full], rtol=1e-4, atol=1e-4)
    assert distribution.sample().shape == (N, F)


@pytest.mark.parametrize("log_theta", [1.0, 2.2, 2.4, 4.0, 7.0, 10.0])
@pytest.mark.parametrize("name", ["nb", "zinb"])
def test_counts_that_are_nearly_poisson(name, log_theta):
    """Dispersions at which little is left of a difference of log-gammas in single precision."""
    torch.manual_seed(0)
    mean = torch.rand(50) * 2 + 0.2
    counts, costs, slopes = torch.poisson(mean.expand(200, 50)), [], []
    for kind in (torch.float32, torch.float64):
        likelihood = LIKELIHOODS[name](50).to(kind)
        likelihood.log_theta.data.fill_(log_theta)
        bias = torch.cat([mean.log(), torch.full((50,), -5.0)])[: 50 * likelihood.n_heads]
        layer = torch.ones(200, 1), torch.zeros(len(bias), 1), bias
        cost = likelihood.nll(LinearOutputs(*(part.to(kind) for part in layer)), counts.to(kind))
        costs.append(cost.detach().double())
        slopes.append(torch.autograd.grad(cost.sum(), likelihood.log_theta)[0].double())
    torch.testing.assert_close(*costs, rtol=0, atol=2e-4)
    torch.testing.assert_close(*slopes, rtol=0, atol=0.03 * float(1e-2 + slopes[1].abs().max()))
