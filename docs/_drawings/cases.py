"""One drawing for each kind of data, for "Which model for which data"."""

from __future__ import annotations

from shapes import ATAC, INK, PROTEIN, RNA, SOFT, TYPES
from shapes import absent, arrow, block, dots, drawing, write

LEFT, TOP = 92, 40  # of the first block
WIDTHS = {"RNA": 84, "protein": 38, "ATAC": 74}
COLORS = {"RNA": RNA, "protein": PROTEIN, "ATAC": ATAC}


def columns(names):
    """Left edges of modalities, and their names on top."""
    edges, x = {}, LEFT
    for name in names:
        edges[name], x = x, x + WIDTHS[name] + 6
    heads = [write(edges[n] + WIDTHS[n] / 2, TOP - 12, n, 12, COLORS[n], bold=True) for n in names]
    return edges, heads


def rows(edges, batches):
    """Blocks of batches: name, height, what was measured."""
    parts, y = [], TOP
    for name, height, has in batches:
        parts.append(write(LEFT - 10, y + height / 2 + 4, name, 12, INK, "end"))
        for modality, x in edges.items():
            place = (x, y, WIDTHS[modality], height)
            parts.append(block(*place, COLORS[modality]) if modality in has else absent(*place))
        y += height + 6
    return parts, y


def labels(x, y, height, known=True):
    """A column of cell types."""
    if not known:
        return absent(x, y, 14, height) + write(x + 7, y + height / 2 + 4, "?")
    step = height / 5
    return "".join(
        block(x, y + i * step, 14, step - 2, TYPES[k], rx=2) for i, k in enumerate((0, 1, 2, 0, 3))
    )


def paired():
    edges, heads = columns(["RNA", "protein"])
    parts, _ = rows(edges, [("CITE-seq", 110, ("RNA", "protein"))])
    return drawing(
        320, 190, "Paired data", "Every cell has RNA and protein.", *heads, *parts,
        write(160, 178, "every cell has every modality", 12),
    )  # fmt: skip


def mosaic():
    edges, heads = columns(["RNA", "protein", "ATAC"])
    parts, _ = rows(
        edges,
        [
            ("CITE-seq", 38, ("RNA", "protein")),
            ("ASAP-seq", 38, ("protein", "ATAC")),
            ("RNA only", 28, ("RNA",)),
        ],
    )
    return drawing(
        320, 190, "Mosaic data", "Three batches, each with other modalities.", *heads, *parts,
        write(160, 178, "batches lack whole modalities", 12),
    )  # fmt: skip


def panels():
    parts, y = [write(200, TOP - 12, "RNA: genes", 12, RNA, bold=True)], TOP
    for name, spans in (
        ("whole", [(0, 216)]),
        ("panel A", [(0, 70), (120, 150)]),
        ("panel B", [(40, 150)]),
    ):
        height = 34
        parts.append(write(LEFT - 10, y + height / 2 + 4, name, 12, INK, "end"))
        parts.append(absent(LEFT, y, 216, height))
        parts += [block(LEFT + a, y, b - a, height, RNA) for a, b in spans]
        y += height + 6
    return drawing(
        320, 190, "Panels", "Three batches that measured different genes.", *parts,
        write(160, 178, "batches measured other features", 12),
    )  # fmt: skip


def query():
    edges, heads = columns(["RNA", "protein"])
    x = edges["protein"] + WIDTHS["protein"] + 8
    parts = [write(LEFT - 10, TOP + 28, "reference", 12, INK, "end")]
    parts += [block(edges[m], TOP, WIDTHS[m], 48, COLORS[m]) for m in edges]
    parts.append(labels(x, TOP, 48))
    y = TOP + 74
    parts.append(arrow((LEFT + 60, y - 4), (LEFT + 60, TOP + 52)))
    parts.append(write(LEFT + 70, y - 8, "map", 11.5, SOFT, "start"))
    parts.append(write(LEFT - 10, y + 24, "query", 12, INK, "end"))
    parts += [block(edges["RNA"], y, WIDTHS["RNA"], 38, RNA)]
    parts += [block(edges["protein"], y, WIDTHS["protein"], 38, PROTEIN, hatched=True)]
    parts.append(labels(x, y, 38, known=False))
    parts.append(write(x + 22, TOP + 28, "labels", 12, SOFT, "start"))
    return drawing(
        320, 190, "Query", "An RNA query is mapped onto a labelled CITE-seq reference.", *heads, *parts,
        write(160, 178, "new cells, a model that is trained already", 12),
    )  # fmt: skip


def spatial():
    parts = [write(200, TOP - 12, "genes", 12, RNA, bold=True)]
    parts.append(write(LEFT - 10, TOP + 26, "scRNA-seq", 12, INK, "end"))
    parts.append(block(LEFT, TOP, 216, 44, RNA))
    y = TOP + 54
    parts.append(write(LEFT - 10, y + 28, "spatial", 12, INK, "end"))
    parts.append(block(LEFT, y, 52, 48, RNA))
    parts.append(block(LEFT + 54, y, 90, 48, RNA, hatched=True))
    places = [(6, 8), (18, 4), (30, 10), (44, 6), (56, 12), (10, 22), (24, 20), (38, 26), (52, 24),
              (4, 38), (16, 36), (31, 40), (46, 38), (58, 36)]  # fmt: skip
    kinds = [(px, py, TYPES[(px + py) // 24 % 3]) for px, py in places]
    parts.append(dots(LEFT + 152, y, kinds))
    parts.append(write(LEFT + 182, y + 62, "x, y", 11.5))
    parts.append(write(LEFT + 99, y + 62, "imputed", 11.5))
    parts.append(write(LEFT + 26, y + 62, "measured", 11.5))
    return drawing(
        320, 190, "Spatial data", "A spatial assay measured few of the genes of scRNA-seq.", *parts,
        write(160, 178, "few genes with places, many without", 12),
    )  # fmt: skip


DRAWINGS = {
    "case_paired": paired,
    "case_mosaic": mosaic,
    "case_panels": panels,
    "case_query": query,
    "case_spatial": spatial,
}
