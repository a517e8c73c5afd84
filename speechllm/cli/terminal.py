"""A heat map of a redundancy table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from speechbrain_ext.layers.distances import RedundancyTable

SHADES = " .:-=+*#%@"
# Colours from alike to distant, as in the printed heat map (viridis).
COLOURS = (
    (68, 1, 84),
    (59, 82, 139),
    (33, 145, 140),
    (94, 201, 98),
    (253, 231, 37),
)
PATH = "o"


def heatmap_lines(
    table: RedundancyTable, colour: bool = False, width: int = 80
) -> list[str]:
    """The map of block sizes (up) against first layers (right)."""
    distances, layers = table.distances, table.num_layers
    cell = 2 if 6 + 2 * layers <= width else 1
    low, high = np.nanmin(distances), np.nanmax(distances)
    starts = {block.size: block.start for block in table.path()}
    lines = []
    for size in range(layers, 0, -1):
        cells = []
        for start in range(layers - size + 1):
            value = (distances[size - 1, start] - low) / max(high - low, 1e-12)
            chosen = starts.get(size) == start
            cells.append(_cell(float(value), chosen, colour, cell))
        lines.append(f"{size:4d} |" + "".join(cells))
    lines.append("     +" + "-" * (cell * layers))
    # Numbers of the first layers, as many as there is room for.
    step = -(-4 // cell)
    places = range(0, layers, step)
    lines.append("      " + "".join(f"{i:<{step * cell}d}" for i in places))
    lines.append(
        f"      first layer of the block; up: its size; {PATH}: the path"
    )
    words = "dark to bright" if colour else f"'{SHADES}'"
    lines.append(f"      angular distance {low:.3f} to {high:.3f}: {words}")
    return lines


def _cell(value, chosen, colour, width):
    """One cell: a coloured space or a shade, the path marked."""
    text = (PATH if chosen else " ") + " " * (width - 1)
    if not colour:
        shade = SHADES[min(int(value * len(SHADES)), len(SHADES) - 1)]
        return PATH + shade * (width - 1) if chosen else shade * width
    red, green, blue = colour_of(value)
    ink = 15 if value < 0.5 else 0
    return f"\x1b[48;2;{red};{green};{blue}m\x1b[38;5;{ink}m{text}\x1b[0m"


def colour_of(value):
    """Between the two nearest of the colours."""
    places = np.linspace(0, 1, len(COLOURS))
    several = (np.interp(value, places, part) for part in zip(*COLOURS))
    return tuple(round(float(one)) for one in several)
