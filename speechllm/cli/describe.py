"""What a path holds, for ``speechllm info``."""

import math
import os

from speechbrain_ext.layers.converting import read_head
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.plans import is_plans, load_plans
from speechbrain_ext.layers.removal import ranges
from speechbrain_ext.runs.result import load_run
from speechllm.export.card import removed_of
from speechllm.exported.format import (
    MANIFEST,
    ExportError,
    ExportFolder,
    read_json,
)
from speechllm.text_rules import is_comparison, read_comparison


def describe(path: str) -> dict:
    """What a path holds."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: is not there")
    if os.path.isfile(path):
        if is_comparison(path):
            return _comparison(path)
        return _plans(path) if is_plans(path) else _table(path)
    if os.path.isfile(os.path.join(path, MANIFEST)):
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
            "scores": {
                where: f"{score['metric']} {score['value']:.2f}"
                for where, score in one.about.get("scores", {}).items()
                if score["value"] is not None
            },
        }
        for name, one in export.tasks.items()
    }
    return about


def _run(path):
    run = load_run(path)
    told = (
        "name status task backbone encoder layers removed removed_layers "
        "start healing steps"
    )
    about = {"kind": "run"} | {n: getattr(run, n) for n in told.split()}
    about["scores"] = {name: str(one) for name, one in run.scores.items()}
    return about


def _plans(path):
    plans = load_plans(path)
    about = {"kind": "removal plans"}
    for one in plans[:1]:
        about |= {"rule": one.rule, "model": one.model}
        about |= {"layers": one.num_layers, "data": one.data}
    about["plans"] = {
        f"{one.size} layers": ranges(one.layers)
        + ("" if one.value is None else f", score {one.value:.4f}")
        for one in plans
    }
    return about


def _comparison(path):
    report = read_comparison(path)
    about = {"kind": "comparison of rules"}
    about |= {name: report[name] for name in ("model", "layers")}
    about["perplexity_before"] = report["perplexity_before"]
    about["plans"] = {
        f"{one['rule']}, {len(one['removed'])} layers": ranges(one["removed"])
        + f", perplexity {one['perplexity']:.2f}"
        for one in report["plans"]
    }
    return about


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
    files = sorted(n for n in os.listdir(path) if n.endswith(".safetensors"))
    places = [
        place
        for name in files
        for place in read_head(os.path.join(path, name)).values()
    ]
    values = sum(math.prod(place.shape) for place in places)
    names = (
        "model_type num_hidden_layers hidden_size vocab_size "
        "tie_word_embeddings"
    )
    about = {"kind": "Hugging Face model"}
    about |= {n: config[n] for n in names.split() if n in config}
    about["values"] = values
    about["bytes"] = sum(
        math.prod(place.shape) * place.dtype.itemsize for place in places
    )
    types = {str(place.dtype).removeprefix("torch.") for place in places}
    about["types"] = sorted(types)
    pruning = os.path.join(path, "pruning.json")
    if os.path.isfile(pruning):
        about["pruning"] = read_json(pruning)
    return about
