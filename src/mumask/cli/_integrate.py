"""``mumask integrate``: train on a file and write the results beside what was measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import scvi
import typer
from mudata import MuData

from ._files import bring_up, check_output, read_mudata, write_mudata
from ._models import MODELS, ModelName
from ._session import InputError, checking_input, fit, session, set_threads


def integrate(
    source: Annotated[Path, typer.Argument(metavar="IN.h5mu", help="MuData with counts.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.h5mu", help="File to write.")
    ],
    batch_key: Annotated[
        str | None, typer.Option(help="Column of obs with the batch, whose effect is removed.")
    ] = None,
    labels_key: Annotated[
        str | None, typer.Option(help="Column of obs with cell types, known for some cells or all.")
    ] = None,
    unlabeled: Annotated[
        str, typer.Option(help="Entry of the labels that marks cells without one.")
    ] = "Unknown",
    modalities: Annotated[
        list[str] | None,
        typer.Option(help="Modalities to use, separated by commas; all by default."),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MOD=LAYER", help="Layer with the counts of a modality, instead of X."
        ),
    ] = None,
    likelihood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MOD=NAME",
            help="Likelihood of a modality: nb, zinb, poisson, bernoulli, gaussian.",
        ),
    ] = None,
    model_name: Annotated[
        ModelName, typer.Option("--model", help="Model to train.")
    ] = ModelName.MaskedVAE,
    preset: Annotated[
        str | None,
        typer.Option(
            help='Configuration of the paper: "inclust+" (MaskedVAE), "scmmae" (CrossAttentionMAE).'
        ),
    ] = None,
    max_epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes over the data; by default what the model needs. Fine-tuning of a preset "
            "comes on top.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal results.")] = 0,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads; by default one up to 20,000 features, else all."),
    ] = None,
    impute: Annotated[
        bool,
        typer.Option("--impute", help="Also write OUT.imputed.h5mu, every cell complete (dense)."),
    ] = False,
    impute_modality: Annotated[
        list[str] | None,
        typer.Option(metavar="MOD", help="Impute this modality only (may be repeated)."),
    ] = None,
    save_model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to save the model to.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing outputs.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
) -> None:
    """Integrate the cells of a MuData, whatever modalities and features each has.

    OUT.h5mu is IN.h5mu with the latent space in obsm["X_mumask"] and, with --labels-key,
    obs["mumask_label"] and obs["mumask_uncertainty"] (0 certain, 1 no idea). With --impute,
    OUT.imputed.h5mu holds every cell with every modality and feature: measured values where there
    are any, imputed ones elsewhere, obs["imputed"] of each modality telling which cells lacked it.

    Files are written whole or not at all. Exit codes: 2 for a wrong input, 1 for a failed run.
    """
    with session(debug):
        impute = impute or bool(impute_modality)
        imputed = output.with_suffix(".imputed.h5mu")
        check_output(output, overwrite)
        if impute:
            check_output(imputed, overwrite)
        if save_model is not None:
            check_output(save_model, overwrite, suffix=None)
        mdata = read_mudata(source)
        with checking_input():
            for key in (batch_key, labels_key):
                bring_up(mdata, key)
            used = _split(modalities) or list(mdata.mod)
            chosen = MODELS[model_name]
            chosen.setup_mudata(
                mdata,
                modalities=used,
                layers=_pairs(layer, "--layer"),
                likelihoods=_pairs(likelihood, "--likelihood"),
                batch_key=batch_key,
                labels_key=labels_key,
                unlabeled_category=unlabeled,
            )
            wanted = _split(impute_modality) or used
            if impute:
                _check_size(mdata, wanted, used)
            set_threads(threads, sum(mdata[name].n_vars for name in used))
            scvi.settings.seed = seed
            model = chosen(mdata, preset=preset)
        fit(model.train, max_epochs)
        if labels_key is not None and chosen is MODELS["CrossAttentionMAE"]:
            fit(model.finetune)
        mdata.obsm["X_mumask"] = model.get_latent_representation()
        if labels_key is not None:
            mdata.obs["mumask_label"] = model.predict()
            mdata.obs["mumask_uncertainty"] = model.get_label_uncertainty()
        if impute:  # first, so that there is no integrated file without the one promised with it
            complete = model.impute(modalities=wanted)
            complete.obsm["X_mumask"] = mdata[complete.obs_names].obsm["X_mumask"]
            for column in ("mumask_label", "mumask_uncertainty"):
                if column in mdata.obs:
                    complete.obs[column] = mdata.obs[column].reindex(complete.obs_names)
            write_mudata(complete, imputed)
            typer.echo(f"{imputed}: {complete.n_obs:,} complete cells, {', '.join(wanted)}")
        if save_model is not None:
            model.save(save_model, overwrite=overwrite)
            typer.echo(f"{save_model}: the model, for mumask.{model_name}.load")
        write_mudata(mdata, output)
        added = 'obsm["X_mumask"]' + (', obs["mumask_label"]' if labels_key else "")
        typer.echo(f"{output}: {mdata.n_obs:,} cells, {added}")


def _split(values: list[str] | None) -> list[str]:
    return [name.strip() for value in values or [] for name in value.split(",") if name.strip()]


def _pairs(values: list[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for value in _split(values):
        modality, equals, setting = value.partition("=")
        if not (modality and equals and setting):
            raise InputError(f"{option} {value!r}: write it as MODALITY=VALUE.")
        pairs[modality] = setting
    return pairs


def _check_size(mdata: MuData, wanted: list[str], used: list[str]) -> None:
    """A complete modality is dense: say before the training that it will not fit."""
    if strange := set(wanted) - set(used):
        raise InputError(f"--impute-modality: {sorted(strange)[0]!r} is not among {used}.")
    needed = 4 * mdata.n_obs * sum(mdata.mod[name].n_vars for name in wanted)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return  # not told on this system
    if needed > 0.8 * memory:
        raise InputError(
            f"--impute: complete data of {mdata.n_obs:,} cells take {needed / 2**30:.0f} GB, more "
            f"than the {memory / 2**30:.0f} GB of this machine. Impute a modality with fewer "
            "features (--impute-modality), or part of the cells in Python: model.impute(indices=...)."
        )
