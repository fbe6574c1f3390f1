"""Saving and loading: same numbers, no code from files, clear errors."""

from __future__ import annotations

import os
import pickle
import zipfile

import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch

from mumask import MaskedVAE
from mumask.model._io import DATA_FILE, FORMAT, FORMAT_VERSION, MODEL_FILE, from_plain, to_plain


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    trained.save(folder)
    return folder


def copy_of(mdata, change=lambda adata: adata):
    fresh = md.MuData({k: change(v.copy()) for k, v in mdata.mod.items()})
    for column in mdata.obs:
        fresh.obs[column] = mdata.obs[column].reindex(fresh.obs_names)
    return fresh


def assert_same_numbers(one, other, mdata=None):
    names = one.adata.obs_names
    z = other.get_latent_representation(mdata, indices=names)
    np.testing.assert_allclose(z, one.get_latent_representation(), atol=1e-5)
    frames = [m.get_normalized_expression(d, indices=names, modality="atac")
              for m, d in ((one, None), (other, mdata))]  # fmt: skip
    pd.testing.assert_frame_equal(*frames, rtol=1e-4, atol=1e-5)
    frames = [m.predict(d, indices=names, soft=True) for m, d in ((one, None), (other, mdata))]
    pd.testing.assert_frame_equal(*frames, rtol=1e-4, atol=1e-5)
    full = [m.impute(d, indices=names) for m, d in ((one, None), (other, mdata))]
    for name in one.modalities:
        np.testing.assert_allclose(full[0][name].X, full[1][name].X, rtol=1e-4, atol=1e-4)


def test_same_numbers(trained, saved):
    loaded = MaskedVAE.load(saved, copy_of(trained.adata))
    assert_same_numbers(trained, loaded)
    assert loaded.is_trained_
    assert loaded.classes == trained.classes
    assert set(loaded.history_) == set(trained.history_)
    for key, table in trained.history_.items():
        pd.testing.assert_frame_equal(loaded.history_[key], table, check_dtype=False)
    np.testing.assert_array_equal(loaded.train_indices, trained.train_indices)


def test_other_order_of_cells_and_features(trained, saved):
    rng = np.random.default_rng(0)

    def shuffle(adata):
        return adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()

    mdata = copy_of(trained.adata, shuffle)
    assert_same_numbers(trained, MaskedVAE.load(saved, mdata))
    assert_same_numbers(trained, trained, mdata)


def test_without_data(trained, saved):
    loaded = MaskedVAE.load(saved)
    assert loaded.adata is None
    with pytest.raises(ValueError, match="without data: pass `mdata`"):
        loaded.get_latent_representation()
    assert str(loaded) is not None
    assert loaded.modalities == trained.modalities
    assert_same_numbers(trained, loaded, copy_of(trained.adata))
    assert MaskedVAE.load(saved, False).adata is None


def test_data_saved_with_the_model(trained, tmp_path):
    trained.save(tmp_path / "m", save_anndata=True)
    assert_same_numbers(trained, MaskedVAE.load(tmp_path / "m"))
    assert MaskedVAE.load(tmp_path / "m", False).adata is None


def test_saved_data_keep_their_order(mosaic, fit, unchanged, tmp_path):
    """In memory and in the file: the indices of a split are positions."""
    mixed = mosaic[np.random.default_rng(1).permutation(mosaic.n_obs)].copy()
    mixed["rna"].obs["own"] = 1.0
    model = fit(mixed, epochs=1)
    check, names = unchanged(mixed), list(mixed.obs_names)
    model.save(tmp_path / "m", save_anndata=True)
    check()
    assert list(mixed.obs_names) == names
    loaded = MaskedVAE.load(tmp_path / "m")
    assert list(loaded.adata.obs_names) == names
    z = model.get_latent_representation()
    np.testing.assert_allclose(loaded.get_latent_representation(), z, atol=1e-5)


def test_backed_data_stay_with_their_file(mosaic, fit, tmp_path):
    mosaic.write(tmp_path / "data.h5mu")
    backed = md.read_h5mu(tmp_path / "data.h5mu", backed=True)
    fit(backed, epochs=1).save(tmp_path / "m", save_anndata=True)
    assert backed.filename == tmp_path / "data.h5mu"
    assert backed["rna"].filename == tmp_path / "data.h5mu"


def test_data_of_another_model_are_not_taken(trained, mosaic, fit, tmp_path):
    trained.save(tmp_path / "m", save_anndata=True)
    fit(mosaic, epochs=1).save(tmp_path / "m", overwrite=True)
    assert MaskedVAE.load(tmp_path / "m").adata is None
    assert (tmp_path / "m" / DATA_FILE).is_file()


def test_data_are_those_of_the_prefix(trained, tmp_path):
    trained.save(tmp_path / "m", prefix="a_", save_anndata=True)
    found = MaskedVAE.load(tmp_path / "m", prefix="a_").adata
    assert list(found.obs_names) == list(trained.adata.obs_names)
    (tmp_path / "m" / "a_model.pt").rename(tmp_path / "m" / "model.pt")
    assert MaskedVAE.load(tmp_path / "m").adata is None


def test_saved_again_and_again(trained, saved, tmp_path):
    MaskedVAE.load(saved).save(tmp_path / "again")
    MaskedVAE.load(tmp_path / "again", copy_of(trained.adata)).save(tmp_path / "third")
    assert_same_numbers(trained, MaskedVAE.load(tmp_path / "third", copy_of(trained.adata)))


def test_training_goes_on_after_loading(trained, saved):
    loaded = MaskedVAE.load(saved, copy_of(trained.adata))
    before = loaded.get_latent_representation()
    loaded.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    assert not np.allclose(before, loaded.get_latent_representation())


def test_arguments_of_any_kind(mosaic, fit, tmp_path):
    """What users pass for lists: an Index, a set, an array, a numpy number."""
    proteins = mosaic["protein"].var_names
    setup = {"panels": {"protein": {"cite": proteins[2:], "asap": set(proteins)}}}
    model = fit(
        mosaic,
        setup=setup,
        epochs=1,
        held_out={"rna": mosaic["rna"].var_names[:2]},
        modality_weights={"rna": np.float32(0.5)},
        n_latent=np.int64(3),
    )
    model.save(tmp_path / "m")
    loaded = MaskedVAE.load(tmp_path / "m", copy_of(mosaic))
    z = model.get_latent_representation()
    np.testing.assert_allclose(loaded.get_latent_representation(), z, atol=1e-5)


def test_prefix_and_existing_folder(trained, tmp_path):
    trained.save(tmp_path / "m", prefix="a_")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        trained.save(tmp_path / "m")
    trained.save(tmp_path / "m", overwrite=True)
    assert sorted(os.listdir(tmp_path / "m")) == ["a_model.pt", "model.pt"]
    assert os.listdir(tmp_path) == ["m"]
    MaskedVAE.load(tmp_path / "m", prefix="a_")


def test_a_path_that_cannot_be_written(trained, tmp_path):
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OSError, match="file"):
            trained.save(tmp_path / "file", overwrite=overwrite)
        with pytest.raises(OSError, match="file"):
            trained.save(tmp_path / "file" / "model", overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "mine"
    assert os.listdir(tmp_path) == ["file"]


def test_a_crash_leaves_the_old_model(trained, tmp_path, monkeypatch):
    trained.save(tmp_path / "m")
    before = (tmp_path / "m" / MODEL_FILE).read_bytes()

    def broken(content, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        trained.save(tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / MODEL_FILE).read_bytes() == before
    with pytest.raises(OSError, match="disk full"):
        trained.save(tmp_path / "new")
    assert os.listdir(tmp_path) == ["m"]


# Files that are no model


def test_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"save\(\)"):
        MaskedVAE.load(tmp_path / "nowhere")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_cut_short(saved, tmp_path, share):
    whole = (saved / MODEL_FILE).read_bytes()
    (tmp_path / MODEL_FILE).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="cut short.*Copy or save it again"):
        MaskedVAE.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"hello", b"\x00" * 999, b"PK\x03\x04" + b"x" * 99, pickle.dumps({"a": 1})]
)
def test_a_file_of_something_else(tmp_path, content):
    (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="not a complete mumask model|not written by mumask"):
        MaskedVAE.load(tmp_path)


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / MODEL_FILE, "w") as archive:
        archive.writestr("a.txt", "b")
    with pytest.raises(ValueError, match="not a complete mumask model"):
        MaskedVAE.load(tmp_path)


@pytest.mark.parametrize("content", [torch.ones(2), [1], {"a": 1}, {"format": FORMAT}])
def test_a_torch_file_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / MODEL_FILE)
    with pytest.raises(ValueError, match=r"model\.pt"):
        MaskedVAE.load(tmp_path)


def edited(saved, tmp_path, **changes):
    content = torch.load(saved / MODEL_FILE, weights_only=True)
    torch.save({**content, **changes}, tmp_path / MODEL_FILE)
    return tmp_path


def test_another_class(saved, tmp_path):
    with pytest.raises(ValueError, match=r"holds a CrossAttentionMAE.*mumask\.CrossAttentionMAE"):
        MaskedVAE.load(edited(saved, tmp_path, **{"class": "CrossAttentionMAE"}))


def test_a_later_version(saved, tmp_path):
    version = FORMAT_VERSION + 1
    with pytest.raises(ValueError, match=f"version {version}.*Upgrade mumask"):
        MaskedVAE.load(edited(saved, tmp_path, version=version))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["attributes", "model_state_dict", "alone", "legacy", "pickle"])
def test_no_code_of_a_file_is_run(saved, tmp_path, place):
    trap = tmp_path / "executed"
    if place in ("attributes", "model_state_dict"):
        edited(saved, tmp_path, **{place: {"x": Bomb(trap)}})
    elif place == "pickle":
        (tmp_path / MODEL_FILE).write_bytes(pickle.dumps(Bomb(trap)))
    else:
        torch.save(
            Bomb(trap), tmp_path / MODEL_FILE, _use_new_zipfile_serialization=place == "alone"
        )
    with pytest.raises(ValueError, match="needs code to be run"):
        MaskedVAE.load(tmp_path)
    assert not trap.exists()
    if place != "pickle":  # the trap does work where files are trusted
        torch.load(tmp_path / MODEL_FILE, weights_only=False)
        assert trap.exists()


def test_plain_values_come_back():
    table = pd.DataFrame({"loss": [1.0, 2.0]}, index=pd.RangeIndex(2, name="epoch"))
    value = {
        "a": np.arange(3), "b": np.array(["x", "y"], dtype=object), "c": [1, None, "t", 2.5],
        "d": {"e": np.float32(2), 3: (True,)}, "t": table, "n": np.zeros((0, 2)),
    }  # fmt: skip
    back = from_plain(to_plain(value))
    np.testing.assert_array_equal(back["a"], value["a"])
    assert list(back["b"]) == ["x", "y"]
    assert back["c"] == value["c"]
    assert back["d"] == {"e": 2.0, 3: [True]}
    assert back["n"].shape == (0, 2)
    pd.testing.assert_frame_equal(back["t"], table, check_index_type=False)
    with pytest.raises(TypeError, match="cannot be saved"):
        to_plain({"f": lambda x: x})


def test_what_cannot_be_saved_is_refused_at_once(mosaic):
    """Not after hours of training."""
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    with pytest.raises(TypeError, match=r"`schedule`.*train\(schedule=...\)"):
        MaskedVAE(mosaic, schedule=lambda presence: (presence, presence))
    with pytest.raises(TypeError, match=r"`weights`.*numbers, text"):
        MaskedVAE(mosaic, weights={"kl": np.add})
