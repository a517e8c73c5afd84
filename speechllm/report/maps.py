"""Redundancy tables of a study: found, told apart, compared and drawn."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np

from speechbrain_ext.runs.files import of_form
from speechllm.report.chance import Agreement, overlap_by_place, path_agreement
from speechllm.report.estimates import Drawn, grouped, mean
from speechllm.report.figures import COLUMN_WIDTH, FULL_WIDTH, figure, hide
from speechllm.report.samples import baseline_name
from speechllm.report.study import baseline_of, over_systems, system

# Bytes; a table of 100 layers takes half of it. Other JSON, such as the
# lists of utterances that lie about in a run's folder, can be huge.
LARGEST_TABLE = 2_000_000
# Inches; one map alone would fill a page.
LARGEST_PANEL = 3.6


def read_tables(folder: str | Path) -> list[dict]:
    """The redundancy tables below a folder, the same ones once."""
    found: dict[str, dict] = {}
    for path in sorted(Path(folder).rglob("*.json")):
        if path.stat().st_size > LARGEST_TABLE:
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError):
            # Broken results are the business of `load_runs`.
            continue
        if isinstance(content, dict) and {"distances", "path"} <= set(content):
            try:
                with of_form(path, ": no table of distances", "Measure again"):
                    _check_table(content)
            except ValueError as error:
                print(f"{error}: left out", file=sys.stderr)
                continue
            key = json.dumps(
                [content["distances"], content.get("provenance")],
                sort_keys=True,
            )
            found.setdefault(key, content)
    return sorted(found.values(), key=_table_order)


def _check_table(content):
    """Refuse what cannot be drawn."""
    table, layers = distances(content), len(content["distances"])
    if table.shape != (layers, layers) or not layers:
        raise ValueError("its distances are not square")
    for start, size in content["path"]:
        if not (type(start) is type(size) is int and 0 <= start < layers):
            raise ValueError(f"its path has {start!r:.40}, {size!r:.40}")
    if not isinstance(content.get("provenance", {}) or {}, dict):
        raise ValueError("its provenance is no mapping")


def _table_order(table):
    origin = origin_of(table)
    text = origin.get("input") == "text"
    return str(origin.get("model")), str(origin.get("task")), not text


def origin_of(table: dict) -> dict:
    """Where a table was measured: model, input, task, run."""
    return table.get("provenance") or {}


def distances(table: dict) -> np.ndarray:
    """``[L, L]`` of a table; NaN where there is no such block."""
    return np.array(table["distances"], dtype=np.float64)


def apart(one: dict, other: dict) -> float:
    """Mean absolute difference of two maps."""
    return float(np.nanmean(np.abs(distances(one) - distances(other))))


def agreement(one: dict, other: dict) -> Agreement:
    """How far the paths of two tables of one depth agree."""
    return path_agreement(one["path"], other["path"], len(one["distances"]))


def compare_inputs(tables: list[dict]) -> list[str]:
    """How far the maps of text and of speech are apart, model by model."""
    lines = []
    named = itertools.combinations(zip(ascii_lowercase, tables), 2)
    for (letter, first), (beside, second) in named:
        origins = origin_of(first), origin_of(second)
        same = origins[0].get("model") == origins[1].get("model")
        inputs = {origin.get("input") for origin in origins}
        alike = len(first["distances"]) == len(second["distances"])
        if not same or not alike or inputs != {"text", "speech"}:
            continue
        gap, many = apart(first, second), len(first["path"])
        agree = agreement(first, second)
        lines.append(
            f"({letter}) against ({beside}): mean difference {gap:.4f}, the "
            f"same block at {many * agree.same:.0f} of {many} sizes, random "
            f"blocks at {many * agree.same_by_chance:.1f}"
        )
    return lines


def titles(tables: list[dict]) -> list[str]:
    """Model, input and task of each; the run too where these are the same."""
    found = []
    for table in tables:
        origin = origin_of(table)
        model = str(origin.get("model") or "decoder").rstrip("/").split("/")[-1]
        what = [model, origin.get("input"), origin.get("task")]
        found.append(", ".join(str(part) for part in what if part))
    runs = [origin_of(table).get("run") for table in tables]
    return [
        f"{title}\n{run}" if run and found.count(title) > 1 else title
        for title, run in zip(found, runs)
    ]


# -- the tables of a study's baselines


def measured(study, tables, kind: str) -> list[tuple]:
    """The unpruned runs that have a table of a kind, with the table."""
    return [
        (run, table)
        for run in study.done
        if run.removed == 0
        if (table := table_of(tables, run, kind)) is not None
    ]


def table_of(tables, run, kind):
    """The table that was measured on a baseline, or None."""
    wanted = {"input": kind, "run": run.name}.items()
    return next((t for t in tables if wanted <= origin_of(t).items()), None)


class PairedMaps(NamedTuple):
    """Two inputs' maps and paths beside each other, over baseline seeds."""

    far: Drawn
    same: Drawn
    overlap: Drawn
    # The same of random blocks.
    same_by_chance: float
    overlap_by_chance: Drawn
    # See `Agreement` and `overlap_by_place`: of each model's baseline that
    # agrees least.
    p_value: float
    p_more: float
    p_less: float


def paired_maps(study, tables, one: str, other: str) -> PairedMaps | None:
    """How far the maps and paths of two kinds of input are apart."""
    found = grouped(
        (system(run), (run, apart(table, beside), agreement(table, beside)))
        for run, table in measured(study, tables, one)
        if (beside := table_of(tables, run, other)) is not None
    )
    if not found:
        return None

    def over(figure):
        return mean(
            over_baselines(study, [(run, figure(*row)) for run, *row in rows])
            for rows in found.values()
        )

    least = [
        min((agree for *_, agree in rows), key=lambda one: one.overlap)
        for rows in found.values()
    ]
    return PairedMaps(
        over(lambda gap, agree: gap),
        over(lambda gap, agree: agree.same),
        over(lambda gap, agree: agree.overlap),
        over(lambda gap, agree: agree.same_by_chance).value,
        over(lambda gap, agree: agree.overlap_by_chance),
        max(agree.p_value for agree in least),
        *overlap_by_place(least),
    )


def adapted_against_frozen(study, tables) -> Drawn | None:
    """How much LoRA moves the distance of the blocks that are pruned.

    Each decoder's own blocks, at the depths that both were pruned to.
    """
    changes = {}
    for pair in study.adapted_pairs():
        depths = [{r.removed for r in study.members(one)} for one in pair]
        for depth in sorted(depths[0] & depths[1] - {0}):
            ours, theirs = (
                _pruned_distance(study, tables, one, depth) for one in pair
            )
            if ours is not None and theirs is not None:
                changes[pair[0], depth] = ours - theirs
    return over_systems(changes)


def _pruned_distance(study, tables, which, depth):
    """The distance of the block that a depth removes, over baseline seeds."""
    found = {}
    for run in study.members(which, depth, path="speech"):
        base = _measured_base(study, tables, run)
        if base is not None:
            whole, table = base
            starts = {size: start for start, size in table["path"]}
            layers = run.removed_layers or [starts.get(depth)]
            in_a_row = len(layers) == 1 or layers[-1] - layers[0] == depth - 1
            if layers[0] is not None and in_a_row:
                far = distances(table)[depth - 1, layers[0]]
                found[whole.name] = whole, far
    return over_baselines(study, list(found.values()))


def _measured_base(study, tables, run):
    """The baseline that a run was made from, with its table on speech."""
    named = [one for one in study.done if one.name == baseline_name(run)]
    for base in [*named, baseline_of(run, study.done)]:
        table = base and table_of(tables, base, "speech")
        if table is not None:
            return base, table
    return None


def over_baselines(study, figures: list[tuple]) -> Drawn | None:
    """The mean of figures of baselines, which no speaker changes."""
    samples = study.samples
    return samples.over_runs(
        (run, samples.constant(value)) for run, value in figures
    )


def four_maps(study, tables) -> list[tuple]:
    """Titles and maps of the paper's Figure 1, as far as they are there."""
    text = measured(study, tables, "text")
    speech = [
        pair
        for pair in measured(study, tables, "speech")
        if pair[0].task == "ASR"
    ]
    adapted = [pair for pair in speech if pair[0].adapter]
    frozen = [pair for pair in speech if not pair[0].adapter]
    if not frozen:
        return [(f"text, {run.backbone}", table) for run, table in text[:1]]
    # The backbone that has most of the four is the one to show.
    held = [
        backbone
        for kind in (text, adapted, frozen)
        for backbone in dict.fromkeys(run.backbone for run, _ in kind)
    ]
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
            run, table = max(pairs, key=lambda pair: pair[0].layers)
            found.append((f"{kind}\n{run.backbone}", table))
    return found


# ----------------------------------------------------------------------------
# Drawn side by side (the paper's Figure 1).


def draw_heatmaps(
    tables: list[dict], path: str | Path, width: float = FULL_WIDTH
) -> None:
    """Draw redundancy tables, text and speech compared below."""
    lines = compare_inputs(tables)
    # A caption as wide as the picture: a narrow one takes a line per part.
    parts = [line.split(", ") if width < 5 else [line] for line in lines]
    caption = list(itertools.chain.from_iterable(parts))
    maps = list(zip(titles(tables), tables))
    draw_maps(maps, path, width, across=2 if width >= 5 else 1, caption=caption)


def draw_figure_one(maps: list[tuple], path: str | Path) -> None:
    """Draw `four_maps`, as wide as a column of a page."""
    draw_maps(maps, path, COLUMN_WIDTH, across=2, pdf=True)


def draw_maps(maps, path, width, across, caption=(), pdf=False):
    """Draw titled maps on one scale, the pruning path over each."""
    if not maps:
        raise ValueError("no redundancy table to draw: run measure.py first")
    across = min(across, len(maps))
    down = math.ceil(len(maps) / across)
    arrays = [distances(table) for _, table in maps]
    low = min(np.nanmin(one) for one in arrays)
    high = max(np.nanmax(one) for one in arrays)
    panel = min((width - 0.6) / across, LARGEST_PANEL)
    small = panel < 2
    # Above a map its title, of one line or two; below small ones the legend.
    height = down * (0.92 * panel + 0.3) + 0.3 + 0.16 * len(caption)
    size = (across * panel + 0.6, height)
    with figure(path, size, pdf, font=6.5 if small else 8) as drawn:
        grid = drawn.subplots(down, across, squeeze=False)
        hide(grid.flat[len(maps) :])
        letters = map("({}) ".format, ascii_lowercase)
        for axes, (title, table), one in zip(grid.flat, maps, arrays):
            image = _draw_map(axes, one, low, high, ticks=5 if small else 7)
            _draw_path(axes, table["path"], mark=2 if small else 3)
            letter = next(letters, "") if len(maps) > 1 else ""
            axes.set_title(letter + title, linespacing=1.1)
        bar = drawn.colorbar(image, ax=grid, shrink=0.8, aspect=30, pad=0.02)
        bar.set_label("Angular distance")
        bar.outline.set_visible(False)
        if small:
            handles = grid.flat[0].get_legend_handles_labels()
            place = {"loc": "outside lower center", "handlelength": 1.5}
            drawn.legend(*handles, **place)
        else:
            grid.flat[0].legend(loc="upper right", handlelength=1.5)
        drawn.supxlabel("\n".join(caption), fontsize=7)


def _draw_map(axes, array, low, high, ticks):
    """One map of block size against first layer."""
    layers = len(array)
    # Row n - 1 is block size n: the extent puts n at its own height.
    image = axes.imshow(
        array,
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


def _draw_path(axes, path, mark):
    """The pruning path, over a map."""
    from matplotlib.patheffects import Normal, Stroke

    axes.plot(
        [start for start, _ in path],
        [size for _, size in path],
        color="white",
        linewidth=1.2,
        marker="o",
        markersize=mark,
        markeredgecolor="black",
        markeredgewidth=0.5,
        # The dark rim is seen where the map, or the page, is light.
        path_effects=[Stroke(linewidth=2.4, foreground="black"), Normal()],
        label="pruning path",
    )
