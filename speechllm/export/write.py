"""Write finished runs as plain Hugging Face and PEFT folders.

The folder is written beside its place under another name, read back,
compared with the runs it was made from, and only then given its name: what
stands there under the wanted name is whole and right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from speechbrain_ext.healing.bridge import remove_bridges
from speechbrain_ext.healing.frozen_adapter import fold_frozen_adapter
from speechbrain_ext.layers.saved_lm import SHARD
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.runs.files import write_json, write_text
from speechbrain_ext.runs.folders import whole_folder
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.export.card import model_card
from speechllm.export.parts import (
    backbone_source,
    licence_of,
    save_backbone,
    write_task,
)
from speechllm.export.verify import compare_probes, probe, reload_probes
from speechllm.exported.format import (
    BACKBONE,
    CARD,
    CONFIG,
    FORMAT,
    MANIFEST,
    PREPROCESSOR,
    ExportError,
    file_hash,
    files_of,
)
from speechllm.kind import MODEL_TYPE, SAMPLING_RATE
from speechllm.multitask import MultiTask
from speechllm.saved import check_target


def export_runs(
    runs: list[str],
    folder: str,
    merge: bool = False,
    licence: str | None = None,
    overwrite: bool = False,
    shard_size: str = SHARD,
    device: str = "cpu",
    tell: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Write one or more finished runs as a folder to load anywhere."""
    folder = os.path.normpath(folder)
    check_target(folder, MANIFEST, overwrite)
    named = _named_runs(runs)
    if merge and len(named) > 1:
        raise ExportError(
            "merge: several tasks share the backbone, and each has its own "
            "adapter: export one run, or leave the adapters as they are"
        )
    first = next(iter(named.values()))
    with whole_folder(folder) as unfinished:
        with quiet_loading():
            settings, probes = _write_models(
                named, unfinished, merge, shard_size, device, tell
            )
            told = licence_of(*backbone_source(first))
            if licence:
                told = {"license": licence}
            title = os.path.basename(os.path.abspath(folder))
            card = model_card(title, settings, told, merge)
            write_text(os.path.join(unfinished, CARD), card)
            _write_heads(unfinished, first, settings, merge)
        tell("Reading it back and comparing")
        found = reload_probes(unfinished, device)
        differences = compare_probes(probes, found, merge)
        sizes = _sizes(unfinished)
    return {
        "folder": folder,
        "tasks": list(named),
        "layers": len(first.kept),
        "removed": list(first.removed),
        "merged": merge,
        "bytes": sum(sizes.values()),
        "differences": differences,
    }


def _named_runs(runs):
    """Runs by the names of their tasks (dict)."""
    named = {}
    for folder in runs:
        run = TrainedRun(folder)
        if run.result.status != "done":
            raise ExportError(
                f"{folder}: its status is {run.result.status}, not done: "
                "finish it first, with the same command that began it"
            )
        # "AST en-de" is "ast_en_de".
        name = re.sub(r"\W+", "_", run.result.task.lower()).strip("_") or "task"
        if name in named:
            raise ExportError(
                f"{folder}: its task {run.result.task} is that of "
                f"{named[name].folder} too: export one of them"
            )
        named[name] = run
    return named


def _write_models(named, out, merge, shard_size, device, tell):
    """Backbone, encoders and tasks; gives the tasks' settings and probes."""
    first = next(iter(named.values()))
    tell("Loading the backbone")
    tasks = MultiTask(device)
    tasks.decoder = decoder = first.load_decoder(device)
    backbone = os.path.join(out, BACKBONE)
    if not merge:
        # Before the tasks' adapters are put into it.
        save_backbone(decoder, first, backbone, shard_size, tell)
    for name, run in named.items():
        tasks.add_run(name, run)
    encoders = {}
    settings = {
        name: write_task(out, name, run, tasks.models[name], merge, encoders)
        for name, run in named.items()
    }
    tell("Trying the model")
    probes = {name: probe(tasks.use(name), settings[name]) for name in named}
    if merge:
        if decoder.adapter is not None:
            decoder.lm = decoder.adapter.merge_and_unload()
            decoder.use_adapter(None)
        fold_frozen_adapter(decoder)
        # They have a file of their own; the backbone is a plain one.
        remove_bridges(decoder)
        save_backbone(decoder, first, backbone, shard_size, tell)
    return settings, probes


def _write_heads(out, run, settings, merge):
    """config.json, and last the manifest of all files."""
    about = next(iter(settings.values())).about
    layers = {
        "whole_layers": about["layers"],
        "kept_layers": list(run.kept),
    }
    recognise = [n for n, one in settings.items() if one.task.startswith("ASR")]
    config = {
        "format": FORMAT,
        "model_type": MODEL_TYPE,
        "library_name": "speechbrain_ext",
        "backbone": {
            **about["backbone"],
            "dtype": run.settings["backbone"]["dtype"],
            **layers,
        },
        "merged": merge,
        "tasks": list(settings),
        "default_task": [*recognise, *settings][0],
    }
    write_json(os.path.join(out, CONFIG), config)
    waveforms = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLING_RATE,
        "padding_value": 0.0,
        "do_normalize": False,
        "return_attention_mask": True,
    }
    write_json(os.path.join(out, PREPROCESSOR), waveforms)
    files = {
        name: {"bytes": size, "sha256": file_hash(os.path.join(out, name))}
        for name, size in _sizes(out).items()
    }
    manifest = {"format": FORMAT, **layers, "files": files}
    write_json(os.path.join(out, MANIFEST), manifest)


def _sizes(folder):
    """Bytes of each file below a folder (dict)."""
    names = files_of(folder)
    return {n: os.path.getsize(os.path.join(folder, n)) for n in names}
