"""Compare two redundancy tables: speech and text, or one task and another.

python -m speechllm.cli.compare_tables A.json B.json [--json FILE]
"""

from __future__ import annotations

import argparse

from speechbrain_ext.layers.distances import RedundancyTable, compare
from speechbrain_ext.runs.files import write_json
from speechllm.report.tables import markdown_table

MEANINGS = {
    "mean_difference": "mean absolute difference of the distances",
    "correlation": "correlation of the distances",
    "same_start": "sizes at which both paths start alike",
    "overlap": "layers removed by both paths, mean over sizes",
}


def agreement_text(one: RedundancyTable, other: RedundancyTable) -> str:
    """Whose the tables are, how much they agree, and both paths."""
    lines = [f"A: {_title(one)}", f"B: {_title(other)}", ""]
    lines += [
        f"{MEANINGS[key]}: {value:.4f}"
        for key, value in compare(one, other).items()
    ]
    rows = [
        [
            f"{a.size} of {one.num_layers}",
            a.start,
            b.start,
            f"{one.distances[a.size - 1, a.start]:.4f}",
            f"{other.distances[b.size - 1, b.start]:.4f}",
            len(set(a.removed) & set(b.removed)),
        ]
        for a, b in zip(one.path(), other.path())
    ]
    header = ["removed", "A starts at", "B starts at"]
    header += ["A's distance", "B's distance", "layers in both"]
    return "\n".join([*lines, "", markdown_table(header, rows)])


def _title(table):
    told = table.provenance
    keys = ("task", "input", "position", "model", "encoder", "run")
    parts = [str(told[key]) for key in keys if told.get(key)]
    return f"{', '.join(parts)}; {table.count} sequences"


def main(argv: list[str] | None = None) -> dict:
    """Print how much two tables agree."""
    parser = argparse.ArgumentParser(
        prog="python -m speechllm.cli.compare_tables",
        description=__doc__.split("\n")[0],
    )
    parser.add_argument("tables", nargs=2, metavar="TABLE")
    parser.add_argument("--json", metavar="FILE", help="write it there too")
    options = parser.parse_args(argv)
    try:
        one, other = (RedundancyTable.load(file) for file in options.tables)
        agreement = compare(one, other)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for letter, file in zip("AB", options.tables):
        print(f"{letter} is {file}")
    print(agreement_text(one, other), end="")
    if options.json:
        provenance = [one.provenance, other.provenance]
        write_json(options.json, {**agreement, "provenance": provenance})
    return agreement


if __name__ == "__main__":
    main()
