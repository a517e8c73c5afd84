"""What is done on a faulty disk: each kind of work, and what it leaves.

Every work writes below one folder and is called in a forked child, as a
script's main or the command line would call it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from conftest import RECIPE
from mini_study import LARGE, MiniStudy
from recipe_scripts import RECIPES, load_script
from safetensors import safe_open

from soak.world import World
from speechbrain_ext.data.features import FeatureCache
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.runs.folders import BEFORE
from speechbrain_ext.training.measure import measure_command
from speechllm.cli import main as speechllm
from speechllm.command import run_command

# The tests of recipes make corpora.
sys.path.append(str(Path(__file__).parents[1] / "tools"))
# Times, speeds and memory: never alike in two runs.
VOLATILE = re.compile(
    r"started|finished|seconds|speed|unixtime|.*(_seconds|memory_bytes|factor)"
)
# Diaries, which may differ; none is read again.
DIARIES = re.compile(r"(log|env|train_log)\.(txt|log)|lock.*|.*\.pyc")


@dataclass(frozen=True)
class Work:
    """Something that a user has done, and what must be there before."""

    name: str
    run: Callable[[Path], None]
    start: Callable[[Path], None] | None = None
    # Files that are never made twice, once they are there.
    kept: str = ""
    # A folder that no fault may change.
    stays: str = ""


def forked(call: Callable, log: Path, *before: Callable) -> int:
    """Call something in a child of this process; its exit code.

    What it says goes to a file. `before` are called first: faults.
    """
    child = begin(call, log, *before)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def begin(call: Callable, log: Path, *before: Callable) -> int:
    """The same, without waiting; the child's number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        said = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.path.insert(0, str(RECIPE))
        os.chdir(RECIPE)
        for one in before:
            one()
        known = set(sys.modules)
        code = call() or 0
        new = "\n".join(sys.modules.keys() - known)
        log.with_suffix(".modules").write_text(new)
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0


def import_alike(log: Path) -> None:
    """Import what a child had to, so that no later one needs to."""
    for name in log.with_suffix(".modules").read_text().split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


# ----------------------------------------------------------------------------
# Each kind of work.


def works(world: World, folder: Path) -> dict[str, Work]:
    """All kinds of work by name; what they start from is made in a folder."""
    train = load_script(RECIPE, "train")

    def run(**changes):
        """A run of the LibriSpeech recipe, its results in a folder."""

        def work(disk):
            words = world.words(disk, **changes)
            run_command(lambda: train.prepare_experiment(words).run())

        return work

    def measure(*own):
        """``measure.py`` of a baseline in a folder."""

        def work(disk):
            words = [*world.words(disk), *own]
            run_command(
                lambda: measure_command(words, train.prepare_experiment)
            )

        return work

    def typed(*words):
        """``speechllm`` with some words; DISK is the folder."""

        def work(disk, out=None):
            places = {"DISK": str(disk), "OUT": str(out or disk)}
            typed = [str(word) for word in words]
            for name, place in places.items():
                typed = [word.replace(name, place) for word in typed]
            return speechllm(typed)

        return work

    # Runs that the rest starts from, made where they will lie.
    def with_runs(disk):
        shutil.copytree(folder / "runs", disk, dirs_exist_ok=True)

    def healed(kind):
        return lambda disk: run(
            baseline=disk / "base",
            prune_layers=2,
            path_from=folder / "table.json",
            run_name=f"healed-{kind}",
            healing=kind,
        )(disk)

    distances = np.array(
        [
            [0.2 if size + start <= 5 else np.nan for start in range(5)]
            for size in range(1, 6)
        ]
    )
    # Leaves layer 0, for a map to be folded into it.
    distances[1, 1] = 0.0
    told = {"model": "tiny", "encoder": "tiny-wavlm", "task": "ASR"}
    told |= {"input": "speech", "position": "target"}
    table = RedundancyTable(distances, 0 * distances, 3, told)
    table.save(folder / "table.json")
    study = MiniStudy(folder / "study", seeds=(1,))
    study.run(LARGE, 4)
    study.run(LARGE, 4.5, 2, "both")
    study.table(LARGE, "speech")
    text = folder / "lines.txt"
    text.write_text("one two three red blue\nseven cats and a dog\n" * 40)
    prune = "prune", world.decoder, "--plan", "1-2", "--output", "DISK/small"

    def pruned_before(disk):
        """What an earlier one wrote, which is replaced."""
        (disk / "small").mkdir()
        (disk / "small/pruning.json").write_text('{"earlier": true}')

    def report(disk, out=None):
        """Of the study here or elsewhere."""
        moved = disk / "study"
        study = moved if moved.exists() else folder / "study"
        return speechllm(["report", str(study), "--output", f"{out or disk}/r"])

    all_works = [
        Work("training", run(lr_projector=0.01)),
        Work("healing", healed("map"), with_runs),
        Work("features", features(world, folder), kept="*/*/*.safetensors"),
        *prepared(folder, world),
        Work("measuring", measure("--input", "speech"), with_runs),
        Work(
            "plan search",
            measure("--rule", "greedy-layers", "--layers", "1", "2"),
            with_runs,
        ),
        Work("export", typed("export", "DISK/base", "OUT/export"), with_runs),
        Work(
            "pruning by copying",
            typed(*prune, "--overwrite"),
            pruned_before,
            stays="small",
        ),
        Work("report", report),
    ]
    return {one.name: one for one in all_works}


def features(world, folder):
    """A feature cache of some noise."""
    random, items = np.random.default_rng(0), {}
    for number in range(12):
        file, size = folder / f"{number}.flac", 4000 + 977 * number
        soundfile.write(file, 0.1 * random.standard_normal(size), 16000)
        items[f"u{number}"] = str(file), size / 16000

    def work(disk):
        def compute():
            encoder = SpeechEncoder.from_source(world.encoder)
            cache = FeatureCache(disk, encoder, 5, items)

            def read(name):
                wav, _ = soundfile.read(items[name][0], dtype="float32")
                return torch.from_numpy(wav)

            # One at a time: what is padded alike sums alike.
            cache.compute(encoder, read, batch_seconds=0.1, progress=False)

        run_command(compute)

    return work


def prepared(folder, world):
    """The prepare scripts, each on a tiny corpus."""
    names = {
        "LibriSpeech": ("ASR", "librispeech_prepare"),
        "Loquacious": ("ASR", "loquacious_prepare"),
        "CoVoST2": ("AST", "covost2_prepare"),
        "OwnData": ("ASR", "own_prepare"),
    }
    for corpus, (task, name) in names.items():
        recipe = RECIPES / corpus / task / "SpeechLLM"
        module = load_script(recipe, name)
        call = getattr(
            module, name.replace("_prepare", "").join(["prepare_", ""])
        )
        make = globals()[f"_{corpus.lower()}"]
        words, options = make(folder / corpus, world)

        def work(disk, call=call, words=words, options=options):
            more = {
                key: str(value).replace("DISK", str(disk))
                if isinstance(value, str)
                else value
                for key, value in options.items()
            }
            data, *rest = words
            run_command(lambda: call(data, str(disk), *rest, **more))

        yield Work(f"preparing {corpus}", work)


def _librispeech(folder, world):
    splits = ["train-clean-100", "dev-clean", "test-clean", "test-other"]
    return (world.corpus, splits), {}


def _loquacious(folder, world):
    from test_loquacious import write_set

    write_set(folder)
    return (str(folder), ["small", "dev", "test"]), {}


def _covost2(folder, world):
    from test_covost2 import write_release

    write_release(folder / "en")
    return (str(folder / "en"), "en", "de"), {"flac_folder": "DISK/flac"}


def _owndata(folder, world):
    folder.mkdir()
    rows, noise = [], np.random.default_rng(2)
    for number in range(9):
        name = f"s{number // 3}-{number}"
        soundfile.write(
            folder / f"{name}.wav", 0.1 * noise.standard_normal(9000), 16000
        )
        row = {"audio_filepath": f"{name}.wav", "text": "ONE RED DOG"}
        rows.append(json.dumps({**row, "speaker": f"s{number // 3}"}))
    (folder / "all.jsonl").write_text("\n".join(rows) + "\n")
    given = {"train": None, "valid": None, "test": None}
    split = {"valid": 1, "test": 1, "seed": 1}
    splits = ["train", "valid", "test"]
    return (str(folder), splits, given, split), {}


# ----------------------------------------------------------------------------
# What is there in the end.


def end_of(folder: Path, *also: Path) -> dict[str, str]:
    """What a folder holds: a hash by name, without what is never alike.

    Its own name is not told apart, nor are some others.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"CKPT\+[^/]*", "CKPT", str(path.relative_to(folder)))
        if path.is_dir() or DIARIES.fullmatch(path.name):
            continue
        found[name] = _hash(path)
        for one in (folder, *also):
            found[name] = found[name].replace(str(one), "HERE")
    return found


def _hash(path):
    if path.suffix == ".yaml" and path.name != "CKPT.yaml":
        return path.read_text(encoding="utf-8")
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text(encoding="utf-8")
        whole = path.suffix == ".json"
        texts = [lines] if whole else lines.splitlines()
        content = [_steady(json.loads(text)) for text in texts]
        return json.dumps(content, sort_keys=True)
    if path.suffix == ".safetensors":
        # Rust writes what is told about the tensors in any order.
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            parts = [(n, file.get_tensor(n)) for n in sorted(file.keys())]
        hashed = hashlib.sha256(repr(sorted(about.items())).encode())
        for name, value in parts:
            hashed.update(f"{name} {value.dtype} {value.shape}".encode())
            hashed.update(value.contiguous().view(-1).view(torch.uint8).numpy())
        return hashed.hexdigest()
    if path.name.endswith(".ckpt"):
        state = torch.load(path, weights_only=False)
        return f"{sorted(map(str, state))}"
    if path.name in ("CKPT.yaml", "report.html", "report.md"):
        return "there"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _steady(value):
    if isinstance(value, dict):
        return {
            k: _steady(v) for k, v in value.items() if not VOLATILE.fullmatch(k)
        }
    return [_steady(v) for v in value] if isinstance(value, list) else value


def unlike(end: dict, wanted: dict) -> str:
    """In what two ends differ, in words."""
    lacking, more = wanted.keys() - end.keys(), end.keys() - wanted.keys()
    other = [k for k in wanted.keys() & end.keys() if wanted[k] != end[k]]
    told = {"lacking": lacking, "too many": more, "different": other}
    return "; ".join(f"{k}: {sorted(v)[:4]}" for k, v in told.items() if v)


LEFT = re.compile(r"(.*\.tmp|.*unfinished.*|.*\.new)")


def torn(folder: Path, *, set_aside: bool = False) -> str:
    """The first half file under a final name, or leftover; empty: none.

    ``set_aside``: nothing can be renamed, so what was to be replaced may not
    have been put back yet.
    """
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        left = any(LEFT.fullmatch(part) for part in Path(name).parts)
        if left and not (set_aside and BEFORE in name):
            return f"{name} is left over"
        if path.is_dir() or DIARIES.fullmatch(path.name):
            continue
        try:
            _look(path)
        except Exception as error:
            return f"{name} is torn ({error})"
    return ""


def _look(path):
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            [file.get_tensor(name) for name in file.keys()]
    elif path.suffix == ".flac":
        soundfile.read(path)
    elif not path.stat().st_size:
        raise ValueError("empty")
    else:
        _hash(path)
