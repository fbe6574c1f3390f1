"""``python -m benchmarks``: run methods on tasks, studies of our models, and the report."""

from __future__ import annotations

import os
import warnings

# Before numpy is imported: scoring libraries would start a thread per core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.simplefilter("ignore")

from pathlib import Path  # noqa: E402
from typing import Annotated  # noqa: E402

import typer  # noqa: E402
import typer.core  # noqa: E402

from .records import RESULTS  # noqa: E402

SEVERAL = ("--methods", "--seeds", "--tasks", "--sizes", "--sources")


class Several(typer.core.TyperCommand):
    """Lets an option take several values: ``--seeds 0 1 2`` means ``--seeds 0 --seeds 1 --seeds 2``."""

    def parse_args(self, ctx, args):
        spread, option, fresh = [], None, False
        for arg in args:
            if arg.startswith("-"):
                name, _, value = arg.partition("=")
                option, fresh = (name if name in SEVERAL and not value else None), True
                spread.append(arg)
            elif option is None:
                spread.append(arg)
            else:
                values = (
                    arg.replace(",", " ").split() if option in ("--seeds", "--sizes") else [arg]
                )
                for value in values:
                    spread += [value] if fresh else [option, value]
                    fresh = False
        return super().parse_args(ctx, spread)


app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Benchmarks of mumask.", rich_markup_mode=None
)
Data = Annotated[
    Path | None,
    typer.Option(
        envvar="MUMASK_DATA", help="Folder with the data sets.", exists=True, file_okay=False
    ),
]
Scorer = Annotated[
    Path | None,
    typer.Option(help="File with the scores.  [default: evaluate.py beside the data folder]"),
]
Out = Annotated[Path | None, typer.Option(help="JSON lines to append to.")]
Seeds = Annotated[list[int], typer.Option(help="Seeds, such as 0 1 2.")]
Threads = Annotated[int, typer.Option(help="Threads of every run.")]


def _folder(data: Path | None) -> Path:
    if data is None:
        raise typer.BadParameter("name the folder with the data sets: --data DIR, or MUMASK_DATA")
    return data.resolve()


def where(data: Path | None, scorer: Path | None):
    """Data folder and loaded scorer."""
    from .runs import load_scorer

    data = _folder(data)
    scorer = scorer or data.parent / "evaluate.py"
    if not scorer.is_file():
        raise typer.BadParameter(f"there is no file {scorer}; name the scores with --scorer FILE")
    return data, load_scorer(scorer)


@app.command(cls=Several)
def run(
    tasks: Annotated[list[str], typer.Argument(help="T1 T1b T2 T3 T3b T4 T4b T5 T5b, or all.")],
    methods: Annotated[
        list[str], typer.Option(help="Methods or groups (ours, peer, baseline, all).")
    ] = ("all",),
    seeds: Seeds = (0, 1, 2),
    data: Data = None,
    scorer: Scorer = None,
    out: Out = None,
    epochs: Annotated[
        int | None, typer.Option(help="Cut training to so many epochs; the report says so.")
    ] = None,
    threads: Threads = 1,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which to stop a run.")
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Leave out what the output file has already.")
    ] = False,
) -> None:
    """Run methods on tasks: one JSON line per run."""
    from .methods import choose
    from .runs import execute, merged
    from .tasks import TASKS

    names = list(TASKS) if "all" in tasks else tasks
    if strange := set(names) - set(TASKS):
        raise typer.BadParameter(f"no task {sorted(strange)}; there are {list(TASKS)}")
    out = out or RESULTS / "runs.jsonl"
    data, scores = where(data, scorer)
    try:
        plan = [(TASKS[name], method) for name in names for method in choose(list(methods), name)]
    except KeyError as error:
        raise typer.BadParameter(error.args[0]) from error
    if not plan:
        raise typer.BadParameter(f"{list(methods)} take no part in {names}")
    for task, method in plan:
        more = {} if epochs is None else {"max_epochs": epochs}
        for seed in _seeds(task, method, seeds):
            if missing and _known(out, task, method, seed, merged(method.settings, more)):
                continue
            options = {"max_epochs": epochs, "threads": threads, "timeout": timeout}
            _keep(out, execute(task, method, seed, data, scores, **options))


def _seeds(task, method, seeds: list[int]) -> list[int]:
    """One seed for a method without chance, if the seed does not change the data either."""
    return seeds if task.seeded_data or not method.deterministic else seeds[:1]


def _known(out: Path, task, method, seed: int, settings: dict) -> bool:
    from .records import key, read

    wanted = {"task": task.name, "method": method.name, "seed": seed, "settings": settings}
    return out.is_file() and key(wanted) in {key(record) for record in read([out])}


def _keep(out: Path, record: dict) -> None:
    """Append a record and say what it holds."""
    from .records import append

    append(out, record)
    said = record.get("error") or " ".join(
        f"{name}={value:.3f}" if isinstance(value, float) else f"{name}={value}"
        for name, value in record["scores"].items()
    )
    typer.echo(
        f"{record['task']} {record['method']} seed {record['seed']}: {said} "
        f"({record.get('seconds')} s, {record.get('epochs')} epochs)"
    )


@app.command(cls=Several)
def ablate(
    model: Annotated[str, typer.Argument(help="vae or mae.")],
    tasks: Annotated[list[str] | None, typer.Option(help="Tasks.")] = None,
    seeds: Seeds = (0, 1, 2),
    data: Data = None,
    scorer: Scorer = None,
    out: Out = None,
    threads: Threads = 1,
    epochs: Annotated[int | None, typer.Option(help="Cut training to so many epochs.")] = None,
) -> None:
    """Change one default at a time: the ablations of both papers."""
    from .runs import execute
    from .studies.ablation import STUDIES
    from .tasks import TASKS

    if model not in STUDIES:
        raise typer.BadParameter(f"no study {model!r}; there are {list(STUDIES)}")
    study = STUDIES[model]
    data, scores = where(data, scorer)
    for name in tasks or study.tasks:
        for variant, settings in study.variants_of(name).items():
            for seed in seeds:
                record = execute(
                    TASKS[name],
                    study.method,
                    seed,
                    data,
                    scores,
                    settings,
                    max_epochs=epochs,
                    threads=threads,
                )
                record |= {"kind": "ablation", "study": model, "variant": variant}
                typer.echo(variant, nl=False)
                typer.echo(": ", nl=False)
                _keep(out or RESULTS / f"ablation_{model}.jsonl", record)


@app.command(cls=Several)
def speed(
    data: Data = None,
    out: Out = None,
    repeats: Annotated[int, typer.Option(help="How often the methods take turns.")] = 3,
    methods: Annotated[list[str] | None, typer.Option(help="totalVI, MULTIVI, scmmae.")] = None,
) -> None:
    """Training and inference in cells per second beside the peers, in turns on one machine."""
    from .studies.speed import compare

    compare(_folder(data), out or RESULTS / "speed.jsonl", repeats, methods)


@app.command(cls=Several)
def roofline(data: Data = None, out: Out = None) -> None:
    """How near a training step of MaskedVAE comes to what the machine can do."""
    from .studies.roofline import measure

    measure(_folder(data), out or RESULTS / "roofline.jsonl")


@app.command(cls=Several)
def gpu(data: Data = None, scorer: Scorer = None, out: Out = None) -> None:
    """Throughput, use of the device and mixed precision on a CUDA GPU, beside totalVI and MULTIVI."""
    import torch

    from .studies.gpu import measure

    if not torch.cuda.is_available():
        raise typer.BadParameter("this needs a CUDA device, and torch finds none")
    data, scores = where(data, scorer)
    measure(data, Path(scores.__file__), out or RESULTS / "gpu.jsonl")


@app.command(cls=Several)
def scale(
    sizes: Annotated[list[int], typer.Option(help="Numbers of cells.")] = (
        10_000,
        100_000,
        1_000_000,
    ),
    out: Out = None,
    threads: Threads = 1,
) -> None:
    """Time per epoch and peak memory of MaskedVAE on simulated mosaics of three modalities."""
    from .studies.scale import sweep

    sweep(list(sizes), out or RESULTS / "scale.jsonl", threads)


@app.command(cls=Several)
def out_of_core(
    folder: Annotated[Path, typer.Argument(help="Where the files are, or are written to.")],
    cells: Annotated[int, typer.Option(help="Number of cells to write.")] = 200_000,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 400,
    sources: Annotated[list[str], typer.Option(help="h5mu, zarr, memory.")] = (
        "h5mu",
        "zarr",
        "memory",
    ),
    out: Out = None,
) -> None:
    """Memory and speed of training from files, beside training from memory."""
    from .out_of_core import compare

    compare(folder, cells, steps, list(sources), out or RESULTS / "scale.jsonl")


@app.command(cls=Several)
def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="JSON lines; all results by default.")
    ] = None,
    page: Annotated[Path, typer.Option(help="Page to write.")] = Path("docs/benchmarks.md"),
    figures: Annotated[Path, typer.Option(help="Folder of the figures.")] = Path(
        "docs/_static/benchmarks"
    ),
) -> None:
    """Tables and figures from the recorded runs."""
    from .report import write

    write(files or sorted(RESULTS.glob("*.jsonl")), page, figures)
    typer.echo(f"{page} is written.")
    if files is None:
        from .readme_table import README, fill

        README.write_text(fill())
        typer.echo("The table of the README is written.")


@app.command(cls=Several)
def environments() -> None:
    """Make the environments of the peers, so that no run has to."""
    from .environments import names, python_of

    for name in names():
        typer.echo(f"{name}: {python_of(name)}")


if __name__ == "__main__":
    app()
