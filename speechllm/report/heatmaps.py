"""Heat maps of the angular distance of blocks (the paper's Figure 1)."""

import itertools
import json
import math
from pathlib import Path

import numpy as np

from speechllm.report.drawing import FULL_WIDTH, figure

# Inches; one map alone would fill a page.
LARGEST_PANEL = 3.6
# Bytes; a table of 100 layers takes half of it. Other JSON, such as the
# lists of utterances that lie about in a run's folder, can be huge.
LARGEST_TABLE = 2_000_000


def read_tables(folder):
    """Find the redundancy tables below a folder."""
    found = {}
    for path in sorted(Path(folder).rglob("*.json")):
        if path.stat().st_size > LARGEST_TABLE:
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            # Broken results are the business of `load_runs`.
            continue
        if isinstance(content, dict) and {"distances", "path"} <= set(content):
            key = json.dumps(
                [content["distances"], content.get("provenance")],
                sort_keys=True,
            )
            found.setdefault(key, content)
    return sorted(found.values(), key=_table_order)


def _table_order(table):
    origin = table.get("provenance") or {}
    text = origin.get("input") == "text"
    return str(origin.get("model")), str(origin.get("task")), not text


def draw_heatmaps(tables, path, width=FULL_WIDTH):
    """Draw redundancy tables side by side on one scale."""
    if not tables:
        raise ValueError("no redundancy table to draw: run measure.py first")
    across = max(1, min(len(tables), int(width // 2.3), 2))
    down = math.ceil(len(tables) / across)
    maps = [_distances(table) for table in tables]
    low = min(np.nanmin(one) for one in maps)
    high = max(np.nanmax(one) for one in maps)
    lines = compare_inputs(tables)
    # A caption as wide as the picture: a narrow one takes a line per part.
    parts = [line.split(", ") if width < 5 else [line] for line in lines]
    caption = list(itertools.chain.from_iterable(parts))
    panel = min((width - 0.6) / across, LARGEST_PANEL)
    width = across * panel + 0.6
    height = down * (0.92 * panel + 0.15) + 0.16 * len(caption) + 0.1
    with figure(path, (width, height)) as drawn:
        grid = drawn.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(tables) :]:
            axes.set_visible(False)
        image = None
        titles = _titles(tables)
        for axes, table, one, title in zip(grid.flat, tables, maps, titles):
            image = draw_map(axes, one, low, high)
            draw_path(axes, table["path"])
            axes.set_title(title)
        bar = drawn.colorbar(image, ax=grid, shrink=0.85, aspect=30)
        bar.set_label("Angular distance")
        bar.outline.set_visible(False)
        grid.flat[0].legend(loc="upper right", handlelength=1.5)
        drawn.supxlabel("\n".join(caption), fontsize=7)
    return lines


def _distances(table):
    """``[L, L]`` in float64; null, where there is no such block, is NaN."""
    return np.array(table["distances"], dtype=np.float64)


def draw_map(axes, distances, low, high, ticks=7):
    """One map of block size against first layer."""
    layers = len(distances)
    # Row n - 1 is block size n: the extent puts n at its own height.
    image = axes.imshow(
        distances,
        origin="lower",
        extent=(-0.5, layers - 0.5, 0.5, layers + 0.5),
        vmin=low,
        vmax=high,
        cmap="viridis",
        aspect="equal",
    )
    # Few numbers, as more would touch at column width.
    step = math.ceil(layers / ticks)
    axes.set_xticks(range(0, layers, step))
    axes.set_yticks(range(1, layers + 1, step))
    axes.set_xlabel("First layer of the block")
    axes.set_ylabel("Layers in the block")
    return image


def draw_path(axes, path, size=3):
    """The pruning path, over a map."""
    from matplotlib.patheffects import Normal, Stroke

    starts = [start for start, _ in path]
    sizes = [size for _, size in path]
    axes.plot(
        starts,
        sizes,
        color="white",
        linewidth=1.2,
        marker="o",
        markersize=size,
        markeredgecolor="black",
        markeredgewidth=0.5,
        # The dark rim is seen where the map, or the page, is light.
        path_effects=[Stroke(linewidth=2.4, foreground="black"), Normal()],
        label="pruning path",
    )


def _titles(tables):
    """Model, input and task of each; the run too where these are the same."""
    titles = []
    for table in tables:
        origin = table.get("provenance") or {}
        model = str(origin.get("model") or "decoder").rstrip("/").split("/")[-1]
        what = [model, origin.get("input"), origin.get("task")]
        titles.append(", ".join(str(part) for part in what if part))
    runs = [(one.get("provenance") or {}).get("run") for one in tables]
    titles = [
        f"{title}, {run}" if run and titles.count(title) > 1 else title
        for title, run in zip(titles, runs)
    ]
    if len(titles) == 1:
        return titles
    letters = map(chr, itertools.count(ord("a")))
    return [f"({letter}) {title}" for letter, title in zip(letters, titles)]


def compare_inputs(tables):
    """How far the maps of text and of speech are apart, model by model."""
    lines = []
    for places in itertools.combinations(range(len(tables)), 2):
        one, other = (tables[place] for place in places)
        origins = [table.get("provenance") or {} for table in (one, other)]
        inputs = {origin.get("input") for origin in origins}
        same = origins[0].get("model") == origins[1].get("model")
        if inputs != {"text", "speech"} or not same:
            continue
        maps = _distances(one), _distances(other)
        if maps[0].shape != maps[1].shape:
            continue
        gap = np.nanmean(np.abs(maps[0] - maps[1]))
        agree = sum(a == b for a, b in zip(one["path"], other["path"]))
        letters = [chr(ord("a") + place) for place in places]
        lines.append(
            f"({letters[0]}) against ({letters[1]}): mean difference "
            f"{gap:.4f}, the same block at {agree} of {len(one['path'])} sizes"
        )
    return lines
