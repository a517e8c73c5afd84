"""A recipe's README as SpeechBrain's readers know them."""

import re
from pathlib import Path

from speechllm.report.tables import markdown_table
from upstream.rows import plain_values

TEMPLATES = Path(__file__).parent / "templates"

# Per dataset: title, what it does, how data are got, the scores of a row.
ABOUT = {
    "LibriSpeech": (
        "Speech LLMs with redundant decoder layers removed, on LibriSpeech",
        "/path/to/LibriSpeech",
        "Training data: LibriSpeech, 960 hours. Metric: WER in per cent after "
        "Whisper's English normaliser.",
        ["test-clean", "test-other"],
    ),
    "CoVoST": (
        "Speech translation by LLMs with redundant decoder layers removed, on "
        "CoVoST 2",
        "/path/to/cv-corpus-4/en",
        "Training data: CoVoST 2. Metric: SacreBLEU on cased text with "
        "punctuation; its signature stands in each run's `result.json`. The "
        "data are prepared by `covost2_prepare.py`, which keeps case, "
        "punctuation and every sentence, as SacreBLEU wants them.",
        ["test"],
    ),
    "Loquacious": (
        "Speech LLMs with redundant decoder layers removed, on the Loquacious "
        "set",
        "/path/to/LoquaciousSet",
        "Training data: a subset of the Loquacious set (`small`: 250 hours). "
        "Metric: WER in per cent after Whisper's English normaliser. The audio "
        "is read from the Parquet files themselves. `evaluate.py` scores a run "
        "of any ASR recipe of this kind on this set.",
        ["dev", "test"],
    ),
    "OwnData": (
        "Speech LLMs with redundant decoder layers removed, on your own "
        "recordings",
        "/path/to/your/data",
        "Data: a Kaldi data folder, NeMo's JSON lines, an audiofolder of "
        "Hugging Face, or a CSV; training, validation and test data are given "
        "or drawn by speaker. Metric: WER in per cent after Whisper's "
        "normaliser for the language; SacreBLEU where translations are "
        "learned.",
        ["test"],
    ),
}
HEADER = ["Release", "hyperparams file", "Removed layers"]
FOOTER = ["HuggingFace link", "Model link", "GPUs"]


def readme(recipe, yamls, scores, tail, measured=True):
    """The README's text."""
    title, data, about, sets = ABOUT[recipe.dataset]
    first = next(name for name in yamls if not name.endswith("_prune"))
    text = (TEMPLATES / "README.md").read_text("utf-8")
    if not measured:
        # The script comes with a later pull request; train.py measures too.
        text = re.sub(r"# 2\. which.*?\n\n# 3\.", "# 2.", text, flags=re.S)
    fields = {
        "title": title,
        "about": about,
        "data": data,
        "first": first,
        "variants": markdown_table(
            ["hyperparams file", "Backbone", "Speech encoder", "Removed"],
            [variant(name, text) for name, text in yamls.items()],
        ),
        "results": markdown_table(
            HEADER + sets + FOOTER,
            [result(name, text, scores, sets) for name, text in yamls.items()],
        ),
    }
    for name, value in fields.items():
        text = text.replace(f"@{name}@", value.rstrip())
    return text.rstrip() + "\n\n\n" + tail.strip() + "\n"


def variant(name, text):
    """A row of the table of YAMLs."""
    plain = plain_values(text)
    backbone = plain["backbone"]["name"]
    if plain["adapt_attention"]:
        backbone += ", LoRA on q, k, v, o"
    removed = str(plain["prune_layers"] or "-")
    return [
        f"`{name}.yaml`",
        backbone,
        plain["speech_encoder"]["name"],
        removed,
    ]


def result(name, text, scores, sets):
    """A row of the table of results: what was measured, or dashes."""
    plain = plain_values(text)
    run = scores.get(plain["run_name"], {})
    found = [run.get("scores", {}).get(name) for name in sets]
    return [
        run.get("date", "-"),
        f"{name}.yaml",
        str(plain["prune_layers"]),
        *("-" if value is None else f"{value:.2f}" for value in found),
        "-",
        "-",
        run.get("gpus", "-"),
    ]


def closing_blocks(their_readme):
    """SpeechBrain's About and Citing blocks, from one of its own READMEs."""
    found = re.search(
        r"^# \*\*About SpeechBrain\*\*.*", their_readme, re.S | re.M
    )
    if not found or "# **Citing" not in found.group():
        raise ValueError(
            "that README has no About and Citing blocks at its end"
        )
    return found.group()
