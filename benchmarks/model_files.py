"""Random models as files, made for one run and deleted with its process."""

import contextlib
import functools
import json
import os
import shutil
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.common import scratch_folder
from benchmarks.models import words_tokenizer
from speechbrain_ext.layers.removal import layer_and_rest
from speechbrain_ext.layers.weights import SAFETENSORS_INDEX
from speechbrain_ext.runs.files import write_json

# A model's folder, for the processes that measure one side.
FOLDER = "BENCHMARK_MODEL_FOLDER"
# Of a model's bytes: the model, and one smaller copy of it at a time.
DISK = 1.8


def folder_of(config):
    """Where a random model in bfloat16 lies (str)."""
    return os.environ.get(FOLDER) or _made(config.to_json_string(False))


@contextlib.contextmanager
def handed_on(folder):
    """Processes that are started meanwhile find the model there."""
    with mock.patch.dict(os.environ, {FOLDER: folder}):
        yield


@functools.cache
def _made(text):
    folder = scratch_folder()
    told = json.loads(text)
    write_model(AutoConfig.for_model(told.pop("model_type"), **told), folder)
    return folder


def write_model(config, folder):
    """Write it a layer at a time: memory holds no more than that."""
    config.dtype = "bfloat16"
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    shapes = {name: value.shape for name, value in lm.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    need_disk(folder, 2 * DISK * sum(s.numel() for s in shapes.values()))
    lm.config.architectures = [type(lm).__name__]
    lm.config.save_pretrained(folder)
    words_tokenizer(min(config.vocab_size, 1000)).save_pretrained(folder)
    shards = {}
    for name in shapes:
        layer, _ = layer_and_rest(name)
        shards.setdefault(name if layer is None else layer, []).append(name)
    generator = torch.Generator().manual_seed(0)
    index = {}
    for number, names in enumerate(shards.values(), start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {n: _random(n, shapes[n], generator) for n in names}
        save_file(tensors, Path(folder, file), metadata={"format": "pt"})
        index.update(dict.fromkeys(names, file))
    head = {"metadata": {}, "weight_map": index}
    write_json(os.path.join(folder, SAFETENSORS_INDEX), head)


def _random(name, shape, generator):
    """Weights of the usual size; a norm's are about one."""
    value = torch.empty(shape, dtype=torch.bfloat16)
    return value.normal_("norm" in name, 0.02, generator=generator)


def need_disk(folder, size):
    """Refuse what the disk does not hold."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise RuntimeError(
            f"{folder}: {size / 1e9:.0f} GB of disk are needed, and "
            f"{free / 1e9:.0f} GB are free: set TMPDIR to a larger one"
        )


def megabytes(folder):
    """MB of a folder's weights (float)."""
    files = Path(folder).glob("*.safetensors")
    return sum(file.stat().st_size for file in files) / 2**20
