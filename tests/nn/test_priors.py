from __future__ import annotations

import pytest
import torch
import torch.distributions as td
from torch.nn import functional as F

from mumask.nn import ClusterPrior, Covariates, kl_standard, label_loss


@pytest.fixture
def posterior():
    torch.manual_seed(0)
    return torch.randn(6, 3), torch.randn(6, 3)


def kl(mean, log_var, at, scale=1.0):
    q, p = td.Normal(mean, (0.5 * log_var).exp()), td.Normal(at, torch.as_tensor(scale))
    return td.kl_divergence(q, p).sum(dim=1)


def test_standard_prior(posterior):
    torch.testing.assert_close(kl_standard(*posterior), kl(*posterior, torch.zeros(3)))


@pytest.mark.parametrize("learned", [False, True])
def test_cluster_prior_is_the_weighted_kl(posterior, learned):
    prior = ClusterPrior(4, 3, learned)
    torch.nn.init.normal_(prior.means)
    if learned:
        torch.nn.init.normal_(prior.log_share)
        torch.nn.init.uniform_(prior.log_var, -1, 1)
    assert len(list(prior.parameters())) == (3 if learned else 1)
    probabilities = torch.softmax(torch.randn(6, 4), dim=1)
    scales = (0.5 * prior.log_var).exp()
    to_each = [kl(*posterior, m, s) for m, s in zip(prior.means, scales, strict=True)]
    to_each = torch.stack(to_each, dim=1)
    kl_z, kl_clusters = prior(*posterior, probabilities.log())
    torch.testing.assert_close(kl_z, (probabilities * to_each).sum(dim=1))
    shares = td.Categorical(logits=prior.log_share)
    expected = td.kl_divergence(td.Categorical(probabilities), shares.expand((6,)))
    torch.testing.assert_close(kl_clusters, expected)


def test_sure_cells():
    """Probabilities that underflow count as 0."""
    sure = torch.log_softmax(torch.tensor([[-200.0, 200.0, -200.0]]), dim=1)
    prior, at = ClusterPrior(3, 2), (torch.ones(1, 2), torch.zeros(1, 2))
    kl_z, kl_clusters = prior(*at, sure)
    torch.testing.assert_close(kl_z, kl(*at, prior.means[1]))
    torch.testing.assert_close(kl_clusters, torch.tensor([3.0]).log())


def test_labels_of_unlabelled_cells_do_not_count():
    logits = torch.randn(5, 3, requires_grad=True)
    labels = torch.tensor([0, 3, 2, 3, 1])
    loss = label_loss(logits, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits[[0, 2, 4]], labels[[0, 2, 4]]))
    loss.backward()
    assert not logits.grad[[1, 3]].any()


def test_no_labelled_cell_in_a_minibatch():
    logits = torch.randn(5, 3, requires_grad=True)
    loss = label_loss(logits, torch.full((5,), 3))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_covariates_are_a_sum_of_embeddings():
    covariates = Covariates([2, 3], 2, 4)
    categories, continuous = torch.tensor([[1, 2], [0, 0]]), torch.randn(2, 2)
    first, second = (emb.weight for emb in covariates.embeddings)
    expected = first[[1, 0]] + second[[2, 0]] + continuous @ covariates.linear.weight.T
    torch.testing.assert_close(covariates(categories, continuous), expected)
    with pytest.raises(ValueError, match="zip"):
        covariates(categories[:, :1], continuous)
