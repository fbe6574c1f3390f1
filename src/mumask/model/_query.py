"""Mapping of query data onto a trained reference, in the manner of scArches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Self

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData

from mumask.data import check_features, check_is_list, check_is_mosaic, keep_order, keys, presence
from mumask.nn import GrowingEmbedding

from ._access import INFERENCE_BATCH, obsm_of
from ._io import SaveLoadMixin, from_plain, init_arguments, one_device
from ._query_panels import expected_detections
from ._setup import SetupMixin

logger = logging.getLogger("mumask")

# Steps of the default training of a query: one vector per new category is fitted, from a start at
# the mean of the known ones, and nothing else. On a left-out batch of the PBMC mosaic (MaskedVAE
# with `condition_encoder`, one seed) .968 of the labels were right after 0 steps, .975 after 50,
# and .980 after 200 as after 800.
QUERY_STEPS = 200


class QueryMixin(SetupMixin, SaveLoadMixin):
    """``load_query_data`` and what it freezes."""

    @classmethod
    def _reference(cls, reference: Self | str | Path) -> dict:
        if isinstance(reference, cls):
            return {
                "attributes": from_plain(reference._plain_attributes()),
                "registry": deepcopy(reference.registry_),
                "weights": reference.module.state_dict(),
            }
        if isinstance(reference, str | Path):
            return cls._read(Path(reference))
        raise TypeError(
            f"`reference_model` is a {type(reference).__name__}; pass a {cls.__name__} or the "
            "directory that its save() wrote."
        )

    @classmethod
    def prepare_query_mudata(
        cls, mdata: MuData, reference_model: Self | str | Path, inplace: bool = False
    ) -> MuData | None:
        """Reduce a query to the modalities and features that the reference knows.

        Not needed before :meth:`load_query_data`, which matches by name on its own and never
        copies; useful to get a small object to store. Nothing is padded: what the query lacks
        stays missing.

        Parameters
        ----------
        mdata
            Query.
        reference_model
            Trained model, or the directory it was saved to.
        inplace
            Change `mdata` itself.

        Returns
        -------
        The reduced MuData, with features in the order of the reference; None if `inplace`.

        Examples
        --------
        >>> small = type(model).prepare_query_mudata(mdata, model)
        >>> list(small.mod)
        ['rna', 'protein', 'atac']
        """
        check_is_mosaic(mdata)
        registry = cls._reference(reference_model)["registry"]
        if inplace and mdata.isbacked:
            raise ValueError("`inplace`=True cannot change data in a file: leave it out.")
        parts: dict[str, AnnData] = {}
        for name in registry["setup_args"]["modalities"]:
            if name in mdata.mod:
                check_features(mdata, name)
                state = registry["field_registries"][f"X_{name}"]["state_registry"]
                known = [v for v in state["column_names"] if v in mdata.mod[name].var_names]
                parts[name] = mdata.mod[name][:, known].to_memory()
        if not parts:
            raise ValueError(_nothing_shared(mdata, registry))
        if inplace:
            for name in list(mdata.mod):
                if name in parts:
                    mdata.mod[name] = parts[name]
                else:
                    del mdata.mod[name]
                    mdata.obsm.pop(name, None)  # which cells it had
                    mdata.varm.pop(name, None)  # which features were its
            with keep_order():
                mdata.update()  # which keeps cells that lost their last modality
                left = presence(mdata, parts).any(axis=1)
                if not left.all():
                    mdata._inplace_subset_obs(left)
            return None
        with keep_order():
            reduced = MuData(parts)
            reduced = reduced[mdata.obs_names.intersection(reduced.obs_names)].copy()
        reduced.obs = mdata.obs.loc[reduced.obs_names].copy()
        reduced.obsm.update(obsm_of(mdata, mdata.obs_names.get_indexer(reduced.obs_names)))
        reduced.uns.update(mdata.uns)
        return reduced

    @classmethod
    def load_query_data(
        cls,
        adata: MuData,
        reference_model: Self | str | Path,
        unfrozen: Sequence[str] | bool = (),
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """Map a query onto a reference.

        The query may lack modalities and features, have others, list cells and features in
        another order, come from new batches and have no labels. What it lacks is masked. Features
        that no cell of a new batch shows count as measured, unless ``varm["measured"]`` tells
        otherwise or the reference expects them too often in these very cells. The
        result can be asked at once for latent space, labels and generated modalities. Its cells are
        encoded with what the model expects of features that the query lacks, and
        :class:`MaskedVAE` refines them by ``module.refine_steps`` steps of inference (10, or 3 with
        a linear decoder): some 2,000 cells per second on a CPU core, or more with few genes; 0
        leaves it at the encoder's answer. ``train()`` then fits what is new (vectors of new batches and covariates) and leaves
        everything else bit-identical, so that cells of the reference keep their numbers. Only those
        of a batch that the query brings again with fewer features are refined too, as are all if
        the reference has no `batch_key` to tell them from the query's.

        Parameters
        ----------
        adata
            Query, with the obs keys that the reference was registered with (labels are optional).
        reference_model
            Trained model, or the directory it was saved to. Reference data are not needed.
        unfrozen
            Beginnings of names of weights to train as well, as in ``model.module
            .named_parameters()``: ``["encoder.first"]``; True for all. Known categories stay
            frozen in any case.
        accelerator, device
            Where the model goes, as in scvi-tools.

        Returns
        -------
        A model of the same class with the query as its data.

        References
        ----------
        Lotfollahi et al., Mapping single-cell data to reference atlases by transfer learning,
        Nature Biotechnology 40 (2022); Cremer et al., Inference suboptimality in variational
        autoencoders, ICML (2018).

        Examples
        --------
        >>> query = mumask.datasets.simulate_mosaic(
        ...     20, {"new": ("rna",)}, n_features={"rna": 100}, n_cell_types=3, seed=1
        ... )
        >>> mapped = type(model).load_query_data(query, model)
        >>> query.obsm["X_mumask"] = mapped.get_latent_representation()
        >>> mapped.get_normalized_expression(modality="protein").shape
        (20, 12)
        """
        check_is_mosaic(adata)
        reference = cls._reference(reference_model)
        registry, attributes = reference["registry"], reference["attributes"]
        if not set(registry["setup_args"]["modalities"]) & set(adata.mod):
            raise ValueError(_nothing_shared(adata, registry))
        extra = [m for m in adata.mod if m not in registry["setup_args"]["modalities"]]
        if extra:
            logger.warning("Modalities %s are unknown to the reference and are left out.", extra)
        cls.setup_mudata(adata, source_registry=registry, query=True, **registry["setup_args"])
        arguments = init_arguments(attributes)
        model = cls(adata, **arguments)
        known = _transfer_weights(model.module, reference["weights"])
        with torch.random.fork_rng(devices=[]):
            detections = expected_detections(model)
            model.adata_manager.settle_panels(detections)
            if any(detections.values()):
                model = cls(adata, **arguments)
                _transfer_weights(model.module, reference["weights"])
        model._report_new(registry)
        if unfrozen is None or isinstance(unfrozen, bool):
            unfrozen = [""] if unfrozen else ()
        check_is_list(unfrozen, "unfrozen")
        named = [name for name, _ in model.module.named_parameters()]
        for start in unfrozen:
            if not any(name.startswith(start) for name in named):
                raise ValueError(
                    f"`unfrozen`: no weight begins with {start!r}; there are "
                    f"{sorted({name.split('.')[0] for name in named})} and what is below them."
                )
        before = attributes.get("mapped_") or {}
        unknown, narrow = model._new_batches(registry)
        unknown = sorted({*before.get("unknown", []), *unknown})
        model.mapped_ = {
            "known": known,
            "unfrozen": list(unfrozen),
            "unknown": unknown,
            "refined": sorted({*unknown, *narrow}),
        }
        model._apply_mapping()
        model.is_trained_ = True
        model.known_types_ = attributes.get("known_types_")
        model.to_device(one_device(accelerator, device))
        model.module.eval()
        return model

    def _report_new(self, registry: dict) -> None:
        """Say which batches and other categories get vectors of their own."""
        fields, known = self.registry_["field_registries"], registry["field_registries"]
        states = [(known[keys.BATCH]["state_registry"], self._state(keys.BATCH))]
        if keys.CAT_COVS in fields:
            before = known[keys.CAT_COVS]["state_registry"]
            states += [(before[key], state) for key, state in self._state(keys.CAT_COVS).items()]
        for before, state in states:
            new = list(state["categorical_mapping"])[len(before["categorical_mapping"]) :]
            if new:
                logger.info("New in %r: %s.", state["original_key"], new)

    def _new_batches(self, registry: dict) -> tuple[list[int], list[int]]:
        """Codes of batches that the reference did not know, and of those with other panels now.

        Without a `batch_key` all cells are in one batch, which is then the query's.
        """
        if registry["setup_args"]["batch_key"] is None:
            return [0], []
        state = registry["field_registries"][keys.BATCH]["state_registry"]
        n_known = len(state["categorical_mapping"])
        narrow = np.zeros(len(self.batches), dtype=bool)
        for name in self.modalities:
            lacking = getattr(self.module, f"lacking_{name}")
            narrow |= False if lacking is None else lacking.any(dim=1).numpy()
        return list(range(n_known, len(self.batches))), np.flatnonzero(narrow).tolist()

    def _apply_mapping(self) -> None:
        """Freeze what is the reference's, and tell the module which cells are the query's."""
        self._freeze(self.mapped_["known"], self.mapped_["unfrozen"])
        refined = torch.zeros(len(self.batches), dtype=torch.bool)
        refined[self.mapped_["refined"]] = True
        self.module.query_batches = refined
        if "refine_steps" in self.mapped_:
            self.module.refine_steps = self.mapped_["refine_steps"]

    def _remember_refinement(self) -> None:
        """What users set of it in the module is saved with the model."""
        if self.mapped_ is not None and hasattr(self.module, "refine_steps"):
            refined = self.module.query_batches.nonzero().squeeze(1).tolist()
            self.mapped_ |= {"refined": refined, "refine_steps": self.module.refine_steps}

    def _freeze(self, known: dict[str, int], unfrozen: Sequence[str]) -> None:
        """Freeze the weights of the reference; `known` rows of growing embeddings for good."""
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad = any(name.startswith(start) for start in unfrozen)
        for name, module in self.module.named_modules():
            if isinstance(module, GrowingEmbedding):
                module.freeze_first(known[name])

    @property
    def _latent_space_moves(self) -> bool:
        """Whether training moves more than vectors of covariates."""
        return self.mapped_ is None or bool(self.mapped_["unfrozen"])

    def _budget(self, steps: int, at_least: int) -> tuple[int, int]:
        """Default steps and fewest epochs of a training; a query needs less than a reference."""
        if self._latent_space_moves:
            return steps, at_least
        return QUERY_STEPS, 1

    def _check_has_data(self) -> None:
        if self.adata is None:
            raise ValueError("The model was loaded without data: pass them to load(adata=...).")

    def _check_training_data(self) -> None:
        self._check_has_data()
        if lost := int((~presence(self.adata, self.modalities).any(axis=1)).sum()):
            raise ValueError(
                f"{lost} cells are in none of the modalities any more: the MuData was changed after "
                "setup_mudata(). Drop them, and call it again."
            )
        first = np.arange(min(self.adata.n_obs, INFERENCE_BATCH))
        self._check_values(self.adata_manager.create_torch_dataset()[first])

    def _check_trainable(self) -> None:
        if not any(parameter.requires_grad for parameter in self.module.parameters()):
            raise ValueError(
                "The query brings no new batch or covariate, so there is nothing to train. Use the "
                "model as it is, or name weights in load_query_data(unfrozen=...)."
            )


def _nothing_shared(mdata: MuData, registry: dict) -> str:
    return (
        f"The query has the modalities {list(mdata.mod)}, the reference "
        f"{registry['setup_args']['modalities']}: none is shared. Rename the query's modality."
    )


def _transfer_weights(module: torch.nn.Module, weights: dict) -> dict[str, int]:
    """Copy the reference's weights; tables of covariates may have grown.

    New rows start at the mean of the known ones: an unknown batch is first decoded as an average
    batch. Anything else that does not fit is an error.

    Returns
    -------
    Number of known rows of every growing embedding.
    """
    known, state = {}, module.state_dict()
    growing = {n for n, m in module.named_modules() if isinstance(m, GrowingEmbedding)}
    # Panels are those of the query, made from its registry.
    expected = {name for name in state if not name.startswith("panel_")}
    if expected != {name for name in weights if not name.startswith("panel_")}:
        raise ValueError("The weights of the reference do not fit its own description.")
    for name in expected:
        old, new = weights[name], state[name]
        owner = name.removesuffix(".weight")
        if owner in growing:
            known[owner] = len(old)
            mean = old.mean(dim=0, keepdim=True).expand(len(new) - len(old), -1)
            state[name] = torch.cat([old, mean.to(old)])
        elif old.shape == new.shape:
            state[name] = old
        else:
            raise ValueError(f"The weights {name!r} of the reference have another shape.")
    module.load_state_dict(state)
    return known
