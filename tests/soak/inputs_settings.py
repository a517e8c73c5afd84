"""Settings, command lines and studies: sound ones, and what reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from soak import inputs_mutate
from soak.inputs_mutate import ODD, ODD_YAML, tree, yaml_file
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.training.faults import ConfigError
from speechbrain_ext.training.settings import speechllm_rules
from speechllm.command import run_command
from speechllm.settings import load_hparams, parse_arguments
from speechllm.settings_checks import plain_values
from speechllm.settings_tree import Document
from speechllm.study import local

ROOT = Path(__file__).resolve().parents[2]

BASE = """\
seed: 3407
run_name: base
results_folder: results
output_folder: !ref <results_folder>/<run_name>
data_folder: !PLACEHOLDER
train_splits: [a, b]
steps: 600
warmup_steps: 30
lr: 0.0005
betas: [0.9, 0.999]
flag: False
nothing: null
backbone: !include:backbone.yaml
precision: bf16
eval_precision: !ref <precision>
counter: !new:collections.Counter
    a: !ref <steps>
load: !name:collections.OrderedDict
    source: !ref <backbone[source]>
"""
VARIANT = """\
# What differs
base: base.yaml
run_name: variant
steps: 10
lr: 0.01
train_splits: [c]
nothing: 5
backbone:
    source: here
    dtype: float32
eval_precision: fp32
"""
FRAGMENT = """\
name: tiny
source: somewhere/tiny
revision: null
dtype: bfloat16
family: Qwen2
"""


def make_settings(folder):
    """A base, a variant, a fragment."""
    (folder / "base.yaml").write_text(BASE)
    (folder / "variant.yaml").write_text(VARIANT)
    (folder / "backbone.yaml").write_text(FRAGMENT)


def as_script(call):
    """What a recipe's script makes of it."""
    run_command(call)
    return 0


def spoil_settings(path, random):
    """Tags that call belong nowhere but into what is code: not here."""
    if random.random() < 0.4:
        sound = path.read_bytes()
        told = inputs_mutate.spoil(path, random)
        if not path.is_file() or b"!apply" not in path.read_bytes():
            return told
        path.write_bytes(sound)  # which is code, and may call
    told, new = yaml_file(path.read_bytes(), random, code=False)
    path.write_bytes(new)
    return told


def spoil_fragment(path, random):
    """Where plain data are promised, tags that call are refused."""
    told, new = yaml_file(path.read_bytes(), random)
    path.write_bytes(new)
    return told


def read_settings(place, random):
    """The variant's settings, with a folder given."""
    words = {"data_folder": "here"}
    return as_script(lambda: load_hparams(str(place / "variant.yaml"), words))


WORDS = (
    "--data_folder --steps --lr --train_splits --backbone --backbone.source "
    "--nothing --flag --run_name --unknown --backbone.unknown --counter --a.b "
    "--device --precision --jit --grad_accumulation_factor -- --= - --base "
    "--data_folder=here --steps=7 --eval_precision --debug --local_rank"
).split()


def spoil_words(path, random):
    """A command line, in a file of its words."""
    told = ["--data_folder", "here"] * (random.random() < 0.8)
    for _ in range(random.randint(1, 3)):
        told.append(random.choice(WORDS))
        values = [*ODD_YAML, *(str(one) for one in ODD)]
        if random.random() < 0.8:
            told.append(random.choice(values))
    told = [one.replace("\x00", "") for one in told]
    path.write_text(json.dumps(told))
    return " ".join(told).replace("\n", " ")[:80]


def make_words(folder):
    """Settings, and a command line."""
    make_settings(folder)
    (folder / "words.json").write_text('["--data_folder", "here"]')


def read_words(place, random):
    """What train.py does with its command line, before anything is built."""
    words = json.loads((place / "words.json").read_text())
    argv = [str(place / "variant.yaml"), *words]

    def read():
        path, _, overrides = parse_arguments(argv)
        load_hparams(path, overrides)

    return as_script(read)


def make_values(folder):
    """A recipe's settings as plain values."""
    recipe = ROOT / "recipes/LibriSpeech/ASR/SpeechLLM/hparams/train.yaml"
    plain, _ = plain_values(Document.read(str(recipe)))
    plain |= {"data_folder": "here", "healing_parts": {"projector": True}}
    for part, file in (
        ("backbone", "backbones/qwen2.5-7b"),
        ("speech_encoder", "encoders/wavlm-large"),
    ):
        found, _ = plain_values(
            Document.read(str(ROOT / "hparams" / f"{file}.yaml"))
        )
        plain[part] = found
    write_json(folder / "values.json", plain)


def spoil_values(path, random):
    """One value of the tree."""
    # As deep as a YAML may be.
    told, content = tree(json.loads(path.read_bytes()), random, deep=20)
    if not isinstance(content, dict):
        content = {"prompt": content}
    path.write_text(json.dumps(content))
    return told


def read_values(place, random):
    """Hold every value against what it may be."""
    path = place / "values.json"
    plain = json.loads(path.read_bytes())

    def check():
        found = list(speechllm_rules(plain))
        if found:
            raise ConfigError(str(path), found)

    return as_script(check)


def make_study(folder):
    """A study's configuration."""
    shutil.copy(ROOT / "workflow/config/tiny.yaml", folder / "study.yaml")
    text = (ROOT / "workflow/config/healing.yaml").read_text()
    # One system of it: each reads more recipes' settings.
    text = text.partition("  qwen2-12:")[0]
    (folder / "healing.yaml").write_text(text)


def spoil_study(path, random):
    """A line of it, or a value of the tree that it stands for."""
    way = random.choice("line tree tree file".split())
    if way == "file":
        return inputs_mutate.spoil(path, random)
    if way == "line":
        return spoil_fragment(path, random)
    told, content = inputs_mutate.tree(
        yaml.safe_load(path.read_bytes()), random
    )
    path.write_bytes(json.dumps(content).encode("utf-8", "surrogatepass"))
    return told


def read_study(place, random):
    """Print what it would do."""
    out = str(place / "out")
    return max(
        local.main([str(place / name), "--results", out, "-n"])
        for name in ("study.yaml", "healing.yaml")
    )
