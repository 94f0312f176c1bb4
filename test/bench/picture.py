"""A picture of the ratios to native, as SVG: one line per row, one mark per target, the gate."""

import math
from xml.sax.saxutils import escape

COLOURS = {"runc": "#2a9d8f", "runsc": "#9a6fb0", "sandbox": "#1d4e89"}
LEFT, WIDTH, RIGHT, LINE = 270, 560, 150, 20
LOW, HIGH = 0.5, 500.0


def x_of(ratio):
    ratio = min(max(ratio, LOW), HIGH)
    return LEFT + WIDTH * math.log(ratio / LOW) / math.log(HIGH / LOW)


def text(x, y, words, anchor="start", colour="#222", size=12):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
            f'text-anchor="{anchor}">{escape(words)}</text>')


def scale(height):
    parts = []
    for ratio in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500):
        x = x_of(ratio)
        colour = "#888" if ratio == 1 else "#e4e4e4"
        parts.append(f'<line x1="{x:.1f}" y1="60" x2="{x:.1f}" y2="{height - 20}" '
                     f'stroke="{colour}"/>')
        parts.append(text(x, 54, f"{ratio:g}×", "middle", "#666", 11))
    return parts


def row_marks(row, medians, y):
    """The marks of one row; `medians` by target."""
    native = medians.get("native")
    parts = [text(LEFT - 8, y + 4, row.title, "end")]
    gate = row.gate(native)
    if gate is not None:
        x = x_of(gate / native)
        parts.append(f'<line x1="{x:.1f}" y1="{y - 8}" x2="{x:.1f}" y2="{y + 8}" '
                     f'stroke="#c1121f" stroke-width="2"/>')
    for name in ("runc", "runsc", "sandbox"):
        if medians.get(name) is None:
            continue
        radius = 5 if name == "sandbox" else 4
        parts.append(f'<circle cx="{x_of(medians[name] / native):.1f}" cy="{y}" r="{radius}" '
                     f'fill="{COLOURS[name]}"/>')
    value = medians.get("sandbox")
    if value is not None:
        met = row.met(value, native)
        verdict = {True: "hit", False: "missed", None: ""}[met]
        colour = {True: "#2b7a0b", False: "#c1121f", None: "#666"}[met]
        parts.append(text(LEFT + WIDTH + 10, y + 4, f"{value / native:.2f}× {verdict}",
                          colour=colour))
    return parts


def draw(rows, medians, title):
    """Rows with a native figure only; `medians` maps key to target to median."""
    shown = [row for row in rows if medians.get(row.key, {}).get("native")]
    height = 80 + LINE * len(shown)
    width = LEFT + WIDTH + RIGHT
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             f'font-family="sans-serif">',
             f'<rect width="{width}" height="{height}" fill="white"/>',
             text(16, 24, title, size=15)]
    x = LEFT
    for name, colour in COLOURS.items():
        parts.append(f'<circle cx="{x}" cy="34" r="5" fill="{colour}"/>')
        parts.append(text(x + 9, 38, name))
        x += 80
    parts.append(f'<line x1="{x}" y1="27" x2="{x}" y2="41" stroke="#c1121f" stroke-width="2"/>')
    parts.append(text(x + 9, 38, "gate (left of it is good)"))
    parts += scale(height)
    for number, row in enumerate(shown):
        parts += row_marks(row, medians[row.key], 74 + LINE * number)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
