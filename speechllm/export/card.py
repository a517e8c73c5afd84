"""The model card of an export, in the hub's form."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from speechbrain_ext import __version__
from speechbrain_ext.layers.removal import ranges
from speechllm.exported.format import BASELINE_ADAPTER, TaskSettings
from speechllm.report.tables import markdown_table

KINDS = {
    "WER": "automatic-speech-recognition",
    "BLEU": "translation",
    "chrF": "translation",
}
# The hub's own ids of licences; another licence is "other" with a name.
UNKNOWN = "unknown"

# It is on no index yet; `pip wheel --no-deps .` makes the wheel in a clone.
INSTALL = f"pip install speechllm-{__version__}-py3-none-any.whl"

HEAD = """# {title}

A speech LLM exported with speechllm {version}: a frozen speech encoder, a trained
projector and a causal LM{pruned}. `backbone/` is a plain Hugging Face causal
LM, `tasks/<name>/` a projector and (where there are some) PEFT adapters, all of
which are to be active at once.

```
{install}  # this version's wheel, or a later one's
```

```python
import speechllm

model = speechllm.load("{title}")
print(model.transcribe("some.wav").text)
```
"""

BRIDGE = """## Bridges

Where layers were removed, the stream crosses a bridge (`bridge.safetensors` of
the tasks {tasks}). Loaded as above, the bridges are there. **Plain transformers
does not know them**: `backbone/` alone, or with its adapter, is not the model
that was scored.
"""

LIMITS = """## Limits

- Scores are on the sets named above and say nothing of other speech, languages
  or recording conditions. Decoding is greedy.
- Audio longer than {seconds:g} s is cut at quiet points, decoded piece by piece
  and put together; nothing carries over from one piece to the next.
- The model writes text for any sound, silence and music included, and can write
  what was never said. What it learned from its data, errors and biases with it,
  is kept.
- Removed layers were chosen for the task and data named here; other abilities
  of the backbone, general text among them, are likely worse than before.
"""


def model_card(
    title: str,
    tasks: dict[str, TaskSettings],
    licence: dict[str, str],
    merged: bool,
) -> str:
    """The whole ``README.md``."""
    first = next(iter(tasks.values())).about
    removed = removed_of(first)
    pruned = ""
    if removed:
        pruned = f" without {len(removed)} of its {first['layers']} layers"
    seconds = max(task.piece_seconds for task in tasks.values())
    bridged = [f"`{name}`" for name, task in tasks.items() if task.bridge]
    parts = [
        f"---\n{_head(tasks, licence)}\n---\n",
        HEAD.format(
            title=title, pruned=pruned, version=__version__, install=INSTALL
        ),
        _lineage(
            first, merged, any(t.baseline_adapter for t in tasks.values())
        ),
        *([BRIDGE.format(tasks=", ".join(bridged))] if bridged else []),
        *(_task(name, task) for name, task in tasks.items()),
        LIMITS.format(seconds=seconds),
        _licence(first, licence),
    ]
    return "\n".join(parts)


def removed_of(about: dict[str, Any]) -> list[int]:
    """Old indices of the removed layers."""
    kept = set(about["kept_layers"])
    return [i for i in range(about["layers"]) if i not in kept]


def _head(tasks, licence):
    """The card's YAML head, scores as the hub's model-index."""
    about = next(iter(tasks.values())).about
    results = [
        EvalResult(
            task_type=KINDS.get(score["metric"], "other"),
            dataset_type=name,
            dataset_name=name,
            metric_type=score["metric"].lower(),
            metric_value=round(score["value"], 2),
            metric_name=score["metric"],
        )
        for task in tasks.values()
        for name, score in task.about["scores"].items()
        if score["value"] is not None
    ]
    source = about["backbone"]["source"]
    licence = dict(licence) or {"license": UNKNOWN}
    data = ModelCardData(
        **licence,
        library_name="speechbrain_ext",
        pipeline_tag="automatic-speech-recognition",
        tags=["speech-llm", "layer-pruning", "speechbrain"],
        base_model=source if "/" in source else None,
        model_name=about["run"] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _lineage(about, merged, adapters):
    backbone, removed = about["backbone"], removed_of(about)
    revision = backbone["revision"]
    at = f" (revision `{revision}`)" if revision else ""
    lines = [
        "## Where it comes from\n",
        f"- Backbone: `{backbone['source']}`{at}, {about['layers']} layers.",
        f"- Speech encoder: `{about['encoder']}`, frozen.",
    ]
    if about["baseline_adapter"]:
        beside = f" (`tasks/<name>/{BASELINE_ADAPTER}/`)" if adapters else ""
        where = "stays beside" if adapters else "is part of"
        lines.append(
            f"- LoRA of the unpruned system {where} the weights{beside}."
        )
    if removed:
        lines.append(
            f"- Removed: layers {ranges(removed)} (counted from 0), "
            f"{100 * len(removed) / about['layers']:.1f} % of the layers."
        )
        lines.append(_why(about["path"] or {}))
        lines.append(f"- Healed: {_healing(about, merged)}.")
    kept = ranges(about["kept_layers"])
    lines.append(f"- Kept, in this order: layers {kept}.")
    return "\n".join(lines) + "\n"


def _why(path):
    """Why these layers, in a line."""
    told = "- Why these: "
    if "distance" not in path and "rule" in path:
        return told + _rule(path)
    if "distance" not in path:
        return told + "chosen by hand."
    return (
        told + "of all blocks of this size theirs changes the last token's "
        f"state least, an angular distance of {path['distance']:.4f} on "
        f"{path.get('count')} sequences of {path.get('input', 'given')} "
        f"({path.get('task', 'text')}); see arXiv 2603.05121."
    )


def _rule(path):
    """What a plan's rule saw in them."""
    text = f"chosen by the rule `{path['rule']}`"
    if path.get("utterances"):
        text += f" on {path['utterances']} sequences of "
        text += f"{path.get('input', 'given')} ({path.get('task', 'text')})"
    if path.get("value") is not None:
        text += f"; {path.get('value_is', 'its score')}: {path['value']:.4f}"
    return text + "."


def _healing(about, merged):
    parts = about["trainable"] or {}
    counts = ", ".join(f"{n:,} in the {part}" for part, n in parts.items())
    text = f"`{about['healing']}`, {about['steps']} steps"
    text += f", trained values: {counts}" if counts else ""
    if merged and "adapter" in parts:
        text += "; the adapter is folded into the backbone"
    return text


def _task(name, task):
    lines = [
        f"## Task `{name}`: {task.task}\n",
        f"Prompt `{task.prompt!r}`, {task.downsampling} frames a speech token.",
    ]
    train = task.about.get("train")
    if train:
        hours = task.about["data"].get("train", {}).get("hours") or 0
        lines.append(f"Trained on {', '.join(train)} ({hours:.1f} h).")
    rows = []
    for where, score in task.about["scores"].items():
        value = "none" if score["value"] is None else f"{score['value']:.2f}"
        ends = score["interval"]
        ends = f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "unknown"
        told = f"{score['metric']} {value}"
        rows.append([where, score["utterances"], told, ends])
    header = ["set", "utterances", "score", "95 % interval"]
    return "\n".join([*lines, "", markdown_table(header, rows)])


def _licence(about, licence):
    named = licence.get("license_name") or licence.get("license")
    if not named:
        text = (
            f"The licence of `{about['backbone']['source']}` was not found "
            "where it was loaded from: look it up before you pass this on."
        )
    else:
        text = (
            f"The backbone's licence, {named}, holds for this derivative of "
            "it; its texts, where it has some, lie in `backbone/`."
        )
    return f"## Licence\n\n{text}\n"
