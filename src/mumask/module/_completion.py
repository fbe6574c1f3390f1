"""What a query's panel lacks, as the model expects it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from mumask.data import keys
from mumask.nn import both, row_sums

Posterior = tuple[torch.Tensor, torch.Tensor]


class Completion:
    """Gives the encoder of a :class:`MaskedVAEModule` what a panel lacks, in expectation.

    An encoder that was trained on other panels cannot tell a missing feature, which counts as
    average, from a measured average one: all cells look more alike than they are. So what is
    missing is decoded and the cell encoded anew, a step of the chain of Rezende et al., Stochastic
    backpropagation, ICML 2014 (imputation of missing data), with expected values in place of drawn
    ones. Only batches of a query whose panel no batch of the reference had need it.

    One step is enough: on a tenth of the genes of pbmc10k the cross-entropy of unseen labels was
    1.106 without, .975 after one and 1.034 after two, which make the labels too sure.
    """

    def complete(
        self,
        tensors: Mapping[str, torch.Tensor],
        inputs: dict,
        encode: Callable[[dict], Posterior],
        covariates: dict,
    ) -> Posterior:
        """Mean and log-variance of ``q(z | x)``, each ``(B, n_latent)``.

        Parameters
        ----------
        tensors
            A minibatch.
        inputs
            By modality, values and offset (:class:`InputTransform`) as measured.
        encode
            From inputs to the posterior.
        covariates
            Of the cells, for the decoder.
        """
        posterior = encode(inputs)
        lacking = self.what_is_lacking(tensors)
        if not lacking:
            return posterior
        with torch.no_grad():
            hidden = self.generative(tensors, posterior[0], covariates)["hidden"]
            completed = {
                name: self._completed(tensors, inputs[name], hidden, name, missing)
                for name, missing in lacking.items()
            }
        return encode(inputs | completed)

    def _completed(self, tensors, inputs: tuple, hidden, name: str, missing) -> tuple:
        """Inputs of a modality with expected values at the elements that are missing."""
        known = both(getattr(self, f"visible_{name}"), getattr(self, f"common_{name}"))
        missing = missing if known is None else missing & known
        x, visible = tensors[keys.values_key(name)], self.visible(tensors, name)
        total = row_sums(x, visible).clamp(min=1.0)  # as the transform does
        expected = self.expected(hidden[self.rows_of(tensors, name)], name, total, visible)
        return self.transforms[name].complete(inputs, x, visible, missing, expected)
