"""What the dimensions of a latent space stand for, where the decoder is linear."""

from __future__ import annotations

import pandas as pd
import torch

from ._access import AccessMixin


class LoadingsMixin(AccessMixin):
    """``get_loadings``, as scvi-tools' LinearSCVI has it."""

    @torch.no_grad()
    def get_loadings(self, modality: str | None = None) -> pd.DataFrame:
        """Weights of a linear decoder: how the features of a modality follow the latent dimensions.

        Signs and the order of dimensions carry no meaning.

        Parameters
        ----------
        modality
            The first by default.

        Returns
        -------
        Data frame of features x latent dimensions (``"Z_0"``, ``"Z_1"`` and so on), per unit of the
        latent space: of counts and binary values the change of the logarithm (natural) of their
        share in an average cell, of real values that of the expected value.

        Raises
        ------
        ValueError
            If the decoder has hidden layers.

        Examples
        --------
        >>> mumask.MaskedVAE.setup_mudata(mdata, batch_key="batch")
        >>> model = mumask.MaskedVAE(mdata, n_latent=5, linear_decoder=True)
        >>> model.train(max_epochs=5)
        >>> loadings = model.get_loadings("protein")
        >>> loadings.shape
        (12, 5)
        >>> strongest = loadings["Z_0"].abs().nlargest(3).index
        """
        modality = self.modalities[0] if modality is None else modality
        names = self.feature_names(modality)
        if not self.module.decoder.linear:
            raise ValueError(
                "The decoder has hidden layers, so no feature follows a latent dimension in the same "
                "way in all cells. Train a model with linear_decoder=True."
            )
        self._check_if_trained(warn=False)
        loadings = self.module.loadings(modality)
        if modality in self.module.totals:  # what all have in common changes no share
            profile = self.module.transforms[modality].profile
            loadings = loadings - profile @ loadings
        columns = [f"Z_{dimension}" for dimension in range(self.module.n_latent)]
        return pd.DataFrame(loadings.cpu().numpy(), index=names, columns=columns)
