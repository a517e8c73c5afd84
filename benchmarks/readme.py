"""The README of the benchmarks, from the JSON files of the results.

python -m benchmarks.readme
"""

import json
from pathlib import Path

from speechllm.report.tables import markdown_table

HERE = Path(__file__).parent
PACKAGES = ("torch", "transformers", "speechbrain", "peft")

HEAD = """\
# Benchmarks: ours beside its peers

This file is made by `python -m benchmarks.readme` from the JSON files in
`results/`; change those, or `benchmarks/readme.py`, not this page.

    make bench                                      everything, on 2 CPU cores
    python -m benchmarks.run --only loading         one claim
    python -m benchmarks.decoding_generate          the same, without writing
    python -m benchmarks.gpu                        the paper's sizes, one GPU
    python -m benchmarks.run --only streaming-7b    needs 27 GB of disk
    ... --mergekit PYTHON                           beside mergekit, in its own
                                                    environment

Both sides do the same work in the same run, in turns, and each script checks
first that they compute the same thing. A ratio is the median of the pairs'
ratios, with the smallest and the largest behind it: peer / ours where the
target is "at least", ours / peer where it is "at most". Memory is the peak of
a fresh process above what Python and the libraries take, weights included.
Models have random weights in real proportions (Qwen2.5's). The clock "cpu"
counts the process's own time on one thread, for a machine that has other work.
"""

# Qwen2.5-72B in bfloat16: MB of its weights, and of a layer of them.
LARGE = {"weights": 138_676.08, "layer": 1674.05}

# What a GPU would do otherwise, and no file here tells how.
NOT_ON_GPU = ("padding", "host", "windows", "streaming")
NOT_ON_GPU += ("streaming-1.5b", "streaming-7b", "sweep")

GPU_NONE = """\
Not measured yet: no GPU was at hand. `benchmarks/gpu.py` builds the models of
the paper's sizes with random weights and writes its results within ten
minutes; its small tier runs in the tests.
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
- On the H100 a plain token waits for its kernels to be launched: 1,450 of
  them. Recorded as one graph they take a third of the time; with norms,
  rotations and MLPs fused, 1,000 are left and the floor is 1.4 times away. A
  step that is compiled whole would take each layer for a new program.
- WavLM's bias is the same for all utterances of a batch and a function of the
  distance alone; repeated and kept, it and its copies were most of the
  encoder's memory. Half of what is left of its time on a GPU is writing the
  gated bias (10 of 48 ms), norms and copies.
- Whisper on the clip alone gives other features than in its 30 s window, the
  more so the shorter the clip: a projector trained on one is not for the other.
- Attention over rows of their own length (varlen, as flash attention has it)
  is not built: it runs on GPUs alone, and could not be tried. Batches of
  similar length leave it 1% of the decoder's positions to save.
- Not measured on a GPU, besides what says so above: a step with Whisper-large
  in the loop, the one all-reduce of all gradients, pinned memory, and features
  that several processes compute and keep.
"""


def table(rows):
    """Rows as a Markdown table (list of lines)."""
    verdicts = {True: "yes", False: "**no**", None: "-"}
    header = ["what", "target", "ratio", "ours", "peer", "reached"]
    cells = [
        [
            row["name"],
            row["target"] or "-",
            ratio(row),
            f"{number(row['ours'])} {row['unit']}",
            f"{number(row['peer'])} {row['unit']}" if row["peer"] else "-",
            verdicts[row["met"]],
        ]
        for row in rows
    ]
    return markdown_table(header, cells).splitlines()


def ratio(row):
    """A row's ratio, its spread and the pairs behind it (str)."""
    if row["ratio"] is None:
        return "-"
    values = map(number, [row["ratio"], *row["spread"]])
    return "{} ({} to {}, {})".format(*values, row["repeats"])


def number(value):
    """Three digits, without exponents (str)."""
    if value >= 100:
        return f"{value:.0f}"
    if 0.9 < value < 1.1:
        return f"{value:.3f}"
    return f"{value:.3g}"


def by_arithmetic(scripts):
    """What a model of 72B would take, from the two sizes that were measured.

    Ours in memory as a layer's bytes grow, which is more than a line through
    both; all else on a straight line over the weights' bytes.
    """
    sizes = [scripts.get(f"streaming-{size}") for size in ("1.5b", "7b")]
    if None in sizes:
        return []
    small, large = ({r["name"]: r for r in s["rows"]} for s in sizes)

    def at_large(name, side):
        ends = [(row[name]["at"], row[name][side]) for row in (small, large)]
        if None in (ends[0][1], ends[1][1]):
            return "-"
        (less, y), (more, y_more) = ends
        if side == "ours" and large[name]["unit"] == "MB":
            value = y_more * LARGE["layer"] / more["layer"]
        else:
            slope = (y_more - y) / (more["weights"] - less["weights"])
            value = y_more + (LARGE["weights"] - more["weights"]) * slope
        return f"{number(value)} {large[name]['unit']}"

    cells = [
        [name, at_large(name, "ours"), at_large(name, "peer")]
        for name in small
        if name in large
    ]
    return [
        f"Qwen2.5-72B ({LARGE['weights']:,.0f} MB in bfloat16), **by "
        "arithmetic, not measured**: ours in memory as the bytes of a layer "
        "grow from 7B's, all else on a straight line through the two sizes "
        "above over the bytes of the weights.",
        "",
        *markdown_table(["what", "ours", "peer"], cells).splitlines(),
        "",
    ]


def made_with(part):
    """Day and versions of a part of the results (str)."""
    versions = ", ".join(f"{name} {part[name]}" for name in PACKAGES)
    return f"{part['date']}; Python {part['python']}, {versions}"


def machine_part(whole):
    """One machine's tables (list of lines)."""
    scripts = [{**whole, **script} for script in whole["rows"].values()]
    named = whole["rows"].get("streaming-7b", {"minutes": 0})["minutes"]
    minutes = sum(script["minutes"] for script in scripts) - named
    without = ", without those of `streaming-7b`" if named else ""
    first = made_with(scripts[0])
    told = f"{first}; {minutes:.0f} minutes in all{without}."
    lines = [f"## {whole['machine']}", "", told, ""]
    for name, script in zip(whole["rows"], scripts):
        rows = script["rows"]
        lines += table(rows)
        told = dict.fromkeys(
            f"{row['sizes']}; {row['dtype']}, {row['threads']} thread"
            f"{'s' * (row['threads'] > 1)}, {row['clock']} clock"
            for row in rows
        )
        lines += ["", f"`{rows[0]['command']}`", ""]
        lines += [f"- {text}" for text in told]
        if name in NOT_ON_GPU:
            lines.append("- Not measured on a GPU")
        if made_with(script) != first:
            lines.append(f"- Measured {made_with(script)}")
        lines += [
            f'- Why "{row["name"]}" misses its target: {row["note"]}'
            for row in rows
            if row["met"] is False and row["note"]
        ]
        alone = [row for row in rows if row["peer"] is None]
        lines += [f'- "{r["name"]}" has no peer: {r["note"]}' for r in alone]
        lines.append("")
    return lines + by_arithmetic(whole["rows"])


def gpu_part(whole):
    """A card's tables (list of lines)."""
    head = (
        f"{whole['device']}, {whole['date']}; torch {whole['torch']}, "
        f"transformers {whole['transformers']}; copies "
        f"{whole['copy_gb_per_s']:.0f} GB/s. Random weights in bfloat16, "
        "utterances of 15 s, 50 tokens each."
    )
    parts = [*decoding_part(whole), *training_part(whole)]
    return [head, "", f"`{whole['command']}`", "", *parts]


def decoding_part(whole):
    """Tokens, utterances and memory of whole and pruned decoders."""
    lines = [
        "Milliseconds a token, in brackets as a multiple of the memory's "
        "floor (target: at most 1.6); seconds an utterance, encoder included;"
        " peak of the plain way.",
        "",
    ]
    header = ["decoder", "layers removed", "batch", "plain", "`decode_static`"]
    header += ["utterance, plain", "utterance, `decode_static`", "peak GiB"]
    cells = [
        [name, depth, title.split()[-1], *decoding_cells(found)]
        for name, depths in whole["results"].items()
        for depth, batches in depths.items()
        for title, found in batches.items()
    ]
    lines += markdown_table(header, cells).splitlines()
    speed_ups = [
        f"{name} {entry['speed_up_plain']:.2f} plain, "
        f"{entry['speed_up_static']:.2f} with `decode_static`"
        for name, depths in whole["summary"].items()
        for depth, entry in depths.items()
        if depth != "0"
    ]
    removed = {d for depths in whole["results"].values() for d in depths}
    lines += [
        "",
        f"- An utterance at batch 1 with {' or '.join(sorted(removed - {'0'}))} "
        "layers removed, times faster than whole (the paper's Llama: 1.35): "
        f"{'; '.join(speed_ups)}.",
    ]
    same, changed = whole["same_tokens"], whole["batch_invariance"]
    if "decoder" in same:
        lines.append(
            f"- Checked in fp32, {same['decoder']}: `decode_static` says the "
            f"same {same['tokens']} tokens as the plain way: "
            f"{', '.join(f'{b} {v}' for b, v in same.items() if 'batch' in b)}."
            " In bfloat16 random weights have near ties, which any change of "
            "kernel settles anew; trained ones:"
        )
    for dtype, row in changed.items():
        if isinstance(row, dict):
            lines.append(
                f"- `mini-qwen2`, {row['rows']} translations, {dtype}: "
                f"{row['changed_by_batch']:.0%} change between batches of 1 "
                f"and 8, {row['changed_by_recording']:.0%} with "
                "`decode_static`."
            )
    return [*lines, ""]


def decoding_cells(found):
    """The measured cells of a row (list of str)."""
    if "plain" not in found:
        reason = found.get("skipped", found.get("failed", "-"))
        return [reason, "", "", "", ""]
    ways = [found[way] for way in ("plain", "static")]
    cells = [f"{1e3 * w['token_s']:.1f} ({w['over_floor']:.2f})" for w in ways]
    cells += [number(way["utterance_s"]) for way in ways]
    return [*cells, measured(found, "peak_gib", 2)]


def measured(found, key, digits):
    """A value to some digits, a dash where there is none (str)."""
    value = found.get(key)
    return "-" if value is None else f"{value:.{digits}f}"


def training_part(whole):
    """A projector's step and the encoder's memory, change by change."""
    digits = {"step_s": 3, "encoder_s": 3, "peak_gib": 1}
    steps = [
        [name, change, *(measured(found, *one) for one in digits.items())]
        for name, changes in whole["training"].items()
        for change, found in changes.items()
        if "step_s" in found
    ]
    digits = {"peak_gib": 2, "seconds": 3}
    encoders = [
        [
            title,
            *(measured(found, *one) for one in digits.items()),
            f"{found['difference']:.1e}",
        ]
        for title, found in whole["encoder_memory"].items()
        if "seconds" in found
    ]
    header = ["decoder", "change", "step, s", "of it encoder, s", "peak GiB"]
    return [
        "A projector's training step, WavLM-Large in the loop, 16 utterances "
        "of 9 to 15 s; each change on top of those above it.",
        "",
        *markdown_table(header, steps).splitlines(),
        "",
        "The encoder on 16 utterances of 21 to 35 s, memory above its weights "
        "and what features differ by (relative; TF32 convolutions):",
        "",
        *markdown_table(
            ["encoder", "peak GiB", "seconds", "difference"], encoders
        ).splitlines(),
    ]


def write_readme(results, file):
    """Make the page."""
    machines, cards = [], []
    for path in sorted(results.glob("*.json")):
        whole = json.loads(path.read_text())
        if "copy_gb_per_s" in whole:
            cards += [*gpu_part(whole), ""]
        else:
            machines += machine_part(whole)
    head = ["## One GPU, the paper's sizes", ""]
    lines = [HEAD, *machines, *head, *(cards or [GPU_NONE]), LEARNED]
    file.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    write_readme(HERE / "results", HERE / "README.md")
