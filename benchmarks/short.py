"""The few figures of the benchmarks that the README has, from the results."""

import json
from pathlib import Path

from speechllm.report.tables import markdown_table

# What, beside what, and the rows that tell it: script, and how names begin.
ROWS = (
    (
        "greedy decoding, 100 tokens, vocabulary of 151,936, batch 1 / 8",
        "SpeechBrain's `S2SHuggingFaceLLMGreedySearcher`, same tokens",
        "decoding_speechbrain",
        (
            "greedy decoding, batch 1, 100 tokens, 384 wide",
            "greedy decoding, batch 8, 100 tokens, 128 wide",
        ),
    ),
    (
        "training step of the projector, frozen 4-layer decoder",
        "logits at all positions, same loss and gradient",
        "training_projector",
        (
            "projector training step, 4 layers;",
            "projector training step, 4 layers, peak memory",
        ),
    ),
    (
        "redundancy table, all starts and sizes, 28 layers",
        "one run per block size with full logits (PruneMe's way)",
        "redundancy_table",
        ("redundancy table, all starts and sizes; peer: a run per block size",),
    ),
    (
        "evaluation of utterances of mixed lengths",
        "batch 1, same WER (fp32)",
        "evaluation",
        ("evaluation of ",),
    ),
    (
        "`speechllm prune`, 8 layers of a 7B model, from files to files",
        "mergekit's passthrough, same tensors",
        "streaming-7b",
        (
            "prune_command; peer: prune_mergekit",
            "prune_command, peak memory; peer: prune_mergekit",
        ),
    ),
)


def figures(results):
    """Texts by name, of what was measured (dict of str)."""
    pages = [json.loads(file.read_text()) for file in sorted(results.glob("*"))]
    machines = [page for page in pages if "machine" in page]
    cards = [page for page in pages if "copy_gb_per_s" in page]
    found = {"benchmarks-rows": short_table(page) for page in machines[:1]}
    return found | {"benchmarks-gpu": gpu_text(page) for page in cards[:1]}


def short_table(page):
    """Five rows at most (str)."""
    cells = []
    for what, beside, script, names in ROWS:
        if script not in page["rows"]:
            continue
        rows = page["rows"][script]["rows"]
        found = [
            next(row for row in rows if row["name"].startswith(name))
            for name in names
        ]
        if all(row["ratio"] for row in found):
            cells.append([what, beside, told(found)])
    return markdown_table(["what", "beside", "ours"], cells)


def told(rows):
    """Ratios in words: speed, and memory (str)."""
    fast = [f"{row['ratio']:.2g}" for row in rows if row["unit"] == "s"]
    share = [row["ratio"] for row in rows if row["unit"] == "MB"]
    words = [f"{' / '.join(fast)} times as fast"]
    return ", ".join(words + [f"{one:.0%} of the memory" for one in share])


def gpu_text(page):
    """What one card was measured to do, in a sentence (str)."""
    whole = page["results"]["Llama-3.1-8B"]["0"]["batch 1"]
    plain, static = whole["plain"], whole["static"]
    steps = [one["step_s"] for one in page["training"]["Qwen2.5-7B"].values()]
    # The last one trades time for memory.
    before, *_, after, _ = steps
    (depth,) = page["summary"]["Llama-3.1-8B"].keys() - {"0"}
    pruned = page["summary"]["Llama-3.1-8B"][depth]
    return (
        f"One {page['device']}, random bfloat16 weights: `decode_static` says "
        f"a token of Llama-3.1-8B at batch 1 in {1e3 * static['token_s']:.1f} "
        f"ms instead of {1e3 * plain['token_s']:.1f} "
        f"({static['over_floor']:.2g} times what reading the weights takes), a "
        "projector's training step with Qwen2.5-7B and WavLM-Large takes "
        f"{after:.2f} s instead of {before:.2f}, and {depth} of Llama's 32 "
        "layers removed make an utterance "
        f"{pruned['speed_up_plain']:.2f} times as fast "
        f"({pruned['speed_up_static']:.2f} with `decode_static`)."
    )


if __name__ == "__main__":
    for text in figures(Path(__file__).parent / "results").values():
        print(text, end="\n\n")
