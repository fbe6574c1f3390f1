"""A training step of MaskedVAE against what the machine can do.

Counted: floating-point operations of the linear layers, and the bytes that a step cannot avoid to move.
Measured in the same process: matrix products of the model's own shapes, the rate of copying, and the step.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import typer

from benchmarks.records import append, machine, now
from benchmarks.runs import measured
from benchmarks.tasks import TASKS

from .inside import BATCH_SIZE, MODELS, quiet
from .inside import now as seconds_now

TASKS_MEASURED = ("T1", "T4")
STEPS, REPEATS, ROWS = 20, 5, 12


def linear_layers(model, density: dict[str, float]) -> list[tuple[int, int, bool, float]]:
    """Inputs, outputs, whether the input needs a gradient, and its non-zero share, of every layer.

    First layers read data, which needs no gradient: two products a step instead of three, and no
    work at all for the zeros.
    """
    layers = []
    for name, parameter in model.module.named_parameters():
        embedding = "covariates" in name or "prior" in name
        if parameter.ndim == 2 and not embedding:
            n_out, n_in = sorted_shape(name, tuple(parameter.shape), model)
            first = name.startswith("encoder.first")
            layers.append((n_in, n_out, not first, density[name.split(".")[2]] if first else 1.0))
    return layers


def sorted_shape(name: str, shape: tuple[int, int], model) -> tuple[int, int]:
    """``(outputs, inputs)``: a first layer may store its weight the other way round."""
    features = set(model.module.n_features.values())
    if name.startswith("encoder.first") and shape[0] in features:
        return shape[1], shape[0]
    return shape


def work_per_cell(layers) -> float:
    """Floating-point operations of a step per cell: forward, gradient of weights, of inputs."""
    return sum(
        2.0 * n_in * n_out * (3 if back else 2) * share for n_in, n_out, back, share in layers
    )


def bytes_per_cell(layers, model, density: dict[str, float]) -> float:
    """Bytes of a step per cell: reading the data, activations both ways, weights and Adam's state.

    Activations and their gradients are written and read once each. A step reads a weight forward and
    backward, writes its gradient, and Adam reads and writes weight, gradient and two moments.
    """
    stored = sum(8.0 * density[m] * n for m, n in model.module.n_features.items())
    activations = sum(4.0 * 4 * n_out for _, n_out, *_ in layers)
    weights = sum(n_in * n_out for n_in, n_out, *_ in layers) * 4.0 * 10 / BATCH_SIZE
    return stored + activations + weights


def product_rate(layers, repeats: int = REPEATS) -> float:
    """FLOP/s of the model's matrix products alone, forward and backward, best of `repeats`."""
    import torch

    cases = []
    for n_in, n_out, back, _ in layers:
        x, w = torch.randn(BATCH_SIZE, n_in), torch.randn(n_out, n_in)
        cases.append((x, w, torch.randn(BATCH_SIZE, n_out), back))
    work = work_per_cell([(*layer[:3], 1.0) for layer in layers]) * BATCH_SIZE

    def products():
        for x, w, g, back in cases:
            x @ w.T
            g.T @ x
            if back:
                g @ w

    return work * 3 / best(lambda: [products() for _ in range(3)], repeats)


def copy_rate(repeats: int = REPEATS) -> float:
    """Bytes per second read and written by a copy much larger than the caches."""
    import torch

    source = torch.ones(64 * 2**20 // 4)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / best(lambda: target.copy_(source), repeats)


def best(function, repeats: int) -> float:
    """Shortest of some runs, after one to warm up."""
    function()
    seconds = []
    for _ in range(repeats):
        start = seconds_now()
        function()
        seconds.append(seconds_now() - start)
    return min(seconds)


def inside(folder: Path) -> dict:
    """Count and measure; called in a process of its own."""
    import torch

    from benchmarks.problem import Problem
    from mumask.train import MaskedTrainingPlan

    problem = Problem.load(folder)
    model = MODELS["MaskedVAE"](problem)
    options = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
    model.train(max_epochs=1, batch_size=BATCH_SIZE, accelerator="cpu", **options)
    density = {
        name: block.values.nnz / np.prod(block.values.shape)
        for name, block in problem.blocks.items()
    }
    layers = linear_layers(model, density)
    order = np.random.default_rng(0).permutation(len(problem.obs))[: STEPS * BATCH_SIZE]
    loader = model._make_data_loader(model.adata, order, batch_size=BATCH_SIZE)
    model.module.train()
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    plan = MaskedTrainingPlan(model.module, lr=1e-4)
    plan.n_obs_training = len(problem.obs)
    optimizer = plan.get_optimizer_creator()(model.module.parameters())

    def train_step(tensors):
        optimizer.zero_grad()
        model.module(tensors)[2].loss.backward()
        optimizer.step()

    def epoch():
        for tensors in loader:
            train_step(tensors)

    batches = list(loader)
    seconds = best(epoch, REPEATS) / len(batches)
    loading = best(lambda: list(loader), REPEATS) / len(batches)
    found = {
        "flop_per_cell": work_per_cell(layers),
        "bytes_per_cell": bytes_per_cell(layers, model, density),
        "product_gflops": product_rate(layers) / 1e9,
        "copy_gbytes": copy_rate() / 1e9,
        "step_ms": seconds * 1e3,
        "loading_ms": loading * 1e3,
    }
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for tensors in batches:
            train_step(tensors)
    events = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    found["operations"] = {e.key: e.self_cpu_time_total / total for e in events[:ROWS]}
    return found | verdict(found)


def verdict(found: dict) -> dict:
    """The attainable time of a step, and how much of it the measured step reaches."""
    products = BATCH_SIZE * found["flop_per_cell"] / (found["product_gflops"] * 1e9) * 1e3
    movement = BATCH_SIZE * found["bytes_per_cell"] / (found["copy_gbytes"] * 1e9) * 1e3
    intensity = found["flop_per_cell"] / found["bytes_per_cell"]
    return {
        "flop_per_byte": intensity,
        "attainable_ms": max(products, movement),
        "product_ms": products,
        "movement_ms": movement,
        "fraction": max(products, movement) / found["step_ms"],
    }


def measure(data: Path, out: Path) -> None:
    """Measure the data sets of :data:`TASKS_MEASURED` with one thread and with all."""
    for task in TASKS_MEASURED:
        problem, _ = TASKS[task].build(data, 0)
        with tempfile.TemporaryDirectory() as folder:
            problem.save(Path(folder, "problem"))
            for threads in sorted({1, os.cpu_count() or 1}):
                arguments = [Path(folder, "problem"), threads]
                found = measured("benchmarks.studies.roofline", arguments, threads)
                record = {"kind": "roofline", "task": task, "batch_size": BATCH_SIZE, **found}
                append(out, {**record, "date": now(), "machine": machine(threads)})
                typer.echo(
                    f"{task}, {threads} thread(s): step {found['step_ms']:.1f} ms, attainable "
                    f"{found['attainable_ms']:.1f} ms, fraction {found['fraction']:.2f}"
                )


if __name__ == "__main__":
    import torch

    quiet()
    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(inside(Path(sys.argv[1]))))
