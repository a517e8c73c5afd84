"""Compare two redundancy tables: speech and text, or one task and another."""

from __future__ import annotations

from typing import Any

from speechbrain_ext.layers.agreement import compare
from speechbrain_ext.layers.distances import RedundancyTable
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


def agreement_of(
    one: RedundancyTable, other: RedundancyTable
) -> dict[str, Any]:
    """How much two tables agree, and whose they are, for JSON."""
    provenance = [one.provenance, other.provenance]
    return {**compare(one, other), "provenance": provenance}
