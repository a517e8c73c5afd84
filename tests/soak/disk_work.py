"""What is done on a faulty disk: each kind of work, and what it leaves.

Every work writes below one folder and is called in a forked child, as a
script's main or the command line would call it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from conftest import RECIPE
from mini_study import LARGE, MiniStudy
from recipe_scripts import RECIPES, load_script

from soak.forks import fork
from soak.world import World
from speechbrain_ext.data.features import FeatureCache
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.training.measure import measure_command
from speechllm.cli import main as speechllm
from speechllm.command import run_command

# The tests of recipes make corpora.
sys.path.append(str(Path(__file__).parents[1] / "tools"))


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

    def work():
        sys.path.insert(0, str(RECIPE))
        os.chdir(RECIPE)
        for one in before:
            one()
        known = set(sys.modules)
        code = call()
        new = "\n".join(sys.modules.keys() - known)
        log.with_suffix(".modules").write_text(new)
        return code

    return fork(work, log)


def import_alike(log: Path) -> None:
    """Import what a child had to, so that no later one needs to."""
    for name in log.with_suffix(".modules").read_text().split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


# ----------------------------------------------------------------------------
# Each kind of work.


def works(world: World, folder: Path) -> dict[str, Work]:
    """All kinds of work by name; what they start from is made in a folder."""
    every = [
        *of_recipe(world, folder),
        Work("features", features(world, folder), kept="*/*/*.safetensors"),
        *prepared(folder, world),
        *typed_works(world, folder),
    ]
    return {one.name: one for one in every}


def runs_of(folder):
    """Runs that the rest starts from, put where they will lie."""
    return lambda disk: shutil.copytree(
        folder / "runs", disk, dirs_exist_ok=True
    )


def of_recipe(world, folder):
    """``train.py`` and ``measure.py`` of the LibriSpeech recipe."""
    train = load_script(RECIPE, "train")
    save_table(folder / "table.json")

    def run(disk, **changes):
        words = world.words(disk, **changes)
        run_command(lambda: train.prepare_experiment(words).run())

    def healed(disk):
        given = {"baseline": disk / "base", "path_from": folder / "table.json"}
        given |= {"prune_layers": 2, "run_name": "healed-map"}
        run(disk, healing="map", **given)

    def measure(*own):
        def work(disk):
            words = [*world.words(disk), *own]
            run_command(
                lambda: measure_command(words, train.prepare_experiment)
            )

        return work

    began = runs_of(folder)
    rule = "--rule", "greedy-layers", "--layers", "1", "2"
    yield Work("training", partial(run, lr_projector=0.01))
    yield Work("healing", healed, began)
    yield Work("measuring", measure("--input", "speech"), began)
    yield Work("plan search", measure(*rule), began)


def save_table(file):
    """A redundancy table that leaves layer 0, for a map to be folded into."""
    distances = np.array(
        [
            [0.2 if size + start <= 5 else np.nan for start in range(5)]
            for size in range(1, 6)
        ]
    )
    distances[1, 1] = 0.0
    told = {"model": "tiny", "encoder": "tiny-wavlm", "task": "ASR"}
    told |= {"input": "speech", "position": "target"}
    RedundancyTable(distances, 0 * distances, 3, told).save(file)


def typed_works(world, folder):
    """The command ``speechllm``: export, prune, report."""
    study = MiniStudy(folder / "study", seeds=(1,))
    study.run(LARGE, 4)
    study.run(LARGE, 4.5, 2, "both")
    study.table(LARGE, "speech")

    def export(disk, out=None):
        return speechllm(["export", f"{disk}/base", f"{out or disk}/export"])

    def pruned_before(disk):
        """What an earlier one wrote, which is replaced."""
        (disk / "small").mkdir()
        (disk / "small/pruning.json").write_text('{"earlier": true}')

    def prune(disk):
        words = ["prune", world.decoder, "--plan", "1-2", "--overwrite"]
        return speechllm([*words, "--output", f"{disk}/small"])

    def report(disk, out=None):
        """Of the study here or elsewhere."""
        moved = disk / "study"
        study = moved if moved.exists() else folder / "study"
        return speechllm(["report", str(study), "--output", f"{out or disk}/r"])

    yield Work("export", export, runs_of(folder))
    yield Work("pruning by copying", prune, pruned_before, stays="small")
    yield Work("report", report)


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
