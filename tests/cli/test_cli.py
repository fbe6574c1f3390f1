import os
import stat

import mudata
import numpy as np
import pandas as pd
import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typer.testing import CliRunner

from mumask import MaskedVAE, datasets
from mumask.cli import _demo, _files, app

RUN = CliRunner()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.h5mu"
    mdata = datasets.simulate_mosaic(
        50, n_features={"rna": 30, "protein": 8, "atac": 40}, panels={"RNA-only": {"rna": 0.5}}
    )
    mdata.obs["some"] = np.where(
        mdata.obs["batch"] == "CITE-seq", mdata.obs["cell_type"], "Unknown"
    )
    mdata.write(path)
    return path


def run(*arguments, code=0):
    result = RUN.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


def integrate(source, *options, code=0, out="out.h5mu"):
    output = source.parent / out
    result = run("integrate", source, "-o", output, "--max-epochs", 1, *options, code=code)
    return output, result


def only_line(result):
    """The error is one line on standard error, without a traceback."""
    lines = [
        line for line in result.stderr.splitlines() if not line.startswith(("INFO", "Training"))
    ]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def left_beside(path):
    return [name for name in os.listdir(path.parent) if name.startswith(".")]


def test_version_and_help():
    assert run("--version").stdout.startswith("mumask ")
    for command in ("demo", "integrate"):
        assert command in run("--help").stdout
        assert "Usage" in run(command, "--help").stdout


@pytest.mark.e2e
def test_integrate_writes_the_results_and_keeps_the_data(source):
    options = ["--batch-key", "batch", "--labels-key", "some", "--impute"]
    output, result = integrate(source, *options, "--save-model", source.parent / "model")
    before, after = mudata.read_h5mu(source), mudata.read_h5mu(output)
    assert after.obsm["X_mumask"].shape == (150, 20)
    assert np.isfinite(after.obsm["X_mumask"]).all()
    assert isinstance(after.obs["mumask_label"].dtype, pd.CategoricalDtype)
    assert set(after.obs["mumask_label"]) <= set(before.obs["cell_type"])
    assert after.obs["mumask_uncertainty"].between(0, 1).all()
    for name, adata in before.mod.items():
        assert list(after[name].obs_names) == list(adata.obs_names)
        assert (after[name].X != adata.X).nnz == 0
    assert "measured" in after["rna"].varm
    assert not [key for key in after.uns if "scvi" in key]
    complete = mudata.read_h5mu(source.parent / "out.imputed.h5mu")
    assert {name: adata.shape for name, adata in complete.mod.items()} == {
        "rna": (150, 30), "protein": (150, 8), "atac": (150, 40),
    }  # fmt: skip
    rna = before["rna"]
    panel = rna.varm["measured"]["CITE-seq"].to_numpy()
    cells = rna.obs_names[rna.obs_names.str.startswith("CITE")]
    np.testing.assert_array_equal(complete["rna"][cells, panel].to_df(), rna[cells, panel].to_df())
    pd.testing.assert_series_equal(
        complete.obs["mumask_label"], after.obs["mumask_label"].reindex(complete.obs_names)
    )
    model = MaskedVAE.load(source.parent / "model", after)
    np.testing.assert_allclose(model.get_latent_representation(), after.obsm["X_mumask"], atol=1e-5)
    assert "out.h5mu" in result.stdout
    assert not left_beside(output)


def test_settings_reach_the_model(source):
    model = source.parent / "model"
    integrate(
        source, "--modalities", "rna,protein", "--likelihood", "rna=poisson", "--batch-key", "batch",
        "--likelihood", "protein=zinb", "--preset", "inclust+", "--save-model", model,
    )  # fmt: skip
    registry = MaskedVAE.load(model, adata=False).registry_
    setup = registry["setup_args"]
    assert setup["modalities"] == ["rna", "protein"]
    assert setup["likelihoods"] == {"rna": "poisson", "protein": "zinb"}
    panel = registry["field_registries"]["X_rna"]["state_registry"]["panel"]
    assert sorted(panel.sum(axis=1)) == [15, 30, 30]  # as recorded in the file
    assert MaskedVAE.load(model, adata=False).module.n_latent == 50


def test_equal_seeds_equal_results(source):
    first, _ = integrate(source, "--batch-key", "batch", "--seed", 3, out="a.h5mu")
    second, _ = integrate(source, "--batch-key", "batch", "--seed", 3, out="b.h5mu")
    np.testing.assert_array_equal(
        mudata.read_h5mu(first).obsm["X_mumask"], mudata.read_h5mu(second).obsm["X_mumask"]
    )


def test_imputing_one_modality(source):
    integrate(source, "--impute-modality", "protein")
    assert list(mudata.read_h5mu(source.parent / "out.imputed.h5mu").mod) == ["protein"]


def test_a_key_in_the_modalities_is_found(source):
    mdata = mudata.read_h5mu(source)
    for adata in mdata.mod.values():
        adata.obs["lane"] = mdata.obs["batch"].reindex(adata.obs_names)
    mdata.write(source)
    output, _ = integrate(source, "--batch-key", "lane")
    after = mudata.read_h5mu(output)
    assert list(after.obs["lane"].astype(str)) == list(after.obs["batch"].astype(str))


def test_layer(source):
    mdata = mudata.read_h5mu(source)
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].X = 0.5 * mdata["rna"].X
    mdata.write(source)
    _, result = integrate(source, code=2)
    assert "whole numbers" in only_line(result)
    integrate(source, "--layer", "rna=counts")


def never_train(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("trained before the check")

    monkeypatch.setattr(MaskedVAE, "train", fail)


@pytest.mark.parametrize("exists", ["out.h5mu", "out.imputed.h5mu", "model"])
def test_nothing_is_overwritten_unasked(source, exists, monkeypatch):
    there = source.parent / exists
    there.mkdir() if exists == "model" else there.write_text("precious")
    with monkeypatch.context() as patch:
        never_train(patch)
        options = ["--impute", "--save-model", source.parent / "model"]
        _, result = integrate(source, *options, code=2)
    line = only_line(result)
    assert exists in line
    assert "--overwrite" in line
    assert there.is_dir() or there.read_text() == "precious"
    output, _ = integrate(source, *options, "--overwrite")
    assert mudata.read_h5mu(output).obsm["X_mumask"].shape[0] == 150


def test_a_crash_while_writing_leaves_the_old_file(source, monkeypatch):
    output, _ = integrate(source)
    before = output.read_bytes()

    def crash(self, path, **_):
        path.write_bytes(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(mudata.MuData, "write_h5mu", crash)
        _, result = integrate(source, "--batch-key", "batch", "--overwrite", code=1)
        assert "No space left" in only_line(result)
        _, result = integrate(source, code=1, out="new.h5mu")
    assert output.read_bytes() == before
    assert not (source.parent / "new.h5mu").exists()
    assert not left_beside(output)


def test_a_crash_in_training_leaves_nothing(source, monkeypatch):
    never_train(monkeypatch)
    output, result = integrate(source, "--batch-key", "batch", code=1)
    assert "AssertionError" in only_line(result)
    assert os.listdir(source.parent) == ["in.h5mu"]


@pytest.mark.parametrize(
    ("signal", "code"), [(KeyboardInterrupt, 130), (SystemExit, 130), (SIGTERMException, 143)]
)
def test_an_interrupted_run_is_no_success(source, monkeypatch, signal, code):
    def stopped(self, **_):
        print("Exception raised during training.")  # as scvi-tools does
        raise signal

    monkeypatch.setattr(MaskedVAE, "train", stopped)
    output, result = integrate(source, code=code)
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == "error: interrupted"
    assert not output.exists() and not left_beside(output)


def test_permissions_are_those_of_any_file(tmp_path):
    _files.write(tmp_path / "a", lambda path: path.write_text("x"))
    (tmp_path / "b").write_text("x")
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == stat.S_IMODE(
        os.stat(tmp_path / "b").st_mode
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-key", "lane"], "'lane' is not in mdata.obs"),
        (["--labels-key", "typo"], "'typo' is not in mdata.obs"),
        (["--modalities", "rna,adt"], "'adt' is not in the MuData"),
        (["--modalities", "rna"], "in none of the modalities"),
        (["--likelihood", "rna"], "MODALITY=VALUE"),
        (["--likelihood", "rna=normal"], "'normal'"),
        (["--layer", "rna=raw"], "no layer 'raw'"),
        (["--preset", "incluster", "--batch-key", "batch"], "'incluster' is unknown"),
        (["--impute-modality", "adt", "--batch-key", "batch"], "'adt' is not among"),
        (["--save-model", "FILE"], "name a folder"),
    ],
)
def test_wrong_options(source, options, message, monkeypatch):
    never_train(monkeypatch)
    (source.parent / "file").write_text("")
    options = [source.parent / "file" if o == "FILE" else o for o in options]
    _, result = integrate(source, *options, "--overwrite", code=2)
    assert message in only_line(result)


def test_a_batch_column_of_one_value_is_said(source):
    mdata = mudata.read_h5mu(source)
    mdata.obs["run"] = "one"
    mdata.write(source)
    _, result = integrate(source, "--batch-key", "run")
    assert "'run' is 'one' in every cell" in result.stderr


def test_wrong_files(source):
    folder = source.parent
    mdata = mudata.read_h5mu(source)
    mdata["rna"].write(folder / "one.h5ad")
    (folder / "one.h5mu").write_bytes((folder / "one.h5ad").read_bytes())
    (folder / "cut.h5mu").write_bytes(source.read_bytes()[:1000])
    (folder / "text.h5mu").write_text("cells")
    for name, message in {
        "none.h5mu": "no such file",
        "one.h5ad": "Make a MuData of it",
        "one.h5mu": "no modalities",
        "cut.h5mu": "cut.h5mu",
        "text.h5mu": "no h5mu file",
    }.items():
        _, result = integrate(folder / name, code=2)
        assert message in only_line(result)
        assert not (folder / "out.h5mu").exists()


def test_the_way_out_for_an_anndata_works(source):
    import subprocess
    import sys

    folder = source.parent
    mdata = mudata.read_h5mu(source)
    mdata["rna"].obs["lane"] = "a"
    mdata["rna"].write(folder / "one.h5ad")
    _, result = integrate(folder / "one.h5ad", code=2)
    code = only_line(result).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    integrate(folder / "one.h5mu", "--batch-key", "lane")


def test_wrong_outputs(source):
    for out, message in {
        "out.h5ad": "end with .h5mu",
        "nowhere/out.h5mu": "does not exist",
    }.items():
        assert message in only_line(integrate(source, out=out, code=2)[1])
    (source.parent / "folder.h5mu").mkdir()
    assert "is a folder" in only_line(integrate(source, out="folder.h5mu", code=2)[1])


def test_a_folder_that_cannot_be_written(source, monkeypatch):
    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_files.tempfile, "TemporaryFile", deny)
    never_train(monkeypatch)
    assert "Permission denied" in only_line(integrate(source, code=2)[1])


def test_debug_shows_the_traceback(source):
    result = RUN.invoke(
        app, ["integrate", str(source), "-o", "x.h5ad", "--debug"], catch_exceptions=True
    )
    assert type(result.exception).__name__ == "InputError"


@pytest.mark.e2e
@pytest.mark.slow
def test_the_name_of_unlabelled_cells_is_no_type(source):
    mdata = mudata.read_h5mu(source)
    mdata.obs["some"] = mdata.obs["some"].astype(str).replace("Unknown", "none")
    mdata.write(source)
    output, _ = integrate(source, "--labels-key", "some", "--unlabeled", "none")
    found = mudata.read_h5mu(output).obs["mumask_label"]
    assert set(found.cat.categories) == set(mdata.obs["some"]) - {"none"}


def test_a_warning_is_said_as_it_is(source):
    """Not as an error of an unknown kind, of which --debug would show more."""
    _, result = integrate(source, "--labels-key", "some", "--unlabeled", "none")
    lines = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    (line,) = (line for line in lines if "['Unknown'] of 'some'" in line)
    assert line.startswith("warning: `labels_key`: ")
    assert line.endswith("pass unlabeled_category='Unknown'.")


def test_a_column_in_which_modalities_differ_is_not_taken(source):
    mdata = mudata.read_h5mu(source)
    for adata in mdata.mod.values():
        adata.obs["lane"] = "one"
    mdata["protein"].obs.loc[mdata["protein"].obs_names[0], "lane"] = "two"
    mdata["rna"].obs["run"], mdata["atac"].obs["run"] = "one", "one"
    mdata["protein"].obs["run"] = "one"
    mdata.write(source)
    _, result = integrate(source, "--batch-key", "lane", code=2)
    assert "'lane' is not in mdata.obs" in only_line(result)
    output, _ = integrate(source, "--batch-key", "run")
    assert set(mudata.read_h5mu(output).obs["run"]) == {"one"}


def test_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(_demo, "FEATURES", {"rna": 80, "protein": 12, "atac": 90})
    folder = tmp_path / "new" / "demo"
    result = run("demo", "-o", folder, "--max-epochs", 2, "--n-cells", 60)
    pictures = ["mosaic", "training", "umap", "imputed_protein", "imputed_rna"]
    wanted = {f"{name}.png" for name in pictures} | {"metrics.csv", "integrated.h5mu"}
    assert set(os.listdir(folder)) == wanted
    for name in wanted:
        assert name in result.stdout
    table = pd.read_csv(folder / "metrics.csv")
    assert len(table) == 9
    assert table["mumask"].notna().all()
    mdata = mudata.read_h5mu(folder / "integrated.h5mu")
    assert mdata.obsm["X_umap"].shape == (180, 2)
    assert mdata.obsm["X_mumask"].shape[0] == 180


def test_demo_needs_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    assert "name a folder" in only_line(run("demo", "-o", tmp_path / "file", code=2))
