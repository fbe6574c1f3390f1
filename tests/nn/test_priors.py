from __future__ import annotations

import pytest
import torch
import torch.distributions as td
from torch.nn import functional as F

from mumask.nn import ClusterPrior, Covariates, kl_standard, kl_to_uniform, label_loss


@pytest.fixture
def posterior():
    torch.manual_seed(0)
    return torch.randn(6, 3), torch.randn(6, 3)


def kl(mean, log_var, at):
    q, p = td.Normal(mean, (0.5 * log_var).exp()), td.Normal(at, torch.ones(()))
    return td.kl_divergence(q, p).sum(dim=1)


def test_standard_prior(posterior):
    torch.testing.assert_close(kl_standard(*posterior), kl(*posterior, torch.zeros(3)))


def test_cluster_prior_is_the_weighted_kl(posterior):
    prior = ClusterPrior(4, 3)
    torch.nn.init.normal_(prior.means)
    probabilities = torch.softmax(torch.randn(6, 4), dim=1)
    to_each = torch.stack([kl(*posterior, m) for m in prior.means], dim=1)
    expected = (probabilities * to_each).sum(dim=1)
    torch.testing.assert_close(prior(*posterior, probabilities), expected)
    one = F.one_hot(torch.full((6,), 2), 4).float()
    torch.testing.assert_close(prior(*posterior, one), to_each[:, 2])


def test_kl_to_uniform():
    probabilities = torch.tensor([[0.25] * 4, [0.7, 0.1, 0.1, 0.1]])
    expected = td.kl_divergence(
        td.Categorical(probabilities), td.Categorical(torch.full((2, 4), 0.25))
    )
    torch.testing.assert_close(kl_to_uniform(probabilities.log()), expected)
    sure = torch.log_softmax(torch.tensor([[200.0, 0.0, 0.0]]), dim=1)
    torch.testing.assert_close(kl_to_uniform(sure), torch.tensor([3.0]).log())


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
