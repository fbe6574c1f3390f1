"""``mumask map``: put query cells onto a saved reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import scvi
import typer

from ._files import bring_up, check_output, read_mudata, write_mudata
from ._models import saved_model
from ._session import checking_input, fit, session, set_threads


def map_query(
    query: Annotated[Path, typer.Argument(metavar="QUERY.h5mu", help="MuData with counts.")],
    reference: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of a model saved by --save-model or save().")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.h5mu", help="File to write.")
    ],
    max_epochs: Annotated[
        int,
        typer.Option(min=0, help="Passes over the query to fit what is new in it; 0 for none."),
    ] = 0,
    impute: Annotated[
        bool,
        typer.Option("--impute", help="Also write OUT.imputed.h5mu, every cell complete (dense)."),
    ] = False,
    save_model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to save the mapped model to.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal results.")] = 0,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads; by default one up to 20,000 features, else all."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing outputs.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
) -> None:
    """Map query cells onto a reference, whatever modalities and features they share with it.

    OUT.h5mu is QUERY.h5mu with obsm["X_mumask"] and, if the reference has labels, the columns
    mumask_label, mumask_uncertainty, mumask_novelty and mumask_new_type of obs. The reference
    needs no data, and its own cells keep their coordinates.
    """
    with session(debug):
        imputed = output.with_suffix(".imputed.h5mu")
        check_output(output, overwrite)
        if impute:
            check_output(imputed, overwrite)
        if save_model is not None:
            check_output(save_model, overwrite, suffix=None)
        mdata = read_mudata(query)
        with checking_input():
            model_class, columns = saved_model(reference)
            for column in columns:
                bring_up(mdata, column)
            scvi.settings.seed = seed
            model = model_class.load_query_data(mdata, reference)
        set_threads(threads, sum(len(model.feature_names(name)) for name in model.modalities))
        if max_epochs:
            fit(model.train, max_epochs)
        mdata.obsm["X_mumask"] = model.get_latent_representation()
        added = 'obsm["X_mumask"]'
        if model.known_types_ is not None:
            table = model.annotate()
            mdata.obs[table.columns] = table
            added += f", obs {list(table.columns)}"
        if impute:
            complete = model.impute()
            complete.obsm["X_mumask"] = mdata.obsm["X_mumask"]
            write_mudata(complete, imputed)
            typer.echo(
                f"{imputed}: {complete.n_obs:,} complete cells, {', '.join(model.modalities)}"
            )
        if save_model is not None:
            model.save(save_model, overwrite=overwrite)
            typer.echo(f"{save_model}: the mapped model, for mumask.{type(model).__name__}.load")
        write_mudata(mdata, output)
        typer.echo(f"{output}: {mdata.n_obs:,} cells, {added}")
