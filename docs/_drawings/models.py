"""The two models, a query, and which cells to score."""

from __future__ import annotations

from shapes import ATAC, DARK, INK, LINE, PROTEIN, RNA, SOFT, TYPES
from shapes import absent, arrow, block, box, drawing, lines, ring, trapezium, write

MODALITIES = (("RNA", RNA), ("protein", PROTEIN), ("ATAC", ATAC))


def masked_vae():
    parts = []
    for i, (name, color) in enumerate(MODALITIES):
        y = 92 + i * 56
        parts.append(write(60, y + 24, name, 12, color, "end", bold=True))
        whole = i < 2
        parts.append(block(70, y, 22, 40, color) if whole else absent(70, y, 22, 40))
        shown = i == 0
        parts.append(block(132, y, 22, 40, color) if shown else absent(132, y, 22, 40))
        parts.append(box(186, y + 4, 58, 32, ["W₁"], fill=color, color="#fff"))
        if shown:
            parts.append(arrow((154, y + 20), (182, y + 20)))
        parts.append(arrow((94, y + 20), (128, y + 20), dashed=not whole))
        parts.append(arrow((246, y + 20), (286, 160 + i * 12), dashed=not shown))
        parts.append(arrow((668, 160 + i * 12), (704, y + 20)))
        parts.append(box(708, y + 4, 58, 32, ["W out"], fill=color, color="#fff"))
        parts.append(arrow((768, y + 20), (796, y + 20)))
        parts.append(block(800, y, 22, 40, color, opacity=0.55))
        parts.append(arrow((824, y + 20), (852, y + 20), dashed=not whole))
        parts.append(block(856, y, 22, 40, color) if whole else absent(856, y, 22, 40))
    parts += [
        write(81, 74, "x", 14, INK, italic=True),
        lines(143, 60, ["input", "mask"], 12, 14),
        lines(811, 60, ["decoded"], 12, 14),
        lines(867, 60, ["output", "mask"], 12, 14),
        write(926, 173, "loss", 13, INK, bold=True),
        arrow((882, 168), (906, 168)),
        arrow((882, 112), (926, 112), (926, 156)),
        ring(302, 172, 13, "Σ", italic=False),
        arrow((317, 172), (340, 172)),
        trapezium(344, 122, 74, 100, "encoder"),
        arrow((422, 172), (446, 172)),
        box(450, 146, 54, 52, ["μ", "σ²"], size=14),
        arrow((506, 172), (526, 172)),
        ring(546, 172, 18, "z"),
        arrow((566, 172), (586, 172)),
        trapezium(590, 122, 74, 100, "decoder", "left"),
        # covariates
        box(318, 292, 122, 34, ["covariates → E"]),
        arrow((442, 309), (477, 309), (477, 300), dashed=True),
        arrow((477, 202), (477, 262)),
        ring(477, 280, 17, "±", italic=False),
        arrow((496, 280), (540, 280)),
        box(544, 262, 92, 36, ["Z₂ = μ ± E"]),
        arrow((638, 280), (662, 280)),
        box(666, 262, 92, 36, ["classifier"]),
        arrow((590, 300), (590, 324)),
        box(536, 328, 108, 34, ["cluster prior"]),
        arrow((712, 300), (712, 345), (648, 345)),
        arrow((379, 290), (379, 226), dashed=True),
        arrow((442, 318), (520, 318), (520, 244), (627, 244), (627, 226), dashed=True),
    ]
    for number, x, y in (
        ("1", 143, 268), ("2", 381, 110), ("3", 477, 138), ("4", 546, 142), ("5", 627, 110),
        ("6", 867, 268),
    ):  # fmt: skip
        parts.append(write(x, y, f"step {number}", 11, SOFT))
    parts.append(lines(454, 270, ["clustering,", "steps 3, 4"], 11, 13, anchor="end"))
    parts.append(write(764, 284, "clustering, step 5", 11, SOFT, "start"))
    return drawing(
        960, 406, "MaskedVAE", "Values pass the input mask, the first layer of their modality, a "
        "shared encoder, the latent space, a shared decoder, the last layer of each modality and "
        "the output mask.", *parts,
        write(30, 28, "MaskedVAE: one cell with RNA and protein, encoded from RNA alone", 14, INK,
              "start", bold=True),
        write(30, 392, "dashed: absent or hidden in this step, or used only if the arguments say so "
              "(arithmetic, condition_encoder, condition_decoder)", 12, SOFT, "start"),
    )  # fmt: skip


def tokens(x, y, states, color, size=14):
    """A row of tokens: 1 visible, 0 hidden, 2 predicted."""
    parts = []
    for i, state in enumerate(states):
        left = x + i * (size + 3)
        if state == 0:
            parts.append(absent(left, y, size, size, rx=2))
        else:
            parts.append(block(left, y, size, size, color, hatched=state == 2, rx=2))
    return "".join(parts)


def cross_attention_mae():
    parts = []
    rows = ((96, "RNA", RNA, [1, 0, 1, 1, 0, 1]), (206, "protein", PROTEIN, [1, 1, 0, 1]))
    for y, name, color, states in rows:
        parts.append(write(76, y + 12, name, 12, color, "end", bold=True))
        parts.append(tokens(86, y, states, color))
        parts.append(arrow((90 + 17 * len(states), y + 7), (218, y + 7)))
        parts.append(trapezium(222, y - 26, 76, 66, "encoder"))
        parts.append(write(334, y + 12, "E", 14, INK, italic=True))
        parts.append(arrow((302, y + 7), (316, y + 7)))
        parts.append(arrow((354, y + 7), (440, y + 7)))
        parts.append(box(444, y - 16, 116, 46, ["cross-attention", "C"]))
        parts.append(arrow((562, y + 7), (588, y + 7)))
        parts.append(ring(604, y + 7, 13, "+", italic=False))
        parts.append(arrow((619, y + 7), (642, y + 7)))
        parts.append(box(646, y - 10, 72, 34, ["mean, W"]))
        parts.append(arrow((720, y + 7), (746, y + 7)))
        parts.append(block(750, y - 28, 20, 70, color))
        side = -1 if name == "RNA" else 1
        edge = y + 7 + side * 44
        parts.append(arrow((366, y + 7), (366, edge), (604, edge), (604, y + 7 + side * 16)))
        parts.append(write(545, edge + (-5 if side < 0 else 14), "I: what is distinctive", 11))
        parts.append(write(402, y + 7 + (-6 if side < 0 else 15), "queries", 11))
    parts += [
        # each modality is looked up by the other one
        arrow((366, 103), (466, 187)),
        arrow((366, 213), (466, 129)),
        lines(476, 155, ["keys and values", "for the other one"], 11, 14, anchor="start"),
        write(760, 158 + 4, "z", 16, INK, italic=True),
        arrow((776, 158), (792, 158), (792, 103), (812, 103)),
        arrow((776, 158), (792, 158), (792, 213), (812, 213)),
        box(816, 60, 164, 86),
        lines(898, 84, ["stage 1: decoders", "predict hidden tokens"], 12, 17, color=INK),
        tokens(854, 118, [0, 2, 0, 0, 2, 0], RNA, 12),
        box(816, 170, 164, 86),
        lines(898, 194, ["stages 2, 3: a head", "tells cell types, u"], 12, 17, color=INK),
    ]
    for i, color in enumerate(TYPES):
        parts.append(block(853 + i * 24, 230, 18, 10, color, rx=2))
    parts += [
        box(
            214,
            292,
            216,
            40,
            ["a cell without protein: queries are", "a learned projection of RNA tokens"],
            size=11,
        ),
        arrow((432, 312), (462, 312), (462, 240), dashed=True),
    ]
    return drawing(
        1000, 372, "CrossAttentionMAE", "Visible tokens of each modality are encoded, attend to the "
        "tokens of the others, keep their own part by a residual and are pooled to an embedding.",
        *parts,
        write(30, 28, "CrossAttentionMAE: a cell with RNA and protein", 14, INK, "start", bold=True),
        write(30, 358, "a token is a group of features; dashed tokens are hidden from the encoder, "
              "hatched ones predicted", 12, SOFT, "start"),
    )  # fmt: skip


def query():
    parts = []
    parts += [
        write(150, 28, "reference, once", 14, INK, bold=True),
        block(40, 60, 70, 60, RNA), block(116, 60, 30, 60, PROTEIN),
        *[block(154, 60 + i * 12, 14, 10, TYPES[k], rx=2) for i, k in enumerate((0, 1, 2, 0, 3))],
        arrow((178, 90), (212, 90)),
        box(216, 66, 84, 48, ["train()"], fill=DARK, color="#fff"),
        write(258, 134, "save(): one file", 12), write(258, 150, "no data in it", 12),
        arrow((304, 90), (352, 90)),
        write(560, 28, "query, whenever it comes", 14, INK, bold=True),
        block(370, 190, 70, 46, RNA), absent(446, 190, 30, 46), absent(484, 190, 14, 46),
        write(435, 256, "fewer modalities, other order,", 12),
        write(435, 272, "new batches, no labels", 12),
        arrow((436, 186), (436, 132)),
        box(356, 62, 192, 66, ["load_query_data()", "reference weights: frozen", "new batches: one vector each"], size=11.5),
        arrow((550, 84), (592, 84)),
        box(596, 58, 188, 46, ["use it at once", "new batches = average batch"], size=11.5),
        arrow((550, 108), (574, 108), (574, 150), (592, 150)),
        box(596, 126, 188, 46, ["train(): fits only", "the new vectors"], size=11.5),
        box(816, 58, 132, 114),
        lines(882, 88, ["latent space", "labels, novelty", "imputed modalities", "imputed features"],
              11.5, 20, color=INK),
        arrow((786, 81), (812, 81)), arrow((786, 149), (812, 149)),
        lines(690, 208, ["cells of the reference keep", "their numbers, bit by bit"], 12),
    ]  # fmt: skip
    return drawing(
        960, 292, "Query mapping", "A query is mapped onto a trained reference whose weights stay "
        "frozen.", *parts,
    )  # fmt: skip


def scoring():
    """Cells of which a supervised score may be told."""
    parts, x = [], 150
    for width, name, shade, note in (
        (150, "labels shown", LINE, "in the loss"),
        (110, "set aside", "#6f8096", "calibrates, chooses"),
        (280, "never shown", ATAC, "scored"),
    ):
        parts.append(block(x, 58, width - 4, 40, shade))
        parts.append(write(x + width / 2 - 2, 83, name, 12, "#fff" if shade != LINE else INK))
        parts.append(write(x + width / 2 - 2, 118, note, 12))
        x += width
    return drawing(
        720, 140, "Which cells to score", "Only labels that the model has never seen are scored.",
        write(136, 83, "labelled cells", 12, INK, "end"), *parts,
        write(20, 30, "Score a supervised model only on cells whose labels nothing has seen", 14, INK,
              "start", bold=True),
    )  # fmt: skip


DRAWINGS = {
    "masked_vae": masked_vae,
    "cross_attention_mae": cross_attention_mae,
    "query_mapping": query,
    "scoring": scoring,
}
