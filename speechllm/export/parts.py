"""The parts of an export: backbone, encoders, tasks."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import yaml
from huggingface_hub.repocard import metadata_load
from safetensors.torch import save_file
from transformers.utils import cached_file, extract_commit_hash

from speechbrain_ext.healing.lora import kept_adapter
from speechbrain_ext.layers.saved_lm import save_causal_lm
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.encoder_load import load_config, load_extractor
from speechbrain_ext.model.speech_llm import SpeechLLM
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.runs.reading import read_utterances
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.exported.check import LORA_KEYS
from speechllm.exported.format import (
    ADAPTER,
    BACKBONE,
    BASELINE_ADAPTER,
    BRIDGE,
    ENCODER_OPTIONS,
    ENCODERS,
    OF_A_RUN,
    PROJECTOR,
    TASK,
    TASKS,
    ExportError,
    TaskSettings,
    files_of,
)

LICENCE_FILES = (
    "LICENSE LICENSE.txt LICENSE.md NOTICE NOTICE.txt USE_POLICY.md"
).split()
# What a result and its scores tell of an export.
RESULT = "layers steps trainable data versions".split()
SCORE = (
    "metric value interval utterances speakers signature language normaliser "
    "hit_limit"
).split()
# Seconds; where no run tells how long its utterances were.
USUAL_PIECE = 30.0


# ----------------------------------------------------------------------------
# What an export says of where it came from, without any machine's paths.


def source_file(
    source: str, name: str, revision: str | None = None
) -> str | None:
    """Path of a file of a hub model that is loaded already, or of a folder."""
    return cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def commit_of(source: str, revision: str | None) -> str | None:
    """The commit of a hub model that lies in the cache."""
    if os.path.isdir(source):
        return None
    path = source_file(source, "config.json", revision)
    return extract_commit_hash(path, None) or revision


def licence_of(source: str, revision: str | None = None) -> dict[str, str]:
    """Licence of a model, as its card's head says it."""
    path = source_file(source, "README.md", revision)
    try:
        head = (metadata_load(path) if path else None) or {}
    except (ValueError, yaml.YAMLError):
        # A card that nobody can read names no licence.
        head = {}
    keys = ("license", "license_name", "license_link")
    return {key: str(head[key]) for key in keys if head.get(key)}


def backbone_source(run: TrainedRun) -> tuple[str, str | None]:
    """Hub id or folder of a run's backbone, and its revision."""
    backbone = run.settings["backbone"]
    return backbone["source"], backbone.get("revision")


def _longest_seconds(run_folder):
    """The longest utterance that a run was scored on, in seconds."""
    durations = [
        row["duration"]
        for path in glob.glob(os.path.join(run_folder, "hypotheses-*.jsonl"))
        for row in read_utterances(path)
        if row.get("duration")
    ]
    # Above, never below, whatever the rounding.
    return round(max(durations) + 0.05, 1) if durations else USUAL_PIECE


def _public(told):
    """A hub id as it is; a local folder by its short name alone."""
    here = os.path.isdir(told["source"])
    return told["name"] if here else str(told["source"])


def _about_run(run):
    """A run's lineage and scores, for `task.json` and the card."""
    result, settings = run.result, run.settings
    path = dict(result.path or {})
    if path.get("from"):
        path["from"] = os.path.basename(str(path["from"]))
    return {
        "run": result.name,
        "backbone": {
            "name": settings["backbone"]["name"],
            "source": _public(settings["backbone"]),
            "revision": commit_of(*backbone_source(run)),
        },
        "encoder": _public(settings["speech_encoder"]),
        "kept_layers": list(run.kept),
        "healing": result.healing if result.removed else None,
        "baseline_adapter": result.adapter,
        "path": path or None,
        "lowercase_targets": settings.get("lowercase_targets"),
        "train": settings.get("train_splits"),
        **{key: getattr(result, key) for key in RESULT},
        "scores": {
            name: {key: getattr(one, key) for key in SCORE}
            for name, one in result.scores.items()
        },
    }


# ----------------------------------------------------------------------------
# The parts themselves.


def save_backbone(
    decoder: Decoder,
    run: TrainedRun,
    folder: str,
    shard_size: str,
    tell: Callable[[str], Any],
) -> None:
    """A plain causal LM with its tokenizer and licence texts."""
    tell("Writing the backbone")
    save_causal_lm(decoder.lm, decoder.tokenizer, folder, shard_size)
    # tokenizer.json says the same, and is JSON.
    for name in ("tokenizer.model", "spiece.model"):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            os.remove(path)
    source, revision = backbone_source(run)
    for name in LICENCE_FILES:
        text = source_file(source, name, revision)
        if text:
            shutil.copyfile(text, os.path.join(folder, name))
    _forget_paths(folder)


def _forget_paths(folder):
    """Take this machine's folders out of the settings that were saved."""
    for name in files_of(folder):
        path = os.path.join(folder, name)
        if not name.endswith(".json") or name == "tokenizer.json":
            continue
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        kept = {
            key: value
            for key, value in content.items()
            if not (isinstance(value, str) and os.path.isabs(value))
            and key != "_name_or_path"
        }
        if kept != content:
            write_json(path, kept)


def write_task(
    out: str,
    name: str,
    run: TrainedRun,
    model: SpeechLLM,
    merge: bool,
    encoders: dict[str, Any],
) -> TaskSettings:
    """Write a task's folder and, where the hub lacks it, its encoder's."""
    folder = os.path.join(out, TASKS, name)
    os.makedirs(folder)
    shutil.copyfile(run.projector_file, os.path.join(folder, PROJECTOR))
    # A merged one is part of the backbone; the baseline's has the numbers of
    # the layers before removal.
    adapters = {
        ADAPTER: (run.adapter_folder, None),
        BASELINE_ADAPTER: (run.frozen_adapter_folder, run.kept),
    }
    for inside, (source, kept) in adapters.items():
        if source and not merge:
            target = os.path.join(folder, inside)
            _write_adapter(model.decoder, source, target, kept)
    if run.bridge_file:
        shutil.copyfile(run.bridge_file, os.path.join(folder, BRIDGE))
    config = run.settings
    # A run from before there were windows kept features in 16 bit.
    former = config.get("cache_features") and "window" not in run.system
    halved = former and model.encoder.dtype == torch.float32
    settings = TaskSettings(
        task=run.result.task,
        **{key: config[key] for key in OF_A_RUN},
        encoder=_write_encoder(
            out, config["speech_encoder"], model.encoder, encoders
        ),
        adapter=bool(run.adapter_folder) and not merge,
        baseline_adapter=bool(run.frozen_adapter_folder) and not merge,
        bridge=bool(run.bridge_file),
        precision=config.get("eval_precision") or "fp32",
        features_dtype="float16" if halved else None,
        long_audio=config.get("long_audio", "error"),
        max_new_tokens=config["max_new_tokens"],
        max_tokens_per_second=config["max_tokens_per_second"],
        piece_seconds=_longest_seconds(run.folder),
        about=_about_run(run),
    )
    if faults := settings.faults():
        raise ExportError(f"{run.folder}: {'; '.join(faults)}")
    write_json(os.path.join(folder, TASK), asdict(settings))
    return settings


def _write_adapter(decoder, source, folder, kept=None):
    """PEFT's own two files; of its settings only those that say something."""
    os.makedirs(folder)
    with open(os.path.join(source, "adapter_config.json")) as stream:
        config = json.load(stream)
    odd = [k for k in ("rank_pattern", "alpha_pattern") if config.get(k)]
    if odd:
        raise ExportError(
            f"{source}: its adapter has a {odd[0]}, which an export does not "
            "keep: use --merge"
        )
    config = {key: config[key] for key in LORA_KEYS if key in config}
    # Not the whole model's hub id: there, the layers have other numbers.
    config["base_model_name_or_path"] = BACKBONE
    config["inference_mode"] = True
    renumbered, state = kept_adapter(decoder, source, kept)
    config["layers_to_transform"] = renumbered.layers_to_transform
    write_json(os.path.join(folder, "adapter_config.json"), config)
    path = os.path.join(folder, "adapter_model.safetensors")
    save_file(state, path, metadata={"format": "pt"})


def _write_encoder(out, about, encoder, encoders):
    """How a task names its encoder; one that is a folder is written too."""
    told = {"name": about["name"], "kind": encoder.kind}
    # The longest piece and the norms are part of what it gives.
    keys = [k for k in ENCODER_OPTIONS if about.get(k) is not None]
    told |= {key: about[key] for key in ("dtype", *keys)}
    source, revision = about["source"], about.get("revision")
    if not os.path.isdir(source):
        commit = commit_of(source, revision)
        return {**told, "source": source, "revision": commit}
    base = f"{ENCODERS}/{re.sub(r'[^A-Za-z0-9_-]', '_', about['name'])}"
    inside, number = base, 2
    # Two tasks may have one encoder, or two that are called alike.
    while encoders.get(inside, encoder) is not encoder:
        inside, number = f"{base}-{number}", number + 1
    if inside not in encoders:
        encoders[inside] = encoder
        _save_encoder(about, encoder.core.model, os.path.join(out, inside))
    return {**told, "folder": inside}


def _save_encoder(about, model, folder):
    """An encoder's configuration, weights and feature extractor."""
    # Of Whisper only the encoder is there, under its own names.
    model.save_pretrained(folder)
    source, revision = about["source"], about.get("revision")
    config = load_config(source, revision, about["kind"])
    extractor = load_extractor(source, config, revision)
    if extractor is not None:
        extractor.save_pretrained(folder)
    _forget_paths(folder)
