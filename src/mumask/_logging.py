"""The "mumask" logger: what registration, panels and preparation did is said by default."""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.logging import RichHandler


class _PlainHandler(logging.StreamHandler):
    """Whole lines for pipes and files, which a console would break at 80 columns.

    It looks up ``sys.stderr`` for each message, since notebooks and test runners replace it.
    """

    def __init__(self):
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(levelname)-8s %(message)s"))

    @property
    def stream(self):
        return sys.stderr


def _root_is_silent(_) -> bool:
    """A program (or library) that configured the root logger shows the message itself."""
    return not logging.getLogger().handlers


def setup_logging() -> None:
    """Show messages of the "mumask" logger, as scvi-tools does with its own.

    Nothing happens if the logger already has a handler, and nothing is shown twice: handlers of
    the root logger go first. Change what is shown with
    ``logging.getLogger("mumask").setLevel(...)``.
    """
    logger = logging.getLogger("mumask")
    if logger.handlers:
        return
    console = Console(stderr=True)
    if console.is_jupyter:  # there, standard error is a red box and rich prints HTML
        console = Console()
        console.is_jupyter = False
    if console.is_terminal or not console.stderr:
        handler = RichHandler(show_path=False, show_time=False, console=console)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = _PlainHandler()
    handler.addFilter(_root_is_silent)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
