"""Checks of a MuData before anything is registered: each error names the thing and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from mudata import MuData
from torch.nn import ModuleDict

from ._rows import presence
from ._scan import name_some

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ._fields import ModalityField
    from ._scan import Scan


def check_is_mosaic(mdata: MuData) -> None:
    """A MuData whose modalities share cells."""
    if not isinstance(mdata, MuData):
        raise TypeError(
            f"Expected a MuData, got {type(mdata).__name__}. Wrap an AnnData: "
            "mudata.MuData({'rna': adata})."
        )
    if mdata.axis != 0:
        raise ValueError(
            f"The modalities of this MuData share features, not cells (axis={mdata.axis}). Build it "
            "with cells in common: mudata.MuData({...}, axis=0)."
        )


def check_is_list(names: Sequence[str] | None, argument: str) -> None:
    """Not one name, which Python would take for a list of letters."""
    if isinstance(names, str | Mapping):
        names = [names] if isinstance(names, str) else list(names.values())
        raise TypeError(f"`{argument}` is a list of names: {argument}={names!r}.")


def check_modality_names(mdata: MuData, modalities: Sequence[str] | None) -> list[str]:
    """The modalities to use, each there, usable as a key and not empty."""
    check_is_mosaic(mdata)
    check_is_list(modalities, "modalities")
    names = list(mdata.mod) if modalities is None else list(modalities)
    if not mdata.n_obs:
        raise ValueError("The MuData has no cell.")
    if not names:
        raise ValueError("No modality to use: `modalities` is empty or the MuData holds none.")
    if len(set(names)) < len(names):
        raise ValueError(f"`modalities` lists a modality twice: {names}.")
    for name in names:
        if name not in mdata.mod:
            raise ValueError(f"Modality {name!r} is not in the MuData; it has {list(mdata.mod)}.")
        if any(letter in name for letter in ". /"):
            raise ValueError(
                f"Modality name {name!r} has a dot, space or slash, which registry keys and file "
                "formats cannot hold. Rename it: mdata = mudata.MuData({'new_name': "
                f"mdata[{name!r}], ...}})."
            )
        if hasattr(ModuleDict(), name):
            raise ValueError(
                f"Modality name {name!r} is that of an attribute of torch.nn.ModuleDict, which keeps "
                "the parts of a model by modality. Rename it: mdata = mudata.MuData({'new_name': "
                f"mdata[{name!r}], ...}})."
            )
        if isinstance(mdata.mod[name], MuData):
            raise TypeError(f"Modality {name!r} is a MuData itself: take its modalities out of it.")
        n_obs, n_vars = mdata.mod[name].shape
        if n_obs == 0 or n_vars == 0:
            raise ValueError(
                f"Modality {name!r} is empty ({n_obs} cells x {n_vars} features). Leave it out "
                "with `modalities`."
            )
    return names


def check_have_features(mdata: MuData, modalities: Sequence[str]) -> None:
    """Modalities have features, which one loses where those of another are chosen."""
    for name in modalities:
        if mdata.mod[name].n_obs and not mdata.mod[name].n_vars:
            raise ValueError(
                f"Modality {name!r} has {mdata.mod[name].n_obs} cells but no feature. If it was not "
                f"measured, leave it out: mudata.MuData({{m: mdata[m] for m in mdata.mod if m != {name!r}}}), "
                "and its obs anew."
            )


def check_names(mdata: MuData, modalities: Sequence[str]) -> None:
    """Cell and feature names are unique, and every cell has a modality."""
    for name in modalities:
        adata = mdata.mod[name]
        where = f"modality {name!r}"
        _check_unique(
            adata.obs_names,
            "cell",
            where,
            f"mdata[{name!r}].obs_names_make_unique(); mdata.update()",
        )
        check_features(mdata, name)
        made_anew = "mdata = mudata.MuData(dict(mdata.mod)), and its obs anew"
        _check_unique(mdata.obs_names, "cell", "the MuData", made_anew)
        strange = np.flatnonzero(~adata.obs_names.isin(mdata.obs_names))
        if len(strange):
            raise ValueError(
                f"{len(strange)} cells of modality {name!r} are not in mdata.obs_names: "
                f"{name_some(adata.obs_names, strange)}. The modality was changed after the MuData "
                "was made: call mdata.update()."
            )
    absent = np.flatnonzero(~presence(mdata, modalities).any(axis=1))
    if len(absent):
        raise ValueError(
            f"{len(absent)} cells are in none of the modalities {list(modalities)}: "
            f"{name_some(mdata.obs_names, absent)}. Drop them, "
            "mdata = mdata[mdata.obs_names.isin(...)].copy(), or add a modality that has them."
        )


def check_features(mdata: MuData, name: str) -> None:
    """Feature names of a modality are unique."""
    way_out = f"mdata[{name!r}].var_names_make_unique()"
    _check_unique(mdata.mod[name].var_names, "feature", f"modality {name!r}", way_out)


def _check_unique(names: pd.Index, kind: str, where: str, way_out: str) -> None:
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise ValueError(
            f"{len(twice)} {kind} names occur more than once in {where}: "
            f"{name_some(twice, np.arange(len(twice)))}. Make them unique: {way_out}."
        )


def check_obs_key(mdata: MuData, key: str, argument: str) -> pd.Series:
    """A column of ``mdata.obs``."""
    if key not in mdata.obs:
        inside = [name for name, adata in mdata.mod.items() if key in adata.obs]
        hint = ""
        if inside:
            hint = (
                f" It is in the obs of {inside}: bring it up with "
                f"mdata.obs[{key!r}] = mdata[{inside[0]!r}].obs[{key!r}].reindex(mdata.obs_names)"
                " (and fill cells that lack that modality)."
            )
        raise KeyError(
            f"`{argument}`: {key!r} is not in mdata.obs, which has {list(mdata.obs.columns)}.{hint}"
        )
    column = mdata.obs[key]
    if column.ndim > 1:
        raise ValueError(f"`{argument}`: mdata.obs has {column.shape[1]} columns named {key!r}.")
    return column


def check_complete(column: pd.Series, argument: str) -> None:
    """No missing entries."""
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise ValueError(
            f"`{argument}`: {column.name!r} is missing (NaN) in {len(missing)} cells: "
            f"{name_some(column.index, missing)}. Fill them or drop those cells."
        )


def place_of(layer: str | None) -> str:
    """Where a modality holds its values."""
    return "X" if layer is None else f"layers[{layer!r}]"


def check_numbers(matrix, modality: str, layer: str | None) -> None:
    """Numbers, not text."""
    if matrix.dtype.kind not in "biuf":
        place = f"mdata[{modality!r}].{place_of(layer)}"
        raise TypeError(
            f"Modality {modality!r}: {place_of(layer)} holds {matrix.dtype}, no numbers. Convert "
            f"it: {place} = {place}.astype('float32')."
        )


def check_values(found: Scan, names: pd.Index, field: ModalityField) -> None:
    """Values are finite and of the kind that the likelihood is made for."""
    modality, likelihood, support = field.modality, field.likelihood, field.support
    where = f"Modality {modality!r}"

    def stop(rows: np.ndarray, what: str, way_out: str) -> None:
        if len(rows):
            raise ValueError(
                f"{where}: {what} in {len(rows)} cells ({name_some(names, rows)}). {way_out}"
            )

    stop(
        found.nonfinite,
        "NaN or infinite values",
        "Set what was not measured to 0 and mark it in `panels` or `mask_layers`; fix or drop others.",
    )
    if support in ("count", "binary"):
        raw = (
            f"Register the raw counts, layers={{{modality!r}: 'counts'}}, or choose "
            f"likelihoods={{{modality!r}: 'gaussian'}} for normalised values. A query needs counts "
            f"where its reference had them: mdata[{modality!r}].{place_of(field.layer)}."
        )
        if support == "binary":
            raw = (
                "Binarise with mumask.pp.binarize(mdata, "
                f"{modality!r}), or choose likelihoods={{{modality!r}: 'poisson'}} for counts."
            )
            stop(found.not_binary, "values other than 0 and 1", raw)
        stop(found.negative, "negative values, but the likelihood is " + repr(likelihood), raw)
        stop(
            found.fractional,
            "values that are not whole numbers, but the likelihood is " + repr(likelihood),
            raw,
        )
        stop(
            found.zero_rows,
            "no non-zero value at all",
            f"Drop these cells from mdata[{modality!r}] (the modality then counts as missing for "
            "them, which is not the same as zero), for example with muon.pp.filter_obs, then mdata.update().",
        )
