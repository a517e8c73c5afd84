"""Figure 1: four heat maps of the angular distance, on one scale."""

import numpy as np

from speechllm.report.claims.maps import distances, measured
from speechllm.report.drawing import COLUMN_WIDTH, figure
from speechllm.report.heatmaps import draw_map, draw_path
from speechllm.report.summary import system


def four_maps(cells, tables):
    """The maps of the paper's figure, as far as the study has them."""
    speech = [
        pair for pair in measured(cells, tables, "speech")
        if pair[0].task == "ASR"
    ]  # fmt: skip
    text = measured(cells, tables, "text")
    adapted = [pair for pair in speech if pair[0].adapter]
    frozen = [pair for pair in speech if not pair[0].adapter]
    if not frozen:
        return [(f"text, {run.backbone}", table) for run, table in text[:1]]
    # The backbone that has most of the four is the one to show.
    held = [run.backbone for run, _ in text[:1] + adapted[:1]]
    held.append(frozen[0][0].backbone)
    main = max(held, key=held.count)
    family = next((r.family for r, _ in frozen if r.backbone == main), None)
    picks = [
        ("text", [p for p in text if p[0].backbone == main]),
        ("speech", [p for p in frozen if p[0].backbone == main]),
        ("speech, LoRA", [p for p in adapted if p[0].backbone == main]),
        ("speech", [p for p in frozen if p[0].family != family]),
    ]
    found = []
    for kind, pairs in picks:
        if pairs:
            run, table = max(pairs, key=lambda p: p[0].layers)
            found.append((f"{kind}\n{system(run)[0]}", table))
    return found


def draw_figure_one(cells, tables, path, width=COLUMN_WIDTH):
    """Draw Figure 1, as wide as a column of a page."""
    maps = four_maps(cells, tables)
    if not maps:
        raise ValueError("no redundancy table to draw: run measure.py first")
    every = [distances(table) for _, table in maps]
    low = min(np.nanmin(one) for one in every)
    high = max(np.nanmax(one) for one in every)
    down = -(-len(maps) // 2)
    # Titles of two lines, and the legend below.
    size = (width, 0.3 + down * (0.25 + width * 0.46))
    with figure(path, size, dots=300, pdf=True, font=6.5) as drawn:
        grid = drawn.subplots(down, 2, squeeze=False)
        for axes in grid.flat[len(maps) :]:
            axes.set_visible(False)
        for letter, axes, (title, table), one in zip(
            "abcd", grid.flat, maps, every
        ):
            image = draw_map(axes, one, low, high, ticks=5)
            draw_path(axes, table["path"], size=2)
            axes.set_title(f"({letter}) {title}", linespacing=1.1)
            if axes not in grid[:, 0]:
                axes.set_ylabel("")
            if axes not in grid[-1] and len(maps) > 2:
                axes.set_xlabel("")
        bar = drawn.colorbar(image, ax=grid, shrink=0.7, aspect=30, pad=0.02)
        bar.set_label("Angular distance")
        bar.outline.set_visible(False)
        drawn.legend(
            *grid.flat[0].get_legend_handles_labels(),
            loc="outside lower center",
            handlelength=1.5,
        )
    return [title for title, _ in maps]
