"""Registration of a MuData, shared by all models."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from inspect import signature

from mudata import MuData
from scvi.model.base import BaseModelClass

from mumask.data import (
    CategoricalCovariatesField,
    CategoricalField,
    ContinuousCovariatesField,
    ModalityField,
    MosaicManager,
    check_is_mosaic,
    check_modality_names,
    is_binary,
    keys,
    matrix_of,
)
from mumask.nn import LIKELIHOODS

logger = logging.getLogger("mumask")


class SetupMixin(BaseModelClass):
    """``setup_mudata`` for a mosaic MuData."""

    @classmethod
    def setup_anndata(cls, adata, **kwargs) -> None:
        """Not available: one modality is a MuData with one modality.

        Examples
        --------
        >>> mumask.MaskedVAE.setup_anndata(mdata["rna"])
        Traceback (most recent call last):
        TypeError: MaskedVAE takes MuData. Wrap the AnnData...
        """
        raise TypeError(
            f"{cls.__name__} takes MuData. Wrap the AnnData, mdata = mudata.MuData({{'rna': adata}}), "
            f"and call {cls.__name__}.setup_mudata(mdata, ...)."
        )

    @classmethod
    def _get_most_recent_anndata_manager(cls, adata, required: bool = False):
        """As in scvi-tools; without a registration, or with an AnnData, it names the way out."""
        check_is_mosaic(adata)
        try:
            manager = super()._get_most_recent_anndata_manager(adata, required=False)
        except ValueError as error:
            raise ValueError(
                "Another copy of this MuData was registered last. Go on with that one, or call "
                f"{cls.__name__}.setup_mudata(mdata, ...) for this one."
            ) from error
        if manager is None and required:
            raise ValueError(
                f"This MuData is not registered with {cls.__name__}: call "
                f"{cls.__name__}.setup_mudata(mdata, ...) first."
            )
        return manager

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        modalities: Sequence[str] | None = None,
        layers: Mapping[str, str] | None = None,
        likelihoods: Mapping[str, str] | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        unlabeled_category: str = "Unknown",
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        panels: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        mask_layers: Mapping[str, str] | None = None,
        **kwargs,
    ) -> None:
        """Register a MuData with the model.

        A cell may be in any non-empty subset of the modalities, in any row order: cells are
        matched by name. Nothing needs to be padded, and `mdata` is not changed apart from two
        identifiers in ``mdata.uns``, for which a view becomes a copy.

        Parameters
        ----------
        mdata
            Multimodal data.
        modalities
            Keys of the modalities to use; all by default.
        layers
            Layer to read by modality; ``X`` by default.
        likelihoods
            Likelihood by modality: ``"nb"`` (counts, the default), ``"zinb"``, ``"poisson"``,
            ``"bernoulli"`` (the default where all values are 0 or 1) or ``"gaussian"``
            (normalised values).
        batch_key
            Column of ``mdata.obs`` with the batch.
        labels_key
            Column of ``mdata.obs`` with the cell types. Without it training is unsupervised.
            Types are named as text from here on, numbers too.
        unlabeled_category
            Entry of `labels_key` that marks cells without a label, as a missing entry does.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns of ``mdata.obs`` whose effect is to be removed.
        panels
            Measured features by modality and batch, where a batch measured only some; batches
            not named measured all. By default what :func:`mumask.pp.concat_batches` recorded in
            ``mdata[modality].varm["measured"]`` (booleans, features x batches); for batches
            without a record it is found: a feature that is zero in all cells of a batch, though
            its rate in like cells elsewhere makes that implausible, was not measured there.
        mask_layers
            By modality, a layer of booleans that is False where an element was not measured.
        **kwargs
            Used when a saved setup is repeated.

        Raises
        ------
        KeyError
            If a key or layer is not there.
        ValueError
            If cells or values are not usable; the message says which and what to do.

        Examples
        --------
        >>> mumask.MaskedVAE.setup_mudata(
        ...     mdata, likelihoods={"atac": "bernoulli"}, batch_key="batch", labels_key="cell_type"
        ... )
        """
        registry = kwargs.pop("source_registry", None)
        transfer = kwargs
        if registry is None and kwargs:
            raise TypeError(
                f"setup_mudata() has no argument {list(kwargs)[0]!r}; its arguments are "
                f"{list(signature(cls.setup_mudata).parameters)[:-1]}."
            )
        if registry:  # the data may lack modalities; a subset of cells keeps them without cells
            present = [m for m in modalities if m in mdata.mod and 0 not in mdata.mod[m].shape]
        else:
            present = modalities
        check_modality_names(mdata, present)
        if mdata.is_view and mdata.isbacked:
            raise ValueError(
                "This is a view of a MuData in a file, which cannot be copied: pass all of it, or "
                "read it into memory first, mudata.read_h5mu(path)[cells].copy()."
            )
        modalities = list(mdata.mod if modalities is None else modalities)
        given = {
            "layers": layers,
            "likelihoods": likelihoods,
            "panels": panels,
            "mask_layers": mask_layers,
        }
        for argument, by_modality in given.items():
            if not isinstance(by_modality, Mapping | None):
                raise TypeError(
                    f"`{argument}` goes by modality: {argument}={{{modalities[0]!r}: "
                    f"{by_modality!r}}}."
                )
            strange = set(by_modality or {}) - set(modalities)
            if strange:
                raise ValueError(
                    f"`{argument}` names {sorted(strange)}, but the modalities in use are "
                    f"{modalities}."
                )
        layers, likelihoods = dict(layers or {}), dict(likelihoods or {})
        panels, mask_layers = dict(panels or {}), dict(mask_layers or {})
        for modality in modalities:
            if modality not in likelihoods:
                likelihoods[modality] = _default_likelihood(mdata, modality, layers.get(modality))
            elif likelihoods[modality] not in LIKELIHOODS:
                raise ValueError(
                    f"`likelihoods`: {likelihoods[modality]!r} of {modality!r} is unknown; choose "
                    f"from {list(LIKELIHOODS)}."
                )
        covariates = (categorical_covariate_keys, continuous_covariate_keys)
        categorical, continuous = ([] if columns is None else columns for columns in covariates)
        setup_args = cls._get_setup_method_args(
            cls=cls,
            mdata=mdata,
            modalities=modalities,
            layers=layers,
            likelihoods=likelihoods,
            batch_key=batch_key,
            labels_key=labels_key,
            unlabeled_category=unlabeled_category,
            categorical_covariate_keys=list(categorical),
            continuous_covariate_keys=list(continuous),
            panels=panels,
            mask_layers=mask_layers,
        )
        fields = [CategoricalField(keys.BATCH, batch_key)]
        if labels_key is not None:
            if unlabeled_category is None:
                raise ValueError(
                    "`unlabeled_category` is the text of cells without a label, such as 'Unknown', "
                    "also where every cell has one."
                )
            fields.append(CategoricalField(keys.LABELS, labels_key, unlabeled_category))
        if len(categorical):
            fields.append(CategoricalCovariatesField(keys.CAT_COVS, categorical))
        if len(continuous):
            fields.append(ContinuousCovariatesField(keys.CONT_COVS, continuous))
        fields += [
            ModalityField(
                m,
                layers.get(m),
                likelihoods[m],
                LIKELIHOODS[likelihoods[m]].support,
                mask_layers.get(m),
                panels.get(m),
            )
            for m in modalities
        ]
        manager = MosaicManager(fields=fields, setup_method_args=setup_args)
        manager.register_fields(mdata, registry, **transfer)
        cls.register_manager(manager)


def _default_likelihood(mdata: MuData, modality: str, layer: str | None) -> str:
    if modality not in mdata.mod or (layer and layer not in mdata.mod[modality].layers):
        return "nb"  # the field reports the missing layer
    matrix = matrix_of(mdata.mod[modality], layer)
    if matrix is None or not is_binary(matrix):
        return "nb"
    logger.info("Modality %r holds only 0 and 1: using the Bernoulli likelihood.", modality)
    return "bernoulli"
