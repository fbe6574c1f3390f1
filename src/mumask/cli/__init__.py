"""The command line: ``mumask demo``, ``integrate`` and ``map``.

A command is one module with one function, added to :data:`app` below.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ._demo import demo
from ._integrate import integrate
from ._map import map_query

app = typer.Typer(
    name="mumask",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",  # lines of a docstring are joined to paragraphs
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(integrate)
app.command("map")(map_query)


def _version(asked: bool) -> None:
    if asked:
        from mumask import __version__

        typer.echo(f"mumask {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Masked models for mosaic single-cell data in MuData."""


__all__ = ["app"]
