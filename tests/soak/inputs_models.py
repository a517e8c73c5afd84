"""Folders of models, encoders and exports: sound ones, and what reads them."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import torch
from exported import make_run
from safetensors.torch import load_file
from speech_llm_fixtures import make_decoder, make_encoder
from transformers import AutoModelForCausalLM

from soak import inputs_mutate
from soak.inputs_settings import as_script
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.runs.files import ODD_FORM
from speechbrain_ext.training.checkpoints import random_state, read_state
from speechllm.cli import main as speechllm
from speechllm.cli.common import guarded
from speechllm.export.write import export_runs
from speechllm.exported.format import ExportFolder, file_hash
from speechllm.exported.model import ExportedSpeechLLM

CALLS = inputs_mutate.Canary()


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
    model = str(place / "model")
    if random.random() < 0.3:
        return speechllm(["info", model])
    return guarded(lambda: ExportedSpeechLLM.from_pretrained(model) and 0)


def read_download(place, random):
    """Look at it as at anything that was downloaded."""
    return guarded(lambda: ExportFolder(str(place / "model")) and 0)


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
