"""What the code writes today, and what it makes of it: golden files.

    python tests/golden/make.py [merged]

Run before a rebuild; `tests/test_golden.py` reads the files after it. The
files are not made anew when the code changes: they stand for what users have.
With ``merged``, only ``merged.json``: every recipe YAML, laid over its base.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest
import mini_study
from golden.world import (
    EXPORTS,
    FILES,
    RUNS,
    STOPPED,
    experiment,
    of_export,
    of_run,
    open_world,
    speechllm,
    words,
    write_report,
)
from hyperpyyaml import resolve_references
from recipe_scripts import load_script
from ruamel.yaml import YAML
from torch.optim.optimizer import register_optimizer_step_post_hook

from speechbrain_ext.training.measure import measure_command
from speechllm.settings import merge

HERE = Path(__file__).parent
MERGED = HERE / "merged.json"
ROOT = HERE.parents[1]
SIZES = dict(hidden_size=24, intermediate_size=32, initializer_range=0.3)


# Keys that these files are older than, with what was done without them; a list
# of splits may be any, as it changes nothing that was done before.
YOUNGER = {
    "window": "30s",
    "loss_splits": ...,
    "keep": "last",
    "length_pool": ...,
    "batch_seconds": None,
    "padding_free": False,
}


def merged_yamls():
    """Variant to the fingerprint of its plain values, laid over its base."""
    files = sorted((ROOT / "recipes").glob("*/**/hparams/*.yaml"))
    files = [f for f in files if "results" not in f.parts]
    return {str(f.relative_to(ROOT)): _fingerprint(f) for f in files}


def _fingerprint(file):
    text = merge(str(file)).replace("!PLACEHOLDER", "PLACEHOLDER")
    with tempfile.NamedTemporaryFile("w+", suffix=".yaml") as stream:
        # Includes are looked for beside the stream's name.
        text = re.sub(r"!include:(?!/)", f"!include:{file.parent}/", text)
        stream.write(text)
        stream.seek(0)
        resolved = resolve_references(stream)
    values = _plain(YAML().load(resolved))
    plain = json.dumps(values, sort_keys=True)
    plain = plain.replace(str(ROOT), "")
    plain = plain.replace("package:models/", "/mini_world/models/")
    plain = re.sub(r"[./\w]*/mini_world/", "mini_world/", plain)
    return hashlib.sha256(plain.encode()).hexdigest()


def _plain(node):
    tag = str(getattr(getattr(node, "tag", None), "value", None) or "")
    if tag.startswith("!"):
        # Modules and models may move; what is called keeps its name.
        kind, _, name = tag.partition(":")
        parts = re.findall(r"[A-Z]\w*(?:\.\w+)?$|\w+$", name)
        bare = getattr(node, "value", node)
        return {kind: parts[0] if parts else name, "of": _values(bare)}
    return _values(node)


def _values(node):
    if isinstance(node, dict):
        found = {str(key): _plain(value) for key, value in node.items()}
        return {
            k: v for k, v in found.items() if YOUNGER.get(k, []) not in (v, ...)
        }
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return None


# -- what is run once ---------------------------------------------------------


def make():
    """Write the folder ``files``."""
    with tempfile.TemporaryDirectory() as top:
        files = Path(top) / "files"
        world = files / "world"
        world.mkdir(parents=True)
        conftest.make_decoder("qwen2", world / "decoder", **SIZES)
        conftest.make_encoder("wavlm", world / "encoder")
        splits = {"train-clean-100": 5, "dev-clean": 4, "test-clean": 2}
        conftest.write_corpus(world / "LibriSpeech", splits)
        file = conftest.write_settings(world, "decoder", "encoder")
        text = Path(file).read_text().replace(str(conftest.RECIPE), "RECIPE")
        text = text.replace("test-clean, test-other", "test-clean")
        Path(file).write_text(text)
        open_world(Path(top) / "work", files)
        os.chdir(Path(top) / "work")
        expected = make_runs()
        shutil.copytree("runs", world / "runs")
        shutil.copytree("stopped", world / "stopped")
        shutil.copytree("exports", world / "exports")
        shutil.copy("inner.json", world)
        make_study(files)
        text = json.dumps(expected)
        (files / "expected.json").write_text(text + "\n")
        tidy(files, top)
        shutil.rmtree(FILES, ignore_errors=True)
        shutil.copytree(files, FILES)


def make_runs():
    """Runs, a stopped run and exports in the world; gives the numbers."""
    open_base = experiment("base")
    open_base.run()
    for kind in ("speech", "text"):
        open_base.measure(kind)
    train = load_script(conftest.RECIPE, "train").prepare_experiment
    for rule in ("even", "greedy-layers"):
        options = ["--rule", rule, "--sizes", "1", "2", "3"]
        measure_command(words("base") + options, train)
    # A table whose best block leaves a layer before it to fold a map into.
    table = json.loads(Path("runs/base/redundancy-speech.json").read_text())
    table["distances"][0] = [0.5, 0.5, 0.0, 0.5, 0.5]
    Path("inner.json").write_text(json.dumps(table))
    for name in list(RUNS)[1:]:
        if name == "lora_both":
            # Measured within the run, it would draw of its random numbers.
            experiment("lora").measure("speech")
        experiment(name).run()
    stop_a_run()
    for name, options in EXPORTS.items():
        assert speechllm(["export", *options, f"exports/{name}"]) == 0
    return {
        "runs": {name: of_run(f"runs/{name}") for name in RUNS},
        "exports": {n: of_export(f"exports/{n}") for n in EXPORTS},
    }


def stop_a_run():
    """The twin of a run, cut off in its 14th step of 24."""
    steps = []

    def fail(*_):
        steps.append(1)
        if len(steps) == 14:
            raise RuntimeError("stopped")

    hook = register_optimizer_step_post_hook(fail)
    with contextlib.suppress(RuntimeError):
        experiment(STOPPED, "stopped").run()
    hook.remove()
    assert len(steps) == 14


def make_study(files):
    """Results of a study of few utterances, and their report."""
    mini_study.UTTERANCES = 8
    study = mini_study.MiniStudy(files / "study", seeds=(1, 2))
    large, german = mini_study.LARGE, mini_study.GERMAN
    for system in (large, mini_study.ADAPTED, mini_study.SMALL):
        study.run(system, 5)
        study.run(system, 6, 2, "both")
    for healing, path, wer in (
        ("both", "text", 7),
        ("none", "speech", 20),
        ("projector", "speech", 18),
        ("decoder", "speech", 12),
    ):
        study.run(large, wer, 4, healing, path)
    study.run(large, 9, 4, "both")
    study.run(large, 9, 5, "both", status="failed", error="out of memory")
    study.run(german, 10)
    study.run(german, 12, 2, "both")
    study.run(german, 13, 2, "both", "ASR speech")
    study.table(large, "speech")
    study.table(large, "text", 0.001)
    study.table(mini_study.ADAPTED, "speech", -0.02)
    write_report(files / "study", files / "report")


def tidy(files, top):
    """Leave out what no reader of the files needs; nothing names its place."""
    for file in [f for f in files.rglob("*") if f.is_file()]:
        inside = file.relative_to(files).parts
        noise = file.name in ("log.txt", "env.log", "hyperparams.yaml")
        picture = file.suffix in (".png", ".pdf", ".html", ".py")
        saved = inside[:2] == ("world", "runs") and "save" in inside
        if noise or picture or saved or file.name == "train_log.txt":
            file.unlink()
            continue
        for place in (top, str(ROOT)):
            assert place.encode() not in file.read_bytes(), file
    for folder in sorted(files.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


if __name__ == "__main__":
    if sys.argv[1:] == ["merged"]:
        text = json.dumps(merged_yamls(), indent=1)
        MERGED.write_text(text + "\n")
    else:
        make()
