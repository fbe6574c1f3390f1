"""What every command shares: errors in one line, quiet libraries, a progress bar."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
import typer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

MANY_FEATURES = 20_000  # from here on more threads than one pay
HERE = Path(__file__).parents[1]  # the package


class InputError(Exception):
    """Something the user gave is wrong; found before any work was done."""


@contextmanager
def session(debug: bool) -> Iterator[None]:
    """Turn errors into one line on standard error: exit code 2 for the input, 1 for the run.

    A run that was interrupted ends as the shell says of the signal: 130 or 143.
    """
    if not debug:
        _silence_libraries()
    try:
        yield
    except Exception as error:
        if debug:
            raise
        typer.echo(f"error: {one_line(error)}", err=True)
        raise typer.Exit(2 if isinstance(error, InputError) else 1) from error
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning makes the latter of both signals
        if debug:
            raise
        typer.echo("error: interrupted", err=True)
        raise typer.Exit(143 if isinstance(error, SIGTERMException) else 130) from error


@contextmanager
def checking_input() -> Iterator[None]:
    """Errors in here are about what the user gave."""
    try:
        yield
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise InputError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Message of an error without line breaks (and without the quotes of a KeyError)."""
    single = isinstance(error, KeyError) and len(error.args) == 1
    text = " ".join(str(error.args[0] if single else error).split())
    if isinstance(error, MemoryError):
        text = f"not enough memory. {text}"
    known = isinstance(
        error, InputError | KeyError | ValueError | TypeError | OSError | MemoryError
    )
    return text if known and text else f"{type(error).__name__}: {text} (more with --debug)"


def _silence_libraries() -> None:
    """Only what mumask itself says is for the user of a command."""
    for name in ("lightning.pytorch", "lightning.fabric", "scvi", "mudata"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # without tips of Lightning about further products, which it logs by another way
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    logging.getLogger("mumask").propagate = False

    def show(message, category, filename, lineno, file=None, line=None):
        if HERE in Path(filename).parents and issubclass(category, UserWarning):
            typer.echo(f"warning: {' '.join(str(message).split())}", err=True)

    warnings.showwarning = show


class ProgressBar(Callback):
    """Epochs, loss and time; a pipe gets only the last state."""

    def __init__(self):
        self.bar = Progress(
            TextColumn("Training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs, loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )

    def on_train_start(self, trainer, module) -> None:
        """Draw the empty bar."""
        self.task = self.bar.add_task("", total=trainer.max_epochs, loss="-")
        self.bar.start()

    def on_train_epoch_start(self, trainer, module) -> None:
        """Forget the losses of the last epoch."""
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, *_) -> None:
        """Keep the loss; Lightning's own mean over the epoch is known too late."""
        self.losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, trainer, module) -> None:
        """One epoch further."""
        loss = float(sum(self.losses)) / len(self.losses)
        self.bar.update(self.task, advance=1, loss=f"{loss:.1f}")

    def on_train_end(self, trainer, module) -> None:
        """Leave the full bar standing."""
        self.bar.stop()

    def on_exception(self, trainer, module, exception) -> None:
        """Give the terminal back."""
        self.bar.stop()


def set_threads(n: int | None, n_features: int) -> None:
    """CPU threads of torch and of the numerical libraries; None chooses by the size of the model.

    The matrices of a small model are done before a second thread has begun, and threads that
    wait keep a core busy: on a machine with other work two were forty times slower than one.
    """
    if n is None and n_features > MANY_FEATURES:
        return
    torch.set_num_threads(n or 1)
    threadpool_limits(n or 1)


def fit(train: Callable, max_epochs: int | None = None) -> None:
    """Run a method that trains, with the progress bar of the command line."""
    with redirect_stdout(sys.stderr):  # scvi-tools prints an error to standard output, for results
        train(
            max_epochs=max_epochs,
            callbacks=[ProgressBar()],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
