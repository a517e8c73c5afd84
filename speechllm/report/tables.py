"""Markdown tables, and ``table.md``: the scores of a study, run by run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from speechllm.report.estimates import Estimate, estimate, grouped
from speechllm.report.samples import BASELINES, NO_ROWS, SEEDS
from speechllm.report.study import healing_rank, sets_of, system

GAP = "—"
DEPTHS_NOTE = (
    "Layers that can go with a relative degradation of at most {:.2f} on every "
    "set, as [deepest depth within, first depth over]. Within: the upper 95 % "
    "bounds (one-sided) of all sets are; over: the lower bound of one set is "
    "above it. From the shallowest depth run, up to "
    "the first that is not within. The paper's point rule: the deepest depth "
    "whose degradations are within as they are. Depths and baselines are "
    "chosen on test scores, as in the paper.\n"
)


def markdown_row(cells: Sequence, widths: Sequence[int] = ()) -> str:
    """A line of a Markdown table; `widths` pads its cells."""
    padded = map(str.ljust, map(_cell, cells), widths or [0] * len(cells))
    return f"| {' | '.join(padded)} |\n"


def _cell(content):
    # A bar inside a cell would end it.
    return str(content).replace("|", "\\|")


def markdown_table(header: Sequence, rows: Iterable[Sequence]) -> str:
    """A Markdown table whose columns line up in a terminal.

    >>> print(markdown_table(["set", "WER"], [["dev", 1.58]]), end="")
    | set | WER  |
    | --- | ---- |
    | dev | 1.58 |
    """
    lines = [header, *rows]
    columns = zip(*lines, strict=True)
    widths = [max(len(_cell(cell)) for cell in column) for column in columns]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(markdown_row(line, widths) for line in lines)


class Table(NamedTuple):
    """A table; as a text it is Markdown."""

    header: list
    rows: list

    def __str__(self):
        return markdown_table(*self)


def system_name(which: tuple) -> str:
    """A system in words: its backbone, and its adapter if it has one."""
    backbone, adapter = which[:2]
    return f"{backbone} + LoRA" if adapter else backbone


def chance_text(one: Estimate) -> str:
    """What chance an interval knows, and what it does not."""
    # Speakers first, then seeds, then those of baselines.
    ranked = sorted(one.units, key=lambda k: (k == BASELINES, k == SEEDS))
    known, unknown = (
        list(dict.fromkeys(kind.split(" of ")[0] for kind in kinds))
        for kinds in (ranked, one.lacking)
    )
    unknown = ["speakers" if u == NO_ROWS else u for u in unknown]
    *most, last = known or [""]
    known = [", ".join(most), last] if most else known
    parts = [f"over {' and '.join(known)}"] if known else []
    parts += [f"not over {' or '.join(unknown)}"] if unknown else []
    return ", ".join(parts)


def layers_cells(removed: int, layers: int) -> list[str]:
    """The share of layers that is gone, and their number."""
    if not removed:
        return ["-", str(layers)]
    return [f"{100 * removed / layers:.1f} %", f"{removed} of {layers}"]


def limit_lines(runs) -> list[str]:
    """Sets with answers that ran into their token limit, a line each."""
    found = [
        (one.hit_limit / one.utterances, f"{run.name}, {name}", one)
        for run in runs
        for name, one in run.scores.items()
        if one.hit_limit
    ]
    return [
        f"{where}: {one.hit_limit} of {one.utterances}"
        for _, where, one in sorted(found, key=lambda row: (-row[0], row[1]))
    ]


# ----------------------------------------------------------------------------
# table.md: the paper's Table 1 with a row for every run.


def table_text(study, broken: Sequence[tuple] = ()) -> str:
    """All that a study says in words and numbers (Markdown)."""
    parts = []
    for task in dict.fromkeys(run.task for run in study.runs):
        runs = [run for run in study.runs if run.task == task]
        sets = sets_of(runs)
        parts.append(f"## {task}\n")
        parts.append(_scores_table(runs, sets))
        parts.append(_depth_lines(study, task))
        parts.append(_paths_table(runs, sets))
    lines = [f"- {line}" for line in not_counted(study.runs, broken)]
    parts.append("\n".join(["Not counted:\n", *lines, ""]) if lines else "")
    return "\n".join(part for part in parts if part)


def not_counted(runs, broken) -> list[str]:
    """Runs that are no number here, and why, a line each."""
    lines = [
        f"{run.name}: {run.status}" + (f", {run.error}" * bool(run.error))
        for run in runs
        if run.status != "done"
    ]
    return lines + [f"{path}: cannot be read, {why}" for path, why in broken]


def _scores_table(runs, sets):
    metrics = [one.metric for run in runs for one in run.scores.values()]
    unit = "WER %" if metrics[:1] in ([], ["WER"]) else metrics[0]
    note = (
        f"{unit} with its 95 % interval {_chance(runs, sets)}; bold: the best "
        "at its depth."
    )
    header = ["Model", "Dropped", "Layers", *sets]
    limits = any(_at_limit(run) for run in runs)
    if limits:
        header.append("At limit")
        note += " At limit: answers that ran into their token limit."
    rows = []
    for which in dict.fromkeys(map(system, runs)):
        members = [run for run in runs if system(run) == which]
        best = _best(members)
        for place, run in _places(members):
            cells = [_name(place, run, members)]
            cells += layers_cells(place[0], members[0].layers)
            cells += _score_cells(run, sets, best)
            rows.append([*cells, _at_limit(run) or GAP] if limits else cells)
    return "\n".join([markdown_table(header, rows), note + "\n"])


def _chance(runs, sets):
    """How many speakers the scores' intervals are over, set by set."""
    told = {}
    for name in sets:
        scores = [r.scores[name] for r in runs if name in r.scores]
        many = {getattr(one, "speakers", None) for one in scores}
        counts = [f"{one} speakers" for one in sorted(many - {None})]
        told[name] = counts + ["utterances"] * (None in many)
    if not told:
        return "over speakers"
    over = {name: " or ".join(one) for name, one in told.items()}
    if len(set(over.values())) == 1:
        said = next(iter(over.values()))
    else:
        said = ", ".join(f"{one} ({name})" for name, one in over.items())
    unknown = " whose speakers are not known" * ("utterances" in said)
    return f"over {said}{unknown}"


def _places(runs):
    """Depth, path and healing of each row, with its run or with None.

    A path that was pruned to a depth has a row for each of its healings.
    """
    rows = [(_place(run), run) for run in runs if not run.removed]
    pruned = grouped((_place(run), run) for run in runs if run.removed)
    healings = grouped((path, healing) for _, path, healing in pruned)
    depths = sorted({depth for depth, _, _ in pruned})
    for depth, path in itertools.product(depths, healings):
        if (depth, path) in {place[:2] for place in pruned}:
            for healing in sorted(set(healings[path]), key=healing_rank):
                place = depth, path, healing
                rows += [(place, run) for run in pruned.get(place, [None])]
    return rows


def _place(run):
    return run.removed, run.path_from, run.healing


def _name(place, run, members):
    """What a row of a system is called."""
    removed, path, healing = place
    name = _system_name(system(members[0]))
    if removed:
        name = f"+ pruning, {healing}"
        if len({one.path_from for one in members if one.removed}) > 1:
            name += f" ({path or 'given'} path)"
    alike = [one for one in members if _place(one) == place]
    if len(alike) > 1:
        name += f", seed {run.seed}"
        # The same seed twice: only the names tell them apart.
        if len({one.seed for one in alike}) < len(alike):
            name += f" ({run.name})"
    return name


def _system_name(which):
    backbone, adapter = which[:2]
    return f"{backbone} + {adapter}" if adapter else backbone


def _score_cells(run, sets, best):
    if run is None or run.status != "done":
        return [run.status if run else GAP] * len(sets)
    cells = []
    for name in sets:
        one = run.scores.get(name)
        if one is None or one.value is None:
            cells.append(GAP)
            continue
        value = f"{one.value:.2f}"
        if run.removed and one.value == best.get((run.removed, name)):
            value = f"**{value}**"
        ends = one.interval
        if ends and None not in ends:
            value += f" [{ends[0]:.2f}, {ends[1]:.2f}]"
        cells.append(value)
    return cells


def _best(runs):
    """Best score by depth and set; none where one run stands alone."""
    found = grouped(
        ((run.removed, name), one)
        for run in runs
        for name, one in run.scores.items()
        if run.status == "done" and one.value is not None
    )
    return {
        place: (max if scores[0].higher_is_better else min)(
            one.value for one in scores
        )
        for place, scores in found.items()
        if len(scores) > 1
    }


def _at_limit(run):
    """Answers that ran into their token limit, such as "3 of 80"."""
    scores = run.scores.values() if run and run.status == "done" else ()
    told = [one for one in scores if one.hit_limit is not None]
    if not told:
        return ""
    hit = sum(one.hit_limit for one in told)
    return f"{hit} of {sum(one.utterances for one in told)}"


def _depth_lines(study, task):
    """What each curve can lose within the threshold, by two rules."""
    lines, threshold = [], None
    curves = dict.fromkeys(
        (system(run), run.healing, run.path_from)
        for run in study.done
        if run.removed and run.task == task
    )
    for which, *curve in curves:
        depths = study.depths(which, *curve)
        chance = chances(study, which, *curve)
        if not chance:
            continue
        threshold = threshold or study.threshold(which)
        healing, path = curve
        lines.append(
            f"- {_system_name(which)}, healing {healing}, {path or 'given'} "
            f"path: {tolerance_text(study, which, *curve)} "
            f"({' or '.join(chance)}); the paper's point rule: "
            f"{share_text(study, which, study.largest(which, *curve))}; depths "
            f"run: {', '.join(map(str, depths))}"
        )
    if not lines:
        return ""
    return "\n".join([DEPTHS_NOTE.format(threshold), *lines, ""])


def chances(study, which, *curve) -> list[str]:
    """What chance the degradations of a curve know, each once."""
    changes = [
        estimate(study.degradation(which, depth, *curve, name))
        for depth in study.depths(which, *curve)
        for name in study.sets(which)
    ]
    return list(dict.fromkeys(chance_text(one) for one in changes if one))


def tolerance_text(study, which, *curve) -> str:
    """[deepest depth within, first one over], in layers."""
    deepest, over = study.tolerance(which, *curve)
    known = f"[{deepest}, {'none run is over' if over is None else over}]"
    return f"{known} of {study.layers(which)} layers"


def share_text(study, which, depth) -> str:
    """A number of layers, and its share of a system's."""
    return f"{depth} ({100 * depth / study.layers(which):.1f} %)"


def _paths_table(runs, sets):
    """The same depth and healing along different paths, side by side."""
    # The layers of a model bring torch, which nothing else here needs.
    from speechbrain_ext.layers.removal import ranges

    places = grouped(
        ((system(run), run.removed, run.healing), run)
        for run in runs
        if run.removed
    )
    rows = [
        [
            _system_name(which),
            f"{removed} of {run.layers}",
            healing,
            run.path_from or "given",
            ranges(run.removed_layers or []) or GAP,
            *_score_cells(run, sets, {}),
        ]
        for (which, removed, healing), alike in places.items()
        if len({run.path_from for run in alike}) > 1
        for run in alike
    ]
    if not rows:
        return ""
    header = ["Model", "Layers", "Healing", "Path", "Removed", *sets]
    table = markdown_table(header, rows)
    return f"The same along different paths:\n\n{table}"
