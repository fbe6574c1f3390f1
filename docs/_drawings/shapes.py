"""Shapes that the drawings of the guides share: SVG in, nothing but text out."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

INK, SOFT, LINE, PALE = "#2b333d", "#66707c", "#c4cad2", "#f7f8fa"
RNA, PROTEIN, ATAC, DARK = "#3f6fb5", "#df8437", "#479a6c", "#56606d"
TYPES = ("#7a5195", "#2a9d8f", "#ef5675", "#e9b44c")
FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
DEFS = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0L8 4L0 8z" fill="#66707c"/></marker>'
    '<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><path d="M0 0V5" stroke="#fff" stroke-width="2.6" '
    'opacity=".62"/></pattern></defs>'
)


def drawing(width: int, height: int, title: str, text: str, *parts: str) -> str:
    """A whole SVG file; `text` describes it to those who cannot see it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-labelledby="t d" '
            f'font-family="{FONT}">',
            f'<title id="t">{escape(title)}</title>',
            f'<desc id="d">{escape(text)}</desc>',
            DEFS,
            f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def write(x, y, text, size=12, color=SOFT, anchor="middle", bold=False, italic=False) -> str:
    """One line of text."""
    style = ' font-weight="bold"' * bold + ' font-style="italic"' * italic
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{color}" '
        f'text-anchor="{anchor}"{style}>{escape(text)}</text>'
    )


def lines(x, y, texts: Sequence[str], size=12, step=16, **style) -> str:
    """Several lines of text."""
    return "\n".join(write(x, y + i * step, text, size, **style) for i, text in enumerate(texts))


def block(x, y, width, height, color, hatched=False, rx=3, opacity=None) -> str:
    """Values; hatched where they are filled in."""
    see = f' opacity="{opacity}"' if opacity is not None else ""
    shape = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{rx:g}"'
    parts = [f'<rect {shape} fill="{color}"{see}/>']
    if hatched:
        parts.append(f'<rect {shape} fill="url(#hatch)"/>')
    return "".join(parts)


def absent(x, y, width, height, rx=3) -> str:
    """A place where nothing was measured."""
    return (
        f'<rect x="{x + 0.5:g}" y="{y + 0.5:g}" width="{width - 1:g}" height="{height - 1:g}" '
        f'rx="{rx:g}" fill="none" stroke="{LINE}" stroke-dasharray="3 3"/>'
    )


def box(x, y, width, height, texts: Sequence[str] = (), fill=PALE, color=INK, size=12) -> str:
    """A part of a model, with its name in the middle."""
    edge = "#e3e6eb" if fill == PALE else fill
    first = y + height / 2 + size * 0.35 - (len(texts) - 1) * size * 0.65
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" fill="{fill}" '
        f'stroke="{edge}"/>' + lines(x + width / 2, first, texts, size, size * 1.3, color=color)
    )


def trapezium(x, y, width, height, text, narrow="right", color=DARK) -> str:
    """An encoder (narrow on the right) or a decoder (narrow on the left)."""
    cut = height * 0.24
    left, right = (0, cut) if narrow == "right" else (cut, 0)
    points = (
        f"{x:g},{y + left:g} {x:g},{y + height - left:g} "
        f"{x + width:g},{y + height - right:g} {x + width:g},{y + right:g}"
    )
    return (
        f'<polygon points="{points}" fill="{color}" stroke="{color}" stroke-width="4" '
        'stroke-linejoin="round"/>' + write(x + width / 2, y + height / 2 + 4, text, 12, "#ffffff")
    )


def arrow(*points: tuple[float, float], dashed=False) -> str:
    """A line through points, with a tip at its end."""
    path = "L".join(f"{x:g} {y:g}" for x, y in points)
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<path d="M{path}" stroke="{SOFT}" stroke-width="1.8" fill="none" '
        f'marker-end="url(#tip)"{dash}/>'
    )


def ring(x, y, radius, text, italic=True) -> str:
    """A variable in a circle."""
    return (
        f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="#fff" stroke="{INK}" stroke-width="2"/>'
        + write(x, y + radius * 0.32, text, radius, INK, italic=italic)
    )


def cells(x, y, mask: Sequence[Sequence[int]], colors: Sequence[str], size=12, gap=3) -> str:
    """A matrix of squares: 1 full, 2 full and ringed, 0 empty; a colour for each column."""
    parts = []
    for i, row in enumerate(mask):
        for j, (value, color) in enumerate(zip(row, colors, strict=True)):
            at = (x + j * (size + gap), y + i * (size + gap), size, size)
            if not value:
                left, top = at[0] + 0.5, at[1] + 0.5
                parts.append(
                    f'<rect x="{left:g}" y="{top:g}" width="{size - 1}" height="{size - 1}" '
                    f'rx="2" fill="#fff" stroke="{LINE}"/>'
                )
                continue
            parts.append(block(*at, color, rx=2))
            if value == 2:
                parts.append(
                    f'<rect x="{at[0] - 1:g}" y="{at[1] - 1:g}" width="{size + 2}" '
                    f'height="{size + 2}" rx="3" fill="none" stroke="{INK}" stroke-width="1.8"/>'
                )
    return "".join(parts)


def dots(x, y, kinds: Sequence[tuple[float, float, str]], radius=3.2) -> str:
    """Cells in a plane: position relative to (x, y), and colour."""
    return "".join(
        f'<circle cx="{x + dx:g}" cy="{y + dy:g}" r="{radius:g}" fill="{color}"/>'
        for dx, dy, color in kinds
    )
