"""Write finished runs as plain Hugging Face and PEFT folders.

The folder is written beside its place under another name, read back,
compared with the runs it was made from, and only then given its name: what
stands there under the wanted name is whole and right.
"""

import os
import re
import shutil
import uuid

from speechbrain_ext.healing.bridge import remove_bridges
from speechbrain_ext.healing.frozen_adapter import fold_frozen_adapter
from speechbrain_ext.layers.saved_lm import SHARD
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.runs.files import write_json, write_text
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
    ExportError,
    file_hash,
    files_of,
)
from speechllm.multitask import MultiTask


def export_runs(
    runs,
    folder,
    merge=False,
    licence=None,
    overwrite=False,
    shard_size=SHARD,
    device="cpu",
    tell=print,
):
    """Write one or more finished runs as a folder to load anywhere."""
    folder = os.path.normpath(folder)
    _check_target(folder, overwrite)
    named = _named_runs(runs)
    if merge and len(named) > 1:
        raise ExportError(
            "merge: several tasks share the backbone, and each has its own "
            "adapter: export one run, or leave the adapters as they are"
        )
    unfinished = f"{folder}.unfinished-{uuid.uuid4().hex[:8]}"
    os.makedirs(unfinished)
    try:
        with quiet_loading():
            probes, report = _write(
                named,
                unfinished,
                folder,
                merge,
                licence,
                shard_size,
                device,
                tell,
            )
        tell("Reading it back and comparing")
        found = reload_probes(unfinished, device)
        report["differences"] = compare_probes(probes, found, merge)
        _usual_rights(unfinished)
        if os.path.isdir(folder):
            shutil.rmtree(folder)
        os.rename(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return {"folder": folder, **report}


def task_name(task):
    """A task's name in an export: "AST en-de" is "ast_en_de" (str)."""
    return re.sub(r"\W+", "_", task.lower()).strip("_") or "task"


def _usual_rights(folder):
    """safetensors leaves files that only their owner may read; undo that."""
    mask = os.umask(0)
    os.umask(mask)
    for name in files_of(folder):
        os.chmod(os.path.join(folder, name), 0o666 & ~mask)


def _check_target(folder, overwrite):
    if os.path.isdir(folder) and os.listdir(folder) and not overwrite:
        raise ExportError(
            f"{folder}: is there already and not empty: give another folder, "
            "or --overwrite"
        )
    if overwrite and os.path.isdir(folder) and os.listdir(folder):
        if not os.path.isfile(os.path.join(folder, MANIFEST)):
            raise ExportError(
                f"{folder}: holds something else than an export, which is "
                "not overwritten: give another folder"
            )
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ExportError(f"{folder}: is a file: give another name")
    os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)


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
        name = task_name(run.result.task)
        if name in named:
            raise ExportError(
                f"{folder}: its task {run.result.task} is that of "
                f"{named[name].folder} too: export one of them"
            )
        named[name] = run
    return named


def _write(named, out, final, merge, licence, shard_size, device, tell):
    """Everything but the last rename; gives probes and report."""
    first = next(iter(named.values()))
    tell("Loading the backbone")
    tasks = MultiTask(device)
    tasks.decoder = first.load_decoder(device)
    backbone = os.path.join(out, BACKBONE)
    if not merge:
        save_backbone(tasks.decoder, first, backbone, shard_size, tell)
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
        decoder = tasks.decoder
        if decoder.adapter is not None:
            decoder.lm = decoder.adapter.merge_and_unload()
            decoder.use_adapter(None)
        fold_frozen_adapter(decoder)
        # They have a file of their own; the backbone is a plain one.
        remove_bridges(decoder)
        save_backbone(decoder, first, backbone, shard_size, tell)
    found = dict(licence_of(*backbone_source(first)))
    if licence:
        found = {"license": licence}
    _write_heads(out, final, first, settings, found, merge)
    removed = [i for i in range(first.system["layers"]) if i not in first.kept]
    report = {
        "tasks": list(named),
        "layers": len(first.kept),
        "removed": removed,
        "merged": merge,
        "bytes": sum(os.path.getsize(f"{out}/{n}") for n in files_of(out)),
    }
    return probes, report


def _write_heads(out, final, run, settings, licence, merge):
    """config.json, README.md, and last the manifest of all files."""
    about = next(iter(settings.values())).about
    names = list(settings)
    recognises = [n for n in names if settings[n].task.startswith("ASR")]
    write_json(
        os.path.join(out, CONFIG),
        {
            "format": FORMAT,
            "library_name": "speechbrain_ext",
            "backbone": {
                **about["backbone"],
                "dtype": run.settings["backbone"]["dtype"],
                "whole_layers": about["layers"],
                "kept_layers": list(run.kept),
            },
            "merged": merge,
            "tasks": names,
            "default_task": (recognises or names)[0],
        },
    )
    title = os.path.basename(os.path.abspath(final))
    write_text(
        os.path.join(out, CARD), model_card(title, settings, licence, merge)
    )
    write_json(
        os.path.join(out, MANIFEST),
        {
            "format": FORMAT,
            "whole_layers": about["layers"],
            "kept_layers": list(run.kept),
            "files": {
                name: {
                    "bytes": os.path.getsize(os.path.join(out, name)),
                    "sha256": file_hash(os.path.join(out, name)),
                }
                for name in files_of(out)
            },
        },
    )
