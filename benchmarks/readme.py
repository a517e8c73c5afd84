"""The README of the benchmarks, from the JSON files of the results.

    python -m benchmarks.readme

Authors
 * The speechbrain_ext authors, 2026
"""

import json
from pathlib import Path

HERE = Path(__file__).parent

HEAD = """\
# Benchmarks: ours beside its peers

This file is made by `python -m benchmarks.readme` from the JSON files in
`results/`; change those, or `benchmarks/readme.py`, not this page.

    make bench                                      everything, on 2 CPU cores
    python -m benchmarks.run --only loading         one claim
    python -m benchmarks.decoding_generate          the same, without writing
    python -m benchmarks.gpu                        the paper's sizes, one GPU

Both sides do the same work in the same run, in turns, and each script checks
first that they compute the same thing. A ratio is the median of the pairs'
ratios, with the smallest and the largest behind it: peer / ours where the
target is "at least", ours / peer where it is "at most". Memory is the peak of
a fresh process above what Python and the libraries take, weights included.
Models have random weights in real proportions (Qwen2.5's). The clock "cpu"
counts the process's own time on one thread, for a machine that has other work.
"""

GPU_NONE = """\
Not measured yet: no GPU was at hand. `benchmarks/gpu.py` builds the models of
the paper's sizes with random weights and writes `results/gpu.json` within ten
minutes; its small tier runs in the tests. The recorded decoding that it
compares with the plain one (`decode_static: True`) has not run on a GPU
either; on the CPU its text is that of the plain way.
"""

LEARNED = """\
## What was learned

- Choosing the next token took as long as several layers: `argmax` over a
  mask of 151,936 entries, eight rows, 3.8 ms. Looking through the vocabulary
  in stretches of 128 takes 0.2 ms, ties settled as before.
- With a vocabulary this large and a narrow model, reading the head is most of
  a token's work, and a CPU's usual products read it slowly for a few rows:
  151,936 x 256 took 19 ms for one row, 59 ms for three, 32 ms for four (one
  core, fp32), so that rows which left the batch even cost time. Up to seven rows
  ours now multiplies the other way round, and a single narrow row as two of
  it: 9 ms, 12 ms and 13 ms.
- A projector's training step saves the head at speech and prompt positions
  and nothing else. With a deep and narrow stand-in the head is half the work
  and the saving twofold; the count stands beside the row.
"""


def table(rows):
    """Rows as a Markdown table (list of lines)."""
    lines = [
        "| what | target | ratio | ours | peer | reached |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["spread"]
        verdict = {True: "yes", False: "**no**", None: "-"}[row["met"]]
        lines.append(
            f"| {row['name']} | {row['target'] or '-'} | "
            f"{number(row['ratio'])} ({number(low)} to {number(high)}, "
            f"{row['repeats']}) | {number(row['ours'])} {row['unit']} | "
            f"{number(row['peer'])} {row['unit']} | {verdict} |"
        )
    return lines


def number(value):
    """Three digits, without exponents (str).

    Example
    -------
    >>> number(0.012345), number(1.0349), number(14.849), number(1460.2)
    ('0.0123', '1.035', '14.8', '1460')
    """
    if value >= 100:
        return f"{value:.0f}"
    if 0.9 < value < 1.1:
        return f"{value:.3f}"
    return f"{value:.3g}"


def machine_part(whole):
    """One machine's tables (list of lines)."""
    lines = [f"## {whole['machine']}", ""]
    packages = ("torch", "transformers", "speechbrain", "peft")
    versions = ", ".join(f"{name} {whole[name]}" for name in packages)
    minutes = sum(script["minutes"] for script in whole["rows"].values())
    lines += [
        f"{whole['date']}; Python {whole['python']}, {versions}; "
        f"{minutes:.0f} minutes in all.",
        "",
    ]
    for script in whole["rows"].values():
        rows = script["rows"]
        lines += table(rows)
        told = dict.fromkeys(
            f"{row['sizes']}; {row['dtype']}, {row['threads']} thread"
            f"{'s' * (row['threads'] > 1)}, {row['clock']} clock"
            for row in rows
        )
        lines += ["", f"`{rows[0]['command']}`", ""]
        lines += [f"- {text}" for text in told]
        lines += [
            f'- Why "{row["name"]}" misses its target: {row["note"]}'
            for row in rows
            if row["met"] is False and row["note"]
        ]
        lines.append("")
    return lines


def gpu_part(whole):
    """The GPU's summary (list of lines)."""
    lines = [
        f"{whole['device']}, torch {whole['torch']}; copies "
        f"{whole['copy_gb_per_s']:.0f} GB/s. Batch 1, seconds per utterance "
        "of 15 s, encoder included.",
        "",
        "| decoder | layers removed | speed-up | with `decode_static` | peak "
        "GiB | token time over the memory's floor |",
        "|---|---|---|---|---|---|",
    ]
    for name, depths in whole["summary"].items():
        for depth, entry in depths.items():
            peak = entry["peak_gib"]
            lines.append(
                f"| {name} | {depth} | {entry['speed_up_plain']:.2f} | "
                f"{entry['speed_up_static']:.2f} | "
                f"{'-' if peak is None else f'{peak:.2f}'} | "
                f"{entry['over_floor']:.2f} |"
            )
    return lines


def write_readme(results, file):
    """Make the page.

    Arguments
    ---------
    results : pathlib.Path
        Folder of JSON files.
    file : pathlib.Path
        The page.
    """
    lines = [HEAD]
    for path in sorted(results.glob("*.json")):
        if path.name != "gpu.json":
            lines += machine_part(json.loads(path.read_text()))
    lines += ["## One GPU, the paper's sizes", ""]
    gpu = results / "gpu.json"
    if gpu.exists():
        lines += gpu_part(json.loads(gpu.read_text())) + [""]
    else:
        lines.append(GPU_NONE)
    lines.append(LEARNED)
    file.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    write_readme(HERE / "results", HERE / "README.md")
