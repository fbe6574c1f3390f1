"""The page says what was recorded: medians, ranges, what was cut and what failed."""

import json

import pandas as pd
import pytest
from benchmarks import report
from benchmarks.in_brief import brief_section
from benchmarks.studies.gpu_tables import gpu_section
from benchmarks.studies.papers import DEFAULT, PRESET, papers_section
from benchmarks.studies.scale_tables import out_of_core_section, scale_section
from benchmarks.studies.tables import ablation_section, quality_section, speed_section
from benchmarks.tasks import TASKS


@pytest.fixture
def page(records, tmp_path):
    lines = tmp_path / "runs.jsonl"
    lines.write_text("\n".join(json.dumps(record) for record in records))
    out = tmp_path / "docs" / "benchmarks.md"
    report.write([lines], out, tmp_path / "docs" / "_static")
    return out


def test_medians_and_ranges(page):
    row = next(line for line in page.read_text().splitlines() if line.startswith("| MaskedVAE"))
    assert "**0.800** (0.700–0.900)" in row
    assert "| 3 | 20 | 10 | 100 |" in row


def test_what_was_cut_and_what_failed(page):
    text = page.read_text()
    assert "totalVI on T1 (to 3)" in text
    assert "| totalVI, cut to 3 epochs |" in text
    assert "MIDAS (scmidas) could not run: `ValueError: no such batch`" in text


def test_a_circular_reference_wins_nothing(page):
    row = next(line for line in page.read_text().splitlines() if line.startswith("| WNN"))
    assert "**0.950**" not in row and "0.950" in row
    assert "WNN: circular" in page.read_text()


def test_in_brief_counts_scores_that_are_ahead_of_all_rivals():
    rows = [
        {"method": "MaskedVAE", "group": "ours", "notes": [], "foscttm": 0.1, "rna_mSCC": 0.5},
        {"method": "MULTIVI", "group": "peer", "notes": [], "foscttm": 0.2, "rna_mSCC": 0.4},
        {"method": "kNN", "group": "baseline", "notes": [], "rna_mSCC": 0.5},
        {"method": "WNN", "group": "peer", "notes": ["circular: given"], "foscttm": 0.0},
    ]
    table = pd.DataFrame(rows, columns=["method", "group", "notes", *TASKS["T4b"].columns])
    (text,) = brief_section({"T4b": table})
    # Less is better in FOSCTTM; as good as a rival is not ahead; what nobody else has is no contest.
    assert "| T4b | MaskedVAE | 1 of 2 | RNA mSCC 0.500, kNN 0.500 |" in text
    assert brief_section({"T4b": table[:1]}) == []


def test_less_is_better_in_some_scores():
    common = {"software": "", "seeds": 1, "epochs": 1, "seconds": 1.0, "peak_mib": 1.0}
    rows = [
        {"method": name, "group": group, "notes": [], "foscttm": value, **common}
        for name, group, value in (
            ("MaskedVAE", "ours", 0.25),
            ("MULTIVI", "peer", 0.2),
            ("kNN", "baseline", 0.3),
        )
    ]
    columns = TASKS["T4b"].columns
    table = pd.DataFrame(rows).reindex(columns=[*rows[0], *(c for c in columns if c != "foscttm")])
    for name in columns:
        table[f"{name} range"] = [(value, value) for value in table[name]]
    (text,) = brief_section({"T4b": table})
    assert "| 0 of 1 | FOSCTTM 0.250, MULTIVI 0.200 |" in text
    lines = report.markdown(table, TASKS["T4b"])
    assert [line for line in lines if "**" in line] == [
        line for line in lines if "| MULTIVI |" in line and "**0.200**" in line
    ]
    assert sum("**" in line for line in lines) == 1


def test_the_figure_is_there_and_always_the_same(page, records, tmp_path):
    figure = page.parent / "_static" / "T1.svg"
    assert f"]({figure.relative_to(page.parent).as_posix()})" in page.read_text()
    first = figure.read_bytes()
    assert len(first) < 200_000
    report.write([tmp_path / "runs.jsonl"], page, figure.parent)
    assert figure.read_bytes() == first


def test_ablations_show_the_change():
    common = {"study": "vae", "task": "T2", "seconds": 1.0, "seed": 0}
    records = [
        {**common, "variant": "default", "scores": {"ari": 0.8}},
        {**common, "variant": "standard prior", "scores": {"ari": 0.7}},
    ]
    (text,) = ablation_section(records)
    assert "| standard prior | 0.700 (-0.100) |" in text


def test_speed_is_a_ratio():
    best = {"MaskedVAE": {"train_cells_per_s": 900.0}, "totalVI": {"train_cells_per_s": 300.0}}
    record = {
        "comparison": "totalVI",
        "task": "T1",
        "cells": 10,
        "ours": "MaskedVAE",
        "other": "totalVI",
        "best": best,
        "median": best,
        "batch_size": 128,
        "repeats": 2,
        "machine": {"threads": 1},
    }
    (text,) = speed_section([record])
    assert "| 900 | 300 | **3.0** | 3.0 |  |" in text
    slower = {**best, "MaskedVAE": {"train_cells_per_s": 750.0}}
    (text,) = speed_section([{**record, "best": slower}, record])
    assert "| 900 | 300 | **3.0** | 3.0 | 2.5–2.5 |" in text


def test_a_later_measurement_on_a_gpu_replaces_an_earlier_one():
    run = {"method": "MaskedVAE", "task": "T1", "precision": "bf16-mixed", "device": "card"}
    rate = {"batch_size": 128, "latent_cells_per_s": 9000.0, "utilisation": None, "memory_mib": 5.0}
    first, second = ({**run, **rate, "train_cells_per_s": value} for value in (10.0, 2000.0))
    scored = {**run, "scores": dict.fromkeys(("ari", "nmi", "knn_acc"), 0.5)}
    scored["scores"]["silhouette"] = 0.75
    (text,) = gpu_section([first, second], [scored])
    assert "| MaskedVAE | T1 | 128 | bf16 | 2,000 | 9,000 |  | 5 |" in text and "| 10 |" not in text
    assert "| MaskedVAE | T1 | bf16 | 0.500 | 0.500 | 0.750 | 0.500 |" in text
    other = {**scored, "settings": {"model": {"n_latent": 5}}}
    (text,) = gpu_section([], [scored, other])
    assert "cells per step" not in text
    assert "| MaskedVAE |" in text and "| MaskedVAE, n_latent=5 |" in text
    assert gpu_section([], []) == []


def test_scale_shows_a_size_that_did_not_fit():
    good = {"cells": 10, "seconds_per_epoch": 2.0, "peak_mib": 5.0, "input_mib": 1.0}
    (text,) = scale_section([good, {"cells": 99, "error": "status -9"}], "scale.svg")
    assert "| 10 | 2 | 5 | 5 | 1 |" in text and "| 99 | `status -9` |" in text


def test_reported_figures_stand_beside_medians():
    def run(method, task, **scores):
        return {"method": method, "task": task, "scores": scores}

    preset = [run(PRESET, "T3", accuracy=value, mSCC=0.5, mPCC=0.6) for value in (0.7, 0.8, 0.9)]
    assert papers_section([]) == []
    others = [run("CrossAttentionMAE", "T1", ari=0.9, nmi=0.8), run("totalVI", "T1", ari=0.6)]
    (text,) = papers_section([*preset, run(DEFAULT, "T3", accuracy=0.85), *others])
    (row,) = (line for line in text.splitlines() if "| 0.947 |" in line)
    assert "| accuracy | 0.947 | T3 | 0.800 | 0.850 |" in row
    assert "+50% ARI and (not measured) NMI" in text


def test_the_shortest_training_that_is_as_good_as_a_peer():
    def run(method, nmi, seconds, epochs, **settings):
        common = {"task": "T1", "epochs": epochs, "seconds": seconds, "settings": settings}
        return {**common, "method": method, "scores": {"nmi": nmi}}

    runs = [run("totalVI", 0.8, 1000.0, 330), run("MaskedVAE", 0.9, 50.0, 45)]
    cut = [run("MaskedVAE", nmi, 2.0 * n, n, max_epochs=n) for n, nmi in ((5, 0.7), (10, 0.85))]
    (text,) = quality_section(runs, cut)
    assert "| T1 | totalVI | 0.800 | 1000 | 10 | 0.850 | 20.0 | **50** |" in text
    assert quality_section([], cut) == []


def test_files_stand_beside_memory():
    common = {"cells": 1000, "register_s": 2.0, "peak_GiB": 1.5}
    records = [
        {**common, "source": "h5mu", "cells_per_s": 700},
        {**common, "source": "memory", "cells_per_s": 1000},
    ]
    (text,) = out_of_core_section(records)
    assert "| 1,000 | h5mu | 1.50 | 700 | 70% | 2 |" in text
