"""The kinds of files of ours: sound ones, and what a command reads of them."""

from __future__ import annotations

import bz2
import functools
import json
import shutil

import numpy as np
from mini_study import MiniStudy

from soak import inputs_mutate
from soak.inputs_models import (
    make_backbone,
    make_encoder_folder,
    make_export,
    make_pickles,
    read_backbone,
    read_download,
    read_encoder,
    read_export,
    read_pickles,
    sign_export,
    spoil_pickle,
)
from soak.inputs_settings import (
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
from speechbrain_ext.runs.files import write_json, write_losses
from speechllm.cli import main as speechllm
from speechllm.report import pack
from speechllm.text_rules import FORMAT as COMPARISON

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
    way = random.choice("inside inside inside file name".split())
    # A tenth of a second each, and all alike.
    way = "bomb" if random.random() < 0.02 else way
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


@functools.cache
def bomb() -> bytes:
    """Two gigabytes of spaces as bzip2 packs them: a few kilobytes."""
    # Streams one behind the other are one file.
    return bz2.compress(b" " * 2**22) * 512


def read_packed(place, random):
    """Unpack it."""
    out = str(place / "out/unpacked")
    return pack.main([str(place / "runs.json.bz2"), "--unpack", out])


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
        names=("--", "device:"),
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
    Kind(
        "downloads",
        make_export,
        read_download,
        "model/README.md model/config.json model/backbone/*.* "
        "model/tasks/asr/*.* model/tasks/asr/adapter/*.* model/encoders/*/*.*",
        refused=True,
    ),
]
