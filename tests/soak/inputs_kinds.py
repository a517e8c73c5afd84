"""The kinds of files of ours: sound ones, and what a command reads of them."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
from exported import make_run
from soak.inputs_mutate import yaml_file
from soak.inputs_watch import Kind
from speech_llm_fixtures import make_decoder, make_encoder

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.plans import Plan, save_plans
from speechbrain_ext.runs.files import write_json, write_losses
from speechbrain_ext.training.settings import speechllm_rules
from speechllm.cli import main as speechllm
from speechllm.command import run_command
from speechllm.export.write import export_runs
from speechllm.exported.format import file_hash
from speechllm.exported.model import ExportedSpeechLLM
from speechllm.report import pack
from speechllm.settings import load_hparams, parse_arguments
from speechllm.study import local
from speechllm.text_rules import FORMAT as COMPARISON

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 6


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
        Plan(range(1, 1 + n), LAYERS, value=0.1 * n, about={"what": "x"}, **about)
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
    from mini_study import MiniStudy

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
        write_losses(folder / f"run{n}", [{"id": "u1", "loss": 1.5, "tokens": 3}])


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
    import bz2

    from soak import inputs_mutate

    way = random.choice("inside inside inside file name bomb".split())
    if way == "file":
        told, new = inputs_mutate.any_bytes(path.read_bytes(), random)
    elif way == "bomb":
        told, new = "a bomb", bomb()
    else:
        content = json.loads(bz2.decompress(path.read_bytes()))
        if way == "name":
            names = ["../escaped", "/escaped", "a/../../escaped", "", ".", "a\\b"]
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


def bomb(cache=[]):  # noqa: B006
    """Two gigabytes of spaces as bzip2 packs them: a few kilobytes."""
    import bz2

    if not cache:
        # Streams one behind the other are one file.
        cache.append(bz2.compress(b" " * 2**26) * 32)
    return cache[0]


def read_packed(place, random):
    """Unpack it."""
    out = str(place / "out/unpacked")
    return pack.main([str(place / "runs.json.bz2"), "--unpack", out])


# ----------------------------------------------------------------------------
# Settings.

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
    from soak import inputs_mutate

    if random.random() < 0.4:
        return inputs_mutate.spoil(path, random)
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
    from soak.inputs_mutate import ODD, ODD_YAML

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
    from speechllm.settings_checks import plain_values
    from speechllm.settings_tree import Document

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
    from soak.inputs_mutate import tree

    told, content = tree(json.loads(path.read_bytes()), random)
    if not isinstance(content, dict):
        content = {"prompt": content}
    path.write_text(json.dumps(content))
    return told


def read_values(place, random):
    """Hold every value against what it may be."""
    from speechbrain_ext.training.faults import ConfigError

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
    shutil.copy(ROOT / "workflow/config/healing.yaml", folder / "healing.yaml")


def spoil_study(path, random):
    """A line of it, or a value of the tree that it stands for."""
    import yaml

    from soak import inputs_mutate

    way = random.choice("line tree tree file".split())
    if way == "file":
        return inputs_mutate.spoil(path, random)
    if way == "line":
        return spoil_fragment(path, random)
    told, content = inputs_mutate.tree(yaml.safe_load(path.read_bytes()), random)
    path.write_bytes(
        json.dumps(content).encode("utf-8", "surrogatepass")
    )
    return told


def read_study(place, random):
    """Print what it would do."""
    out = str(place / "out")
    return max(
        local.main([str(place / name), "--results", out, "-n"])
        for name in ("study.yaml", "healing.yaml")
    )


# ----------------------------------------------------------------------------
# Models.


def make_backbone(folder):
    """A tiny decoder in two files and an index."""
    from transformers import AutoModelForCausalLM

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
    before = path.read_bytes()
    try:
        manifest = json.loads(before)
        for name, entry in manifest["files"].items():
            file = path.parent / name
            if file.is_file():
                entry["bytes"] = file.stat().st_size
                entry["sha256"] = file_hash(file)
        path.write_text(json.dumps(manifest))
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return {}
    return {path: before}


KINDS = [
    Kind("tables", make_tables, read_tables, "*.json"),
    Kind("plans", make_plans, read_plans, "*.json"),
    Kind("results", make_results, read_results, "run1/*"),
    Kind("packed", make_packed, read_packed, "*.bz2", spoil=spoil_packed),
    Kind("values", make_values, read_values, "*.json", spoil=spoil_values),
    Kind("settings", make_settings, read_settings, "*.yaml", spoil=spoil_settings),
    Kind(
        "fragments",
        make_settings,
        read_settings,
        "backbone.yaml",
        spoil=spoil_fragment,
    ),
    Kind("overrides", make_words, read_words, "words.json", spoil=spoil_words),
    Kind("studies", make_study, read_study, "*.yaml", spoil=spoil_study),
    Kind("backbones", make_backbone, read_backbone, "model/*.json model/*.json model/*.safetensors"),
    Kind(
        "exports",
        make_export,
        read_export,
        "model/manifest.json model/config.json model/backbone/*.json "
        "model/backbone/*.safetensors model/tasks/asr/*.json "
        "model/tasks/asr/*.safetensors model/tasks/asr/adapter/* "
        "model/encoders/*/*",
        sign=sign_export,
    ),
]
