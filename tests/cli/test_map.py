"""``mumask map``: a saved reference, a query, no Python."""

from __future__ import annotations

import mudata as md
import numpy as np
import pytest
from typer.testing import CliRunner

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.cli import app


@pytest.fixture
def files(make_mosaic, fit, tmp_path):
    """Folder with a reference model and a query that has only RNA."""
    reference = fit(make_mosaic(), setup={"labels_key": "cell_type"}, epochs=2)
    reference.save(tmp_path / "reference")
    query = make_mosaic(15, {"new": ("rna",)}, seed=3)
    query = md.MuData({"rna": query["rna"]})
    query.obs["batch"] = "new"
    query.write(tmp_path / "query.h5mu")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["map", *(str(a) for a in arguments)])


@pytest.mark.parametrize("epochs", [0, 1])
def test_map(files, epochs):
    out = files / "out.h5mu"
    result = run(
        files / "query.h5mu", "--reference", files / "reference", "-o", out, "--impute",
        "--max-epochs", epochs, "--save-model", files / "mapped",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    mapped = md.read_h5mu(out)
    assert np.isfinite(mapped.obsm["X_mumask"]).all()
    assert mapped.obs["mumask_label"].dtype == "category"
    assert mapped.obs["mumask_new_type"].dtype == bool
    assert {"rna", "protein", "atac"} == set(md.read_h5mu(files / "out.imputed.h5mu").mod)
    again = MaskedVAE.load(files / "mapped", mapped).get_latent_representation()
    np.testing.assert_allclose(again, mapped.obsm["X_mumask"], atol=1e-5)
    history = MaskedVAE.load(files / "mapped", mapped).history
    assert len(history["train_loss"] if history else []) == epochs


def test_wrong_input_is_one_line(files):
    result = run(files / "query.h5mu", "--reference", files / "none", "-o", files / "out.h5mu")
    assert result.exit_code == 2
    assert "No model at" in result.output
    assert not (files / "out.h5mu").exists()


def test_a_file_in_the_place_of_the_model_is_found_at_once(files, monkeypatch):
    """Even where outputs may be replaced."""
    (files / "mapped").write_text("mine")
    monkeypatch.setattr("mumask.cli._map.read_mudata", lambda path: pytest.fail("too late"))
    result = run(
        files / "query.h5mu", "--reference", files / "reference", "-o", files / "out.h5mu",
        "--save-model", files / "mapped", "--overwrite",
    )  # fmt: skip
    assert result.exit_code == 2, result.output
    assert "is a file; name a folder" in result.output
    assert (files / "mapped").read_text() == "mine"


@pytest.mark.parametrize(("head_steps", "stale"), [(0, False), (20, True)])
def test_a_reference_has_the_labels_it_was_last_trained_with(make_mosaic, files, head_steps, stale):
    """The head that was trained with the network counts, and none from before another stage 1."""
    mosaic, quiet = make_mosaic(), {"enable_progress_bar": False, "accelerator": "cpu"}
    CrossAttentionMAE.setup_mudata(mosaic, batch_key="batch", labels_key="cell_type")
    model = CrossAttentionMAE(mosaic, n_embed=16, n_latent=9, n_heads=2, max_tokens=6)
    model.train(max_epochs=1, **quiet)
    model.finetune(max_epochs=1, head_steps=head_steps, **quiet)
    if stale:
        model.train(max_epochs=1, **quiet)
    model.save(files / "mae")
    out = files / "out.h5mu"
    result = run(files / "query.h5mu", "--reference", files / "mae", "-o", out)
    assert result.exit_code == 0, result.output
    mapped = md.read_h5mu(out)
    assert np.isfinite(mapped.obsm["X_mumask"]).all()
    assert ("mumask_label" in mapped.obs) is not stale


def test_the_other_model(make_mosaic, files, monkeypatch):
    """integrate --model, then map, which finds out by itself what was saved."""
    monkeypatch.setattr("mumask.model._stages.HEAD_STEPS", 20)
    make_mosaic().write(files / "in.h5mu")
    options = ["--model", "CrossAttentionMAE", "--batch-key", "batch", "--labels-key", "cell_type"]
    arguments = ["integrate", files / "in.h5mu", "-o", files / "whole.h5mu", *options]
    arguments += ["--max-epochs", 1, "--save-model", files / "mae"]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "mumask.CrossAttentionMAE.load" in result.output
    assert md.read_h5mu(files / "whole.h5mu").obs["mumask_label"].dtype == "category"
    out = files / "out.h5mu"
    result = run(files / "query.h5mu", "--reference", files / "mae", "-o", out)
    assert result.exit_code == 0, result.output
    assert md.read_h5mu(out).obs["mumask_label"].notna().all()


def test_the_batch_may_be_in_the_obs_of_the_modality(files):
    query = md.read_h5mu(files / "query.h5mu")
    query["rna"].obs["batch"] = "new"
    del query.obs["batch"]
    query.write(files / "query.h5mu")
    out = files / "out.h5mu"
    result = run(
        files / "query.h5mu", "--reference", files / "reference", "-o", out, "--max-epochs", 0
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (md.read_h5mu(out).obs["batch"] == "new").all()
