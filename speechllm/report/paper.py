"""The paper's own figures, to stand beside a study's.

From "Measuring the Redundancy of Decoder Layers in SpeechLLMs", arXiv
2603.05121: Tables 1 and 2 and the figures of its text. Numbers of layers
are derived from the shares that it states.
"""

from speechllm.report.estimates import grouped

# Table 1: model, family, layers, removed; WER in per cent by set.
_SETS = ("test-clean", "test-other", "loquacious-dev")
_TABLE_1 = """
Qwen2.5-7B        Qwen2 28  0 2.01 4.77 12.21
Qwen2.5-7B        Qwen2 28  8 2.36 4.83 14.91
Qwen2.5-7B+lora   Qwen2 28  0 1.70 3.56 10.99
Qwen2.5-7B+lora   Qwen2 28  5 2.02 4.26 13.01
Qwen2.5-3B        Qwen2 36  0 2.22 4.83 17.24
Qwen2.5-3B        Qwen2 36 11 2.53 5.12 16.69
Qwen2.5-1.5B      Qwen2 28  0 2.59 5.05 16.94
Qwen2.5-1.5B      Qwen2 28  7 2.83 5.97 19.79
Llama-3.1-8B      Llama 32  0 2.65 5.03 20.50
Llama-3.1-8B      Llama 32 14 3.28 6.28 18.92
Llama-3.2-3B      Llama 28  0 2.25 5.30 25.47
Llama-3.2-3B      Llama 28 11 2.71 6.32 25.72
Llama-3.2-1B      Llama 16  0 2.61 5.52 28.05
Llama-3.2-1B      Llama 16  1 2.73 6.28 32.05
"""
# Table 2: layers removed; BLEU along AST's and along ASR's path.
_TABLE_2 = """
AST fr-en 28  0 39.03 39.03
AST fr-en 28  3 37.23 37.23
AST fr-en 28  6 36.09 36.09
AST fr-en 28  9 36.12 36.12
AST fr-en 28 12 32.87 32.93
AST en-de 28  0 27.66 27.66
AST en-de 28  3 27.46 27.40
AST en-de 28  6 25.57 25.55
AST en-de 28  9 25.40 25.40
AST en-de 28 12 17.08 17.07
"""
# 40 % of Llama-3.1-8B's layers removed, on an H100.
SPEED = {"share": 0.40, "speedup": 0.35, "memory_gib": (15.72, 10.37)}


def table_1():
    """The paper's Table 1."""
    return [
        {
            "model": name.partition("+")[0],
            "adapter": name.partition("+")[2],
            "family": family,
            "layers": int(layers),
            "removed": int(removed),
            "scores": dict(zip(_SETS, map(float, scores))),
        }
        for name, family, layers, removed, *scores in _rows(_TABLE_1)
    ]


def table_2():
    """The paper's Table 2."""
    return [
        {
            "task": f"{kind} {pair}",
            "layers": int(layers),
            "removed": int(removed),
            "own": float(own),
            "asr": float(asr),
        }
        for kind, pair, layers, removed, own, asr in _rows(_TABLE_2)
    ]


def _rows(table):
    return map(str.split, table.strip().split("\n"))


def prunable_shares():
    """By family, largest first: what share of layers Table 1 removes."""
    return _by_family(True, lambda row: 100 * row["removed"] / row["layers"])


def baselines():
    """By family, largest first: the unpruned models' WER by set."""
    return _by_family(False, lambda row: row["scores"])


def _by_family(pruned, figure):
    return grouped(
        (row["family"], (row["model"], figure(row)))
        for row in table_1()
        if bool(row["removed"]) == pruned and not row["adapter"]
    )
