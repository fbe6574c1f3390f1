"""Files in and out: checked before the work, written whole or not at all."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import mudata
from mudata import MuData

from mumask.data import keep_order

from ._session import InputError

logger = logging.getLogger("mumask")


def read_mudata(path: Path) -> MuData:
    """Read an h5mu file.

    Raises
    ------
    InputError
        If there is no such file or it is none, with the way out.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    if path.suffix == ".h5ad":
        raise InputError(
            f'{path} holds an AnnData. Make a MuData of it: python -c "import anndata, mudata; '
            f"adata = anndata.read_h5ad('{path}'); mdata = mudata.MuData({{'rna': adata}}); "
            f"mdata.obs = adata.obs; mdata.write('{path.with_suffix('.h5mu')}')\""
        )
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is no h5mu file (not HDF5 at all, or cut short).")
    try:
        with h5py.File(path) as file:
            if "mod" not in file:
                raise InputError(f"{path} is no h5mu file: it has no modalities ('mod').")
        with keep_order():
            return mudata.read_h5mu(path)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read as h5mu: {error}") from error


def bring_up(mdata: MuData, key: str | None) -> None:
    """Take a column from the modalities' obs if every cell has one and the same value there."""
    if key is None or key in mdata.obs:
        return
    found = mdata.obs_names.to_series().map({})  # all missing
    for adata in mdata.mod.values():
        if key not in adata.obs:
            continue
        column = adata.obs[key].astype(object).reindex(mdata.obs_names)
        if ((found != column) & found.notna() & column.notna()).any():
            return  # the error of the setup says where the column is
        found = found.where(found.notna(), column)
    if found.notna().all():
        logger.info("Column %r is taken from the obs of the modalities.", key)
        mdata.obs[key] = found.astype("category")


def check_output(path: Path, overwrite: bool, suffix: str | None = ".h5mu") -> None:
    """Make sure that a result can be written, before there is one.

    Raises
    ------
    InputError
        If the file exists and is not to be overwritten, or cannot be written.
    """
    if suffix is not None and path.suffix != suffix:
        raise InputError(f"{path}: the name of the output has to end with {suffix}.")
    if path.is_dir() and suffix is not None:
        raise InputError(f"{path} is a folder; name a file.")
    if path.is_file() and suffix is None:
        raise InputError(f"{path} is a file; name a folder.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists. Choose another name or add --overwrite.")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it first.")
    try:  # permissions do not tell all (read-only file systems, root): try
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error


def write(path: Path, how: Callable[[Path], object]) -> None:
    """Write one file by `how`, a function of the path of a scratch file that then takes its place.

    An error leaves `path` as it was and nothing beside it.
    """
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.stem}-", suffix=f".tmp{path.suffix}"
    )
    os.close(handle)
    scratch = Path(name)
    try:
        how(scratch)
        with scratch.open("rb") as file:  # on the disk before the name points to it
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        scratch.chmod(0o666 & ~umask)  # mkstemp makes files for the owner alone
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_mudata(mdata: MuData, path: Path) -> None:
    """Write an h5mu file, without the identifiers that scvi-tools keeps in ``uns``."""
    for key in ("_scvi_uuid", "_scvi_manager_uuid"):
        mdata.uns.pop(key, None)
    with keep_order():
        write(path, mdata.write_h5mu)
