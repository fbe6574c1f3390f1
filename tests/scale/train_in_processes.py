"""Run by `test_processes.py`: train on a mosaic with one or two processes, write what came out.

``python train_in_processes.py N_PROCESSES FOLDER``
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import scvi
import torch

import mumask


def main(n_processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    mdata = mumask.datasets.simulate_mosaic(
        {"CITE-seq": 60, "ASAP-seq": 60, "RNA-only": 240},
        n_features={"rna": 60, "protein": 10, "atac": 80},
    )
    mumask.MaskedVAE.setup_mudata(mdata, batch_key="batch")
    # Without a prior of its outputs it starts far from the average cell and has much to learn.
    model = mumask.MaskedVAE(mdata, n_latent=4, n_hidden=16, loadings_sd=math.inf)
    model.train(
        max_epochs=8,
        batch_size=16 // n_processes,
        accelerator="cpu",
        enable_progress_bar=False,
        train_size=0.9,
        check_val_every_n_epoch=1,
        devices=n_processes,
    )
    rank = int(os.environ.get("LOCAL_RANK", 0))
    out = {
        "loss": {k: v.to_numpy(float).ravel().tolist() for k, v in model.history_.items()},
        "weights": float(sum(p.detach().double().abs().sum() for p in model.module.parameters())),
        "scale": float(model.module.transforms["rna"].center.sum()),
        "steps": model.trainer.global_step,
        "error": model.get_reconstruction_error(),
    }
    (folder / f"{n_processes}_{rank}.json").write_text(json.dumps(out))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
