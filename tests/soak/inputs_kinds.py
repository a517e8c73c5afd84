"""The kinds of files of ours: sound ones, and what a command reads of them."""

from __future__ import annotations

import bz2
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from exported import make_run
from mini_study import MiniStudy
from safetensors.torch import load_file
from speech_llm_fixtures import make_decoder, make_encoder
from transformers import AutoModelForCausalLM

from soak import inputs_mutate
from soak.inputs_settings import (
    as_script,
    make_settings,
    make_study,
    make_values,
    make_words,
    read_settings,
    read_study,
    read_values,
    read_words,
    spoil_fragment,
    spoil_settings,
    spoil_study,
    spoil_values,
    spoil_words,
)
from soak.inputs_watch import Kind
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.plans import Plan, save_plans
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.runs.files import ODD_FORM, write_json, write_losses
from speechbrain_ext.training.checkpoints import random_state, read_state
from speechllm.cli import main as speechllm
from speechllm.export.write import export_runs
from speechllm.exported.format import file_hash
from speechllm.exported.model import ExportedSpeechLLM
from speechllm.report import pack
from speechllm.text_rules import FORMAT as COMPARISON

LAYERS = 6
CALLS = inputs_mutate.Canary()


# ----------------------------------------------------------------------------
# Tables, plans, comparisons of rules.


def make_tables(folder):
    """Tables of two tasks on one model."""
    for seed, name in enumerate(("speech", "text")):
        pairs = np.random.default_rng(seed).random((LAYERS + 1, LAYERS + 1))
        about = {"model": "tiny", "task": "ASR", "input": name}
        table = RedundancyTable.from_pairs(pairs, 0.1 * pairs, 9, about)
        table.save(folder / f"{name}.json")


def read_tables(place, random):
    """Say what one is, or compare it with the other."""
    one, other = place / "speech.json", place / "text.json"
    if random.random() < 0.5:
        return speechllm(["info", str(one)])
    words = ["compare", str(one), str(other)]
    return speechllm(words + ["--json"] * (random.random() < 0.5))


def make_plans(folder):
    """Plans of a rule, and what `speechllm rules` reports."""
    about = {"rule": "greedy-layers", "model": "tiny", "data": {"sets": ["x"]}}
    plans = [
        Plan(
            range(1, 1 + n), LAYERS, value=0.1 * n, about={"what": "x"}, **about
        )
        for n in (1, 2, 3)
    ]
    save_plans(str(folder / "plans.json"), plans)
    found = [
        {"rule": rule, "removed": [1, 2], "perplexity": 9.5, "rows": 7}
        for rule in ("even", "angular")
    ]
    told = {"format": COMPARISON, "model": "tiny", "layers": LAYERS}
    told |= {"perplexity_before": 8.0, "plans": found, "left_out": {}}
    write_json(folder / "rules.json", told)


def read_plans(place, random, decoder=None):
    """Say what each is."""
    return max(
        speechllm(["info", str(place / name)])
        for name in ("plans.json", "rules.json")
    )


# ----------------------------------------------------------------------------
# Runs: results, answers, losses; packed studies.


def make_results(folder):
    """Two runs of a constructed study with answers and a summary."""
    study = MiniStudy(folder, seeds=(1,))
    system = "tiny", "", "Qwen2", LAYERS, "ASR"
    study.run(system, 9.0)
    study.run(system, 12.0, removed=2, healing="both")
    for n, run in enumerate(sorted(folder.iterdir()), 1):
        run.rename(folder / f"run{n}")
        # Fewer are as good here, and quicker.
        for answers in (folder / f"run{n}").glob("*.jsonl"):
            lines = answers.read_text().splitlines(keepends=True)[:12]
            answers.write_text("".join(lines))
        write_losses(
            folder / f"run{n}", [{"id": "u1", "loss": 1.5, "tokens": 3}]
        )


def make_reports(folder):
    """The same with a table, and losses that are read."""
    make_results(folder)
    for run in ("run1", "run2"):
        file = folder / run / "result.json"
        told = json.loads(file.read_text())
        history = [{"step": 1, "valid_loss": 1.5}]
        told["validation"] = {"history": history, "final_loss": 1.5}
        file.write_text(json.dumps(told))
    make_tables(folder / "run1")


def read_results(place, random):
    """Compare, report or say what it is."""
    one, other = str(place / "run1"), str(place / "run2")
    return speechllm(
        random.choice(
            [
                ["compare", one, other],
                ["report", str(place), "--json"],
                ["info", one],
            ]
        )
    )


def read_report(place, random):
    """Write the whole report."""
    out = str(place / "out")
    return speechllm(["report", str(place), "--output", out])


def make_packed(folder):
    """A packed study."""
    make_results(folder / "study")
    pack.pack(folder / "study", folder / "runs.json.bz2")
    shutil.rmtree(folder / "study")


def spoil_packed(path, random):
    """Spoil what is in it, or the file; or a bomb."""
    way = random.choice("inside inside inside file name bomb".split())
    if way == "file":
        told, new = inputs_mutate.any_bytes(path.read_bytes(), random)
    elif way == "bomb":
        told, new = "a bomb", bomb()
    else:
        content = json.loads(bz2.decompress(path.read_bytes()))
        if way == "name":
            names = [
                "../escaped",
                "/escaped",
                "a/../../escaped",
                "",
                ".",
                "a\\b",
            ]
            names += ["C:x", "a\x00b", "x" * 300, "run1", "run1/result.json/x"]
            told = random.choice(names)
            part = random.choice([content["json"], content["odd"]])
            part[told] = "x"
        else:
            told, content = inputs_mutate.tree(content, random)
        text = json.dumps(content).encode("utf-8", "surrogatepass")
        new = bz2.compress(text)
    path.write_bytes(new)
    return f"{way}: {told!r:.60}"


def bomb() -> bytes:
    """Two gigabytes of spaces as bzip2 packs them: a few kilobytes."""
    # Streams one behind the other are one file.
    return bz2.compress(b" " * 2**22) * 512


def read_packed(place, random):
    """Unpack it."""
    out = str(place / "out/unpacked")
    return pack.main([str(place / "runs.json.bz2"), "--unpack", out])


# ----------------------------------------------------------------------------
# Models.


def make_backbone(folder):
    """A tiny decoder in two files and an index."""
    made = make_decoder("qwen2", folder / "whole")
    lm = AutoModelForCausalLM.from_pretrained(made, trust_remote_code=False)
    lm.save_pretrained(folder / "model", max_shard_size="100KB")
    for name in os.listdir(made):
        if name.startswith(("tokenizer", "special", "vocab", "merges")):
            shutil.copy(Path(made) / name, folder / "model")
    shutil.rmtree(made)
    (folder / "lines.txt").write_text("one two\nred green blue\n")


def read_backbone(place, random):
    """Say what it is, and measure it."""
    model, text = str(place / "model"), str(place / "lines.txt")
    if random.random() < 0.3:
        return speechllm(["info", model])
    return speechllm(
        ["measure", model, "--text", text, "--json"]
        + ["--stream"] * (random.random() < 0.4)
    )


def make_encoder_folder(folder):
    """A tiny encoder."""
    make_encoder("wavlm", folder / "model")


def read_encoder(place, random):
    """Load it as a recipe does."""
    source = str(place / "model")
    return as_script(lambda: SpeechEncoder.from_source(source))


def make_pickles(folder):
    """A tiny decoder in an older .bin file, and a checkpoint's files."""
    made = Path(make_decoder("qwen2", folder / "model"))
    state = load_file(made / "model.safetensors")
    torch.save(state, made / "pytorch_model.bin")
    (made / "model.safetensors").unlink()
    torch.save(random_state() | {"step": 3}, folder / "brain.ckpt")
    (folder / "lines.txt").write_text("one two\nred green blue\n")


def spoil_pickle(path, random):
    """Any bytes; or a pickle that calls, in each of torch's forms."""
    if random.random() < 0.5:
        told, new = inputs_mutate.any_bytes(path.read_bytes(), random)
        path.write_bytes(new)
        return told
    zipped = random.random() < 0.5
    content = random.choice(
        [
            CALLS,
            {"a": CALLS},
            {"a": torch.ones(2), "b": [CALLS]},
            [],
        ]
    )
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    path.write_bytes(stream.getvalue())
    return f"calls, {'zipped' if zipped else 'legacy'}"


def read_pickles(place, random):
    """Measure the model, and go on from the checkpoint."""
    as_script(lambda: read_state(str(place / "brain.ckpt")))
    words = ["--text", str(place / "lines.txt"), "--json"]
    return speechllm(["measure", str(place / "model"), *words])


def make_export(folder):
    """An export of one task."""
    with_models = folder / "models"
    lm = make_decoder("qwen2", with_models / "decoder")
    encoder = make_encoder("wavlm", with_models / "encoder")
    run = make_run(with_models / "run", lm, encoder)
    export_runs([run], str(folder / "model"), tell=lambda line: None)
    shutil.rmtree(with_models)


def read_export(place, random):
    """Load it as `transcribe` does, or say what it is."""
    from speechllm.cli.common import guarded

    model = str(place / "model")
    if random.random() < 0.3:
        return speechllm(["info", model])
    return guarded(lambda: ExportedSpeechLLM.from_pretrained(model) and 0)


def sign_export(place):
    """Have the manifest fit, as a stranger would: what it was before."""
    path = place / "model/manifest.json"
    try:
        before = path.read_bytes()
        manifest = json.loads(before)
        for name, entry in manifest["files"].items():
            file = path.parent / name
            if file.is_file():
                entry["bytes"] = file.stat().st_size
                entry["sha256"] = file_hash(file)
        path.write_text(json.dumps(manifest))
    except (OSError, *ODD_FORM):
        return {}
    return {path: before}


# What takes some 30 ms a case has fewer in a full campaign: settings of all
# forms are 20,000, models of all forms 13,000.
KINDS = [
    Kind("tables", make_tables, read_tables, "*.json"),
    Kind("plans", make_plans, read_plans, "*.json"),
    Kind("results", make_results, read_results, "run1/*"),
    # A second each, of pictures.
    Kind("reports", make_reports, read_report, "run1/*", quick=8, full=100),
    Kind("packed", make_packed, read_packed, "*.bz2", spoil=spoil_packed),
    Kind("values", make_values, read_values, "*.json", spoil=spoil_values),
    Kind(
        "settings",
        make_settings,
        read_settings,
        "*.yaml",
        spoil=spoil_settings,
        full=4000,
    ),
    Kind(
        "fragments",
        make_settings,
        read_settings,
        "backbone.yaml",
        spoil=spoil_fragment,
        full=3000,
    ),
    Kind(
        "overrides",
        make_words,
        read_words,
        "words.json",
        spoil=spoil_words,
        names="--",
        full=3000,
    ),
    Kind(
        "studies",
        make_study,
        read_study,
        "*.yaml",
        spoil=spoil_study,
        full=4000,
    ),
    Kind(
        "backbones",
        make_backbone,
        read_backbone,
        "model/*.json model/*.json model/*.safetensors",
        full=3000,
    ),
    Kind("encoders", make_encoder_folder, read_encoder, "model/*", full=4000),
    Kind(
        "pickles",
        make_pickles,
        read_pickles,
        "model/*.bin *.ckpt",
        spoil=spoil_pickle,
        full=2000,
    ),
    Kind(
        "exports",
        make_export,
        read_export,
        "model/manifest.json model/config.json model/backbone/*.json "
        "model/backbone/*.safetensors model/tasks/asr/*.json "
        "model/tasks/asr/*.safetensors model/tasks/asr/adapter/* "
        "model/encoders/*/*",
        sign=sign_export,
        full=4000,
    ),
]
