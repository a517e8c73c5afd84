"""Tables 1 and 2 of a study, the paper's own rows beside it."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from speechllm.report import paper
from speechllm.report.estimates import estimate
from speechllm.report.tolerance import largest

GAP = "—"


def markdown_row(cells: Sequence, widths: Sequence[int] = ()) -> str:
    """A line of a Markdown table; `widths` pads its cells."""
    # A bar inside a cell would end it.
    cells = [str(cell).replace("|", "\\|") for cell in cells]
    padded = map(str.ljust, cells, widths or [0] * len(cells))
    return f"| {' | '.join(padded)} |\n"


def markdown_table(header: Sequence, rows: Sequence[Sequence]) -> str:
    """A Markdown table whose columns line up in a terminal."""
    lines = [header, *rows]
    widths = [
        max(len(str(cell).replace("|", "\\|")) for cell in column)
        for column in zip(*lines, strict=True)
    ]
    rule = ["-" * width for width in widths]
    lines.insert(1, rule)
    return "".join(markdown_row(line, widths) for line in lines)


@dataclass
class Table:
    """A table."""

    header: list
    rows: list
    paper: set = field(default_factory=set)

    def markdown(self):
        """Of this part, its columns aligned (str)."""
        return markdown_table(self.header, self.rows)

    def html(self, folder):
        """Of this part (str)."""
        head = "".join(f"<th>{html.escape(c)}</th>" for c in self.header)
        body = ""
        for number, row in enumerate(self.rows):
            mark = ' class="paper"' if number in self.paper else ""
            cells = "".join(f"<td>{html.escape(str(c))}</td>" for c in row)
            body += f"<tr{mark}>{cells}</tr>\n"
        return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def system_name(which):
    """A system in words: its backbone, and its adapter if it has one."""
    backbone, adapter = which[:2]
    return f"{backbone} + LoRA" if adapter else backbone


def said(drawn_R, form="{:.2f}"):
    """A statistic as a cell; a dash where there is none (str)."""
    found = estimate(drawn_R)
    return found.said(form) if found else GAP


def _share(removed, layers):
    return f"{100 * removed / layers:.1f} %" if removed else "-"


def _layers(removed, layers):
    return f"{removed} of {layers}" if removed else str(layers)


def table_one(cells, task="ASR"):
    """Table 1: each system whole, and pruned as far as the threshold lets."""
    ours = list(
        dict.fromkeys(n for w in cells.systems(task) for n in cells.sets(w))
    )
    theirs = [row for row in paper.table_1() if task == "ASR"]
    sets = list(
        dict.fromkeys([*ours, *(n for row in theirs for n in row["scores"])])
    )
    rows = []
    for which in cells.systems(task):
        rows += _rows_of(cells, which, sets)
    many = len(rows)
    for row in theirs:
        name = system_name((row["model"], row["adapter"]))
        removed, layers = row["removed"], row["layers"]
        scores = [row["scores"].get(n) for n in sets]
        rows.append(
            [
                "the paper's",
                "+ pruning" if removed else name,
                _share(removed, layers),
                _layers(removed, layers),
                *(GAP if one is None else f"{one:.2f}" for one in scores),
            ]
        )
    header = ["Source", "Model", "Dropped", "Layers", *sets]
    return Table(header, rows, set(range(many, len(rows))))


def _rows_of(cells, which, sets):
    layers = cells.layers(which)
    whole = [said(cells.baseline_score(which, name)) for name in sets]
    rows = [["here", system_name(which), "-", str(layers), *whole]]
    depths = cells.depths(which)
    if not depths:
        pruned = [GAP] * len(sets)
        return [*rows, ["here", "+ pruning: no run", GAP, GAP, *pruned]]
    depth = largest(cells, which)
    name = "+ pruning, both"
    if not depth:
        depth = depths[0]
        name += " (over the threshold)"
    scores = [
        said(cells.score(which, depth, "both", "speech", one)) for one in sets
    ]
    share = _share(depth, layers)
    return [*rows, ["here", name, share, _layers(depth, layers), *scores]]


def limit_lines(runs):
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


def table_two(cells):
    """Table 2: translation along its own path and along ASR's."""
    rows = []
    for which in cells.systems():
        if cells.metric(which) == "WER":
            continue
        for name in cells.sets(which):
            rows += _translation_rows(cells, which, name)
    many = len(rows)
    rows += [
        [
            "the paper's",
            row["task"],
            "Qwen2.5-7B",
            _share(row["removed"], row["layers"]),
            _layers(row["removed"], row["layers"]),
            f"{row['own']:.2f}",
            f"{row['asr']:.2f}",
        ]
        for row in paper.table_2()
    ]
    header = "Source,Task,Model,Dropped,Layers,AST's path,ASR's path".split(",")
    return Table(header, rows, set(range(many, len(rows))))


def _translation_rows(cells, which, name):
    layers = cells.layers(which)
    whole = said(cells.baseline_score(which, name))
    start = ["here", which[3], system_name(which)]
    rows = [[*start, "-", str(layers), whole, whole]]
    paths = ("speech", "ASR speech")
    depths = {d for path in paths for d in cells.depths(which, "both", path)}
    for depth in sorted(depths):
        scores = [
            said(cells.score(which, depth, "both", path, name))
            for path in paths
        ]
        share = _share(depth, layers)
        rows.append([*start, share, _layers(depth, layers), *scores])
    return rows
