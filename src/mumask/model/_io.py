"""Saving and loading without pickled code.

A model directory holds one file. It is read with ``torch.load(..., weights_only=True)``, which
rebuilds tensors and plain containers and nothing else: a file from a stranger cannot run code.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import mudata
import numpy as np
import pandas as pd
import torch
from mudata import MuData
from scvi.model._utils import parse_device_args
from scvi.model.base import BaseModelClass
from scvi.utils import attrdict

from mumask.data import check_is_mosaic, keep_order

FORMAT = "mumask model"
FORMAT_VERSION = 1
MODEL_FILE, DATA_FILE = "model.pt", "mdata.h5mu"
WEIGHTS = "model_state_dict"  # where scvi-tools' SaveCheckpoint(load_best_on_end=True) looks
FOR_SCVI = "attr_dict"  # where its view_setup_args and its hub look


def to_plain(value: Any) -> Any:
    """Turn registries and attributes into tensors and plain containers."""
    if isinstance(value, pd.Index | pd.Series):
        value = value.to_numpy()
    if isinstance(value, np.ndarray):
        if value.dtype == object and not all(isinstance(item, str) for item in value):
            value = value.astype(np.float64)  # what scvi-tools logs
        if value.dtype.kind in "OUS":
            return {"__names__": [str(name) for name in value]}
        return {"__array__": torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, pd.DataFrame):
        columns = {str(name): column.to_numpy() for name, column in value.items()}
        return {
            "__table__": to_plain(columns),
            "index": to_plain(value.index.to_numpy()),
            "name": value.index.name,
        }
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping | attrdict):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool | torch.Tensor):
        return value
    raise TypeError(
        f"A model with the argument {value!r} cannot be saved: only numbers, text, lists and "
        "arrays can be stored without pickling code."
    )


def from_plain(value: Any) -> Any:
    """Inverse of :func:`to_plain`."""
    if isinstance(value, dict):
        if "__names__" in value:
            return np.array(value["__names__"], dtype=object)
        if "__array__" in value:
            return value["__array__"].cpu().numpy()
        if "__table__" in value:
            index = pd.Index(from_plain(value["index"]), name=value["name"])
            return pd.DataFrame(from_plain(value["__table__"]), index=index)
        return {key: from_plain(item) for key, item in value.items()}
    return [from_plain(item) for item in value] if isinstance(value, list) else value


def read_model_file(path: Path, device: str | torch.device = "cpu") -> dict:
    """Read and check a model file.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If the file is cut short, of another program, or of a later version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No model at {path}. Pass the directory that save() wrote.")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is not a complete mumask model: it is damaged, cut short, or needs code to be "
            f"run to open it. Copy or save it again. ({error.__class__.__name__})"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by mumask.")
    if not {"version", "class", "attributes", "registry", WEIGHTS, "with_data"} <= set(content):
        raise ValueError(f"{path} is not a complete mumask model: parts of it are missing.")
    if content["version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {content['version']}; this mumask reads up to "
            f"{FORMAT_VERSION}. Upgrade mumask to open it."
        )
    content["weights"] = content.pop(WEIGHTS)
    content["attributes"] = from_plain(content["attributes"])
    content["registry"] = from_plain(content["registry"])
    content["registry"]["field_registries"] = defaultdict(
        dict, content["registry"]["field_registries"]
    )
    return content


def init_arguments(attributes: dict) -> dict:
    """Arguments that a saved model was made with."""
    saved = attributes.pop("init_params_")
    given = {**saved["non_kwargs"], **saved["kwargs"].get("module_kwargs", {})}
    return {name: value for name, value in given.items() if name not in ("mdata", "registry")}


def one_device(accelerator: str, device: int | str) -> torch.device:
    """Device of a model, from the arguments that scvi-tools has for it."""
    return parse_device_args(
        accelerator=accelerator, devices=device, return_device="torch", validate_single_device=True
    )[2]


class SaveLoadMixin(BaseModelClass):
    """``save`` and ``load``."""

    # What a query model froze; None for a model that was trained from scratch.
    mapped_ = None

    def _get_init_params(self, arguments: dict) -> dict:
        """As in scvi-tools; says at once, not after the training, what could not be saved."""
        found = super()._get_init_params(arguments)
        named = {**found["non_kwargs"], **found["kwargs"].get("module_kwargs", {})}
        for name, value in named.items():
            try:
                to_plain(value)
            except TypeError as error:
                way_out = "Pass what it stands for as numbers, text, lists or arrays."
                if callable(value):
                    way_out = (
                        f"A function of your own goes to train({name}=...), which needs no saving; "
                        "the model takes the name of one that mumask has."
                    )
                raise TypeError(
                    f"`{name}`: {value!r} could not be saved with the model. {way_out}"
                ) from error
        return found

    def save(
        self,
        dir_path: str,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **mudata_write_kwargs,
    ) -> None:
        """Save the model; a crash leaves no half-written model behind.

        Parameters
        ----------
        dir_path
            Directory to write to.
        prefix
            Prefix of the file names.
        overwrite
            Replace a model that is already there. A MuData saved with that one stays in its file
            unless `save_anndata` replaces it, and is no longer loaded on its own.
        save_anndata
            Also save the MuData.
        **mudata_write_kwargs
            Passed to :func:`mudata.write_h5mu`.

        Examples
        --------
        >>> model.save("reference")
        >>> model.save("reference", overwrite=True)
        """
        target = Path(dir_path)
        if target.is_file():
            raise FileExistsError(f"{target} is a file; a model is saved to a directory.")
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} exists. Choose another directory or overwrite=True.")
        if save_anndata:
            self._check_has_data()
        attributes, registry = self._plain_attributes(), to_plain(self.registry_)
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "class": type(self).__name__,
            "attributes": attributes,
            "registry": registry,
            FOR_SCVI: {**attributes, "registry_": registry},
            WEIGHTS: self.module.state_dict(),
            "with_data": save_anndata,
        }
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        try:
            torch.save(content, scratch / MODEL_FILE)
            if save_anndata:
                with keep_order():  # the method of a backed MuData would bind it to the new file
                    mudata.write_h5mu(scratch / DATA_FILE, self.adata, **mudata_write_kwargs)
            target.mkdir(exist_ok=True)
            for file in scratch.iterdir():
                os.replace(file, target / f"{prefix or ''}{file.name}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _plain_attributes(self) -> dict:
        """What the model keeps beside weights and registry."""
        self._remember_refinement()
        return {
            name: to_plain(value)
            for name, value in self._get_user_attributes()
            if name.endswith("_") and name != "registry_"
        }

    @classmethod
    def _read(cls, folder: Path, prefix: str | None = None, device="cpu") -> dict:
        """Content of a model file of this class."""
        content = read_model_file(folder / f"{prefix or ''}{MODEL_FILE}", device)
        if content["class"] != cls.__name__:
            raise ValueError(
                f"{folder} holds a {content['class']}; load it with "
                f"mumask.{content['class']}.load, not with {cls.__name__}."
            )
        return content

    @classmethod
    def load_registry(cls, dir_path: str, prefix: str | None = None) -> dict:
        """Registry of a saved model: how its data were set up.

        Parameters
        ----------
        dir_path
            Directory that :meth:`save` wrote.
        prefix
            Prefix of the file names.

        Examples
        --------
        >>> model.save("reference")
        >>> type(model).load_registry("reference")["setup_args"]["batch_key"]
        'batch'
        """
        return cls._read(Path(dir_path), prefix)["registry"]

    @classmethod
    def load(
        cls,
        dir_path: str,
        adata: MuData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
    ) -> Self:
        """Load a saved model. No code of the file is run.

        Parameters
        ----------
        dir_path
            Directory that :meth:`save` wrote.
        adata
            MuData to go on with; its features are matched by name. None: the MuData saved with
            the model if there is one, else none. False: none.
        accelerator, device
            Where the model goes, as in scvi-tools.
        prefix
            Prefix of the file names.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is not there, damaged, of another class or of a later version.

        Examples
        --------
        >>> model.save("reference")
        >>> again = type(model).load("reference", mdata)
        >>> again.predict()[mdata.obs_names].equals(model.predict()[mdata.obs_names])
        True
        """
        device = one_device(accelerator, device)
        if not isinstance(adata, MuData | bool | None):
            check_is_mosaic(adata)
        folder = Path(dir_path)
        content = cls._read(folder, prefix, device)
        saved_data = folder / f"{prefix or ''}{DATA_FILE}"
        # Beside a model saved over another one may lie the data of that.
        if adata is None and content["with_data"] and saved_data.is_file():
            with keep_order():
                adata = mudata.read_h5mu(saved_data)
        registry, attributes = content["registry"], content["attributes"]
        arguments = init_arguments(attributes)
        if isinstance(adata, MuData):
            cls.setup_mudata(adata, source_registry=registry, **registry["setup_args"])
            model = cls(adata, **arguments)
        else:
            model = cls(registry=registry, **arguments)
        for name, value in attributes.items():
            setattr(model, name, value)
        model.module.load_state_dict(content["weights"])
        if model.mapped_ is not None:
            model._apply_mapping()
        model.to_device(device)
        model.module.eval()
        return model
