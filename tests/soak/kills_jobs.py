"""What is killed: everything that a user starts and that writes files."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import thread
from dataclasses import dataclass
from functools import partial
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS / "tools"))

import yaml  # noqa: E402
from conftest import RECIPE  # noqa: E402
from exported import make_run  # noqa: E402
from mini_study import LARGE, MiniStudy  # noqa: E402
from recipe_scripts import load_script  # noqa: E402

from soak.forks import fork  # noqa: E402
from soak.kills_child import run_child  # noqa: E402
from soak.world import World, make_world  # noqa: E402
from speechbrain_ext.data.features import FeatureCache  # noqa: E402
from speechbrain_ext.training.measure import measure_command  # noqa: E402
from speechllm import cli  # noqa: E402
from speechllm.report.command import main as report  # noqa: E402
from speechllm.study import local, processes  # noqa: E402

TEXT = "one two three\nred blue\nseven four dog\na cat\n"
# As the settings of a healing by distillation name it.
DISTILLED = "{projector: True, distillation: {weight: 0.5}}"


def nothing(folder: Path) -> None:
    """What most jobs find: an empty folder."""


@dataclass(frozen=True)
class Job:
    """A command: what it finds in a folder, and what it does there.

    ``victims`` says who is killed, by turns: all its processes, the first
    one, or one of those that it started. ``refusal`` is what the same command
    says where it has ended already, if it does not do all again.
    """

    kind: str
    work: Callable[[Path], object]
    prepare: Callable[[Path], object] = nothing
    victims: tuple[str, ...] = ("all",)
    refusal: str = ""


def copied(template: Path) -> Callable[[Path], None]:
    """Begin with a copy of a folder, its times too."""

    def prepare(folder):
        shutil.copytree(template, folder, dirs_exist_ok=True)

    return prepare


def jobs(top: Path) -> Iterator[Job]:
    """All of them; what they share is made first, once."""
    world = make_world(top / "world")
    yield from recipe_jobs(top, world)
    yield from prepare_jobs(top)
    yield from model_jobs(top, world)
    yield from study_jobs(top, world)


# ----------------------------------------------------------------------------
# A recipe's train.py and measure.py.


def recipe_jobs(top: Path, world: World) -> Iterator[Job]:
    """Training, healing, features, plan search."""
    train = load_script(RECIPE, "train").prepare_experiment
    short = {"valid_interval": 3, "lora_rank": 2, "lora_dropout": 0.1}

    def trained(folder, **changes):
        train(world.words(folder, **{**short, **changes})).run()

    yield Job("training", partial(trained, adapt_attention=True))
    base = top / "baseline"
    made = run_child(partial(trained, base), base, top / "aside")
    if made.status:
        raise RuntimeError(f"no baseline was trained: {made.said}")

    def healed(folder, **changes):
        baseline = {"baseline": folder / "base", "prune_layers": 2}
        trained(folder, run_name="pruned", **baseline, **changes)

    began = copied(base)
    yield Job("healing with map", partial(healed, healing="map"), began)
    distilled = {"healing": "mine", "healing_parts": DISTILLED}
    yield Job("healing with distillation", partial(healed, **distilled), began)
    yield Job("features, one process", partial(features, train, world))
    yield Job("features, two processes", partial(sharded, train, world))

    def searched(folder):
        words = world.words(folder, **short)
        words += ["--rule", "greedy-layers", "--layers", "1", "2", "3"]
        measure_command([*words, "--utterances", "4"], train)

    yield Job("plan search", searched, began)


def features(train, world, folder, **more):
    """The features of all sets of a run, computed and kept."""
    told = {"cache_features": folder / "features", **more}
    train(world.words(folder, **told)).open_encoder()


def sharded(train, world, folder):
    """The same by two processes of a group, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # One waits for the other's share.
    FeatureCache.wait.__defaults__ = (0.02, 60.0)
    children = []
    for rank in ("0", "1"):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        place |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}

        def work(place=place):
            os.environ.update(place)
            features(train, world, folder, distributed_backend="gloo")

        children.append(fork(work))
    ended = [os.waitpid(child, 0)[1] for child in children]
    return max(map(abs, map(os.waitstatus_to_exitcode, ended)))


# ----------------------------------------------------------------------------
# Prepare scripts.


def prepare_jobs(top: Path) -> Iterator[Job]:
    """Each recipe's, on a corpus of its own form."""
    from speech_llm_fixtures import write_corpus
    from test_covost2 import prepare_covost2, write_release
    from test_loquacious import prepare_loquacious, write_set
    from test_own_data import SPLIT, own_prepare, simple

    corpus = write_corpus(top / "speech", {"dev-clean": 5, "test-clean": 6})
    module = load_script(RECIPE, "librispeech_prepare")
    release = write_release(top / "covost")
    parquet = write_set(top / "loquacious")
    own = simple(top / "own")
    splits = ["train", "valid", "test"]
    for kind, prepare, told in (
        (
            "LibriSpeech",
            partial(module.prepare_librispeech, corpus),
            (["dev-clean", "test-clean"],),
        ),
        (
            "Loquacious",
            partial(prepare_loquacious, str(parquet)),
            (["small", "dev", "test"],),
        ),
        ("CoVoST 2", partial(prepare_covost2, str(release)), ("en", "de")),
        (
            "own data",
            partial(own_prepare.prepare_own, str(own)),
            (splits, dict.fromkeys(splits), SPLIT),
        ),
    ):

        def work(folder, prepare=prepare, told=told):
            prepare(str(folder), *told)

        yield Job(f"preparing {kind}", work)


# ----------------------------------------------------------------------------
# The command line: measure, prune, export.


def model_jobs(top: Path, world: World) -> Iterator[Job]:
    """Of a causal LM, and of a finished run."""
    text = top / "lines.txt"
    text.write_text(TEXT * 20)
    measure = ["measure", world.decoder, "--text", str(text), "--output"]
    prune = ["prune", world.decoder, "--text", str(text), "--layers", "2"]
    prune += ["--heal", "map", "--output"]

    def command(words, more, folder):
        return cli.main([*words, str(folder / "out.json"), *more])

    def filled(words, more, folder):
        return cli.main([*words, str(folder / "out"), *more])

    yield Job("measuring, loaded", partial(command, measure, []))
    yield Job("measuring, streamed", partial(command, measure, ["--stream"]))
    yield Job(
        "pruning by copying",
        partial(filled, prune, ["--stream"]),
        refusal="is there already and not empty: give another folder",
    )
    run = top / "asr"
    made = run_child(
        partial(make_run, run, world.decoder, world.encoder), run, top / "aside"
    )
    if made.status:
        raise RuntimeError(f"no run was made: {made.said}")
    export = partial(filled, ["export", str(run)], ["--overwrite"])
    yield Job("export", export)
    earlier = top / "earlier"
    earlier.mkdir()
    whole = partial(filled, ["export", str(run)], ["--merge"])
    made = run_child(partial(whole, earlier), earlier, top / "aside")
    if made.status:
        raise RuntimeError(f"nothing was exported: {made.said}")
    yield Job("export over an earlier one", export, copied(earlier))


# ----------------------------------------------------------------------------
# Reports and studies.


def study_jobs(top: Path, world: World) -> Iterator[Job]:
    """A report of result files; a study by its scheduler."""
    results = top / "results"
    study = MiniStudy(results, seeds=(1,))
    study.run(LARGE, 4)
    study.run(LARGE, 6, 2, "both")
    study.table(LARGE, "speech")

    def reported(folder):
        return report([str(results), "--output", str(folder / "report")])

    yield Job("report writing", reported)
    file = top / "study.yaml"
    file.write_text(yaml.safe_dump(tiny_study(world)))
    work, victims = partial(scheduled, file), ("started", "first", "all")
    yield Job("a study's scheduler and jobs", work, victims=victims)


def tiny_study(world: World) -> dict:
    """A baseline, its table, a pruned and healed run, a table of both."""
    models = {
        "backbone.source": world.decoder,
        "speech_encoder.source": world.encoder,
        "loss_splits": [],
        "train_splits": ["train-clean-100"],
        "valid_splits": ["dev-clean"],
        "test_splits": ["test-clean"],
        "num_workers": 0,
        "batch_size": 4,
        "steps": 3,
        "warmup_steps": 1,
        "warmdown_steps": 2,
        "valid_interval": 3,
        "checkpoint_interval": 1,
        "max_new_tokens": 4,
    }
    system = {
        "recipe": "LibriSpeech/ASR/SpeechLLM",
        "data": "librispeech",
        "baseline": "mini.yaml",
        "healed": "mini_prune.yaml",
        "tables": ["speech"],
        "study": [{"depths": [2], "healing": ["both"]}],
    }
    return {
        "results": "results",
        "seeds": [1],
        "report": "runs",
        "set": models,
        "data": {"librispeech": {"folder": world.corpus}},
        "systems": {"tiny": system},
    }


def scheduled(file: Path, folder: Path) -> int:
    """``python -m speechllm.study.local``; its children are copies too."""
    context, script = multiprocessing.get_context("fork"), processes._run_script

    def run_script(*told):
        # A copy would wait for the scheduler's threads, of which it is one.
        thread._threads_queues.clear()
        script(*told)

    class Forking:
        """Stands for multiprocessing: what is imported here serves."""

        get_context = staticmethod(lambda kind: context)
        parent_process = staticmethod(multiprocessing.parent_process)

    class Subprocess:
        """Stands for subprocess, where the scheduler has the report made."""

        @staticmethod
        def run(words, cwd):
            """Run a module of ours in a copy of this process."""

            def work():
                os.chdir(cwd)
                sys.argv = words[2:]
                runpy.run_module(words[2], None, "__main__")

            os.waitpid(fork(work), 0)

    processes.multiprocessing, local.subprocess = Forking, Subprocess
    processes._run_script = run_script
    return local.main([str(file), "--results", str(folder / "out")])
