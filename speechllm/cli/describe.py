"""What a path holds, for ``speechllm info``."""

import math
import os
from collections import Counter

from speechbrain_ext.layers.converting import read_head
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.plans import is_plans, load_plans
from speechbrain_ext.layers.removal import ranges
from speechbrain_ext.runs.files import of_form
from speechbrain_ext.runs.result import load_run
from speechllm.export.card import removed_of
from speechllm.exported.format import (
    AGAIN,
    MANIFEST,
    ExportError,
    ExportFolder,
    read_json,
)
from speechllm.text_rules import is_comparison, read_comparison

# What is told of a run, and of a model's configuration.
RUN = (
    "name status task backbone encoder layers removed removed_layers start "
    "healing steps"
).split()
SHAPE = (
    "model_type num_hidden_layers hidden_size vocab_size tie_word_embeddings"
).split()


def describe(path: str) -> dict:
    """What a path holds."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: is not there")
    if os.path.isfile(path):
        if is_comparison(path):
            return _comparison(path)
        return _plans(path) if is_plans(path) else _table(path)
    if os.path.isfile(os.path.join(path, MANIFEST)):
        with of_form(path, ": notes of it are not as `export` writes", AGAIN):
            return _export(path)
    if os.path.isfile(os.path.join(path, "result.json")):
        return _run(path)
    if os.path.isfile(os.path.join(path, "config.json")):
        return _model(path)
    raise ExportError(
        f"{path}: neither an export, nor a run, nor a model: give the folder "
        "that holds its manifest.json, result.json or config.json"
    )


def _export(path):
    export = ExportFolder(path)
    about = {"kind": "exported speech LLM, every hash as in its manifest"}
    first = next(iter(export.tasks.values())).about
    about["backbone"] = export.config["backbone"]["source"]
    about["layers"] = len(export.kept)
    if "layers" in first and "kept_layers" in first:
        about["removed"] = removed_of(first)
    about["merged"] = bool(export.config.get("merged"))
    about["bytes"] = export.size()
    about["tasks"] = {
        name: {
            "task": one.task,
            "encoder": one.encoder.get("source") or one.encoder["name"],
            "prompt": one.prompt,
            "healing": one.about.get("healing"),
            "scores": one.scores(2),
        }
        for name, one in export.tasks.items()
    }
    return about


def _run(path):
    run = load_run(path)
    scores = {name: str(one) for name, one in run.scores.items()}
    told = {name: getattr(run, name) for name in RUN}
    return {"kind": "run", **told, "scores": scores}


def _plans(path):
    plans, about = load_plans(path), {"kind": "removal plans"}
    for one in plans[:1]:
        about |= {"rule": one.rule, "model": one.model}
        about |= {"layers": one.num_layers, "data": one.data}
    told = {
        f"{one.size} layers": ranges(one.layers)
        + ("" if one.value is None else f", score {one.value:.4f}")
        for one in plans
    }
    return {**about, "plans": told}


def _comparison(path):
    report = read_comparison(path)
    names = ("model", "layers", "perplexity_before")
    told = {
        f"{one['rule']}, {len(one['removed'])} layers": ranges(one["removed"])
        + f", perplexity {one['perplexity']:.2f}"
        for one in report["plans"]
    }
    known = {name: report[name] for name in names}
    return {"kind": "comparison of rules", **known, "plans": told}


def _table(path):
    table = RedundancyTable.load(path)
    return {
        "kind": "redundancy table",
        "layers": table.num_layers,
        "sequences": table.count,
        "provenance": table.provenance,
        "path": {
            f"{b.size} layers": f"from {b.start}, distance "
            f"{table.distances[b.size - 1, b.start]:.4f}"
            for b in table.path()
        },
    }


def _model(path):
    file = os.path.join(path, "config.json")
    config = read_json(file)
    if not isinstance(config, dict):
        raise ExportError(f"{file}: holds no settings of a model")
    sizes = Counter()
    for name in sorted(os.listdir(path)):
        if name.endswith(".safetensors"):
            for place in read_head(os.path.join(path, name)).values():
                sizes[place.dtype] += math.prod(place.shape)
    about = {"kind": "Hugging Face model"}
    about |= {name: config[name] for name in SHAPE if name in config}
    about["values"] = sizes.total()
    about["bytes"] = sum(n * dtype.itemsize for dtype, n in sizes.items())
    about["types"] = sorted(str(t).removeprefix("torch.") for t in sizes)
    pruning = os.path.join(path, "pruning.json")
    if os.path.isfile(pruning):
        about["pruning"] = read_json(pruning)
    return about
