"""Two processes do what one does with accumulation.

Authors
 * The speechbrain_ext authors, 2026
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import RECIPE, write_settings
from safetensors.torch import load_file

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.plans import load_plans
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training import experiment
from speechbrain_ext.training.measure import search_plans

SETTINGS = {
    "device": "cpu",
    # Without its dropout's own random numbers on each process.
    "lora_dropout": 0,
    "lora_rank": 2,
    # Neither the sets nor the batches divide evenly.
    "batch_size": 3,
    "test_batch_size": 2,
}
# A study in one start of two processes: baseline, tables, pruned and healed.
# The group is made once: made anew, gloo may meet the old one's sockets.
SCRIPT = """
import sys
from speechbrain.utils import distributed
from torch.distributed import is_initialized
from speechbrain_ext.training.measure import search_plans
from train import prepare_experiment

make_group = distributed.ddp_init_group
distributed.ddp_init_group = (
    lambda options: is_initialized() or make_group(options)
)
words = sys.argv[1:]
prepare_experiment(words).run()
prepare_experiment(words).measure("speech")
prepare_experiment(words).measure("text")
search_plans(prepare_experiment(words), "greedy-layers", [1, 2])
base = words[words.index("--results_folder") + 1] + "/base"
more = ["--run_name", "pruned", "--prune_layers", "2", "--baseline", base]
more += ["--cache_features", "null"]
prepare_experiment(words + more).run()
"""


def arguments(settings, corpus, results, **changes):
    words = [settings, "--results_folder", str(results)]
    words += ["--data_folder", corpus, "--noprogressbar"]
    words += ["--cache_features", str(Path(results) / "features")]
    for name, value in {**SETTINGS, **changes}.items():
        words += [f"--{name}", str(value)]
    return words


@pytest.fixture(scope="module")
def pair(recipe, corpus, decoder_folders, encoder_folders, tmp_path_factory):
    """Folders of the same study, by one process and by two."""
    tmp_path = tmp_path_factory.mktemp("pair")
    sources = decoder_folders["qwen2"], encoder_folders["wavlm"]
    settings = write_settings(tmp_path, *sources)
    one, two = tmp_path / "one", tmp_path / "two"
    words = arguments(settings, corpus, one, grad_accumulation_factor=2)
    recipe.prepare_experiment(words).run()
    for kind in ("speech", "text"):
        recipe.prepare_experiment(words).measure(kind)
    search_plans(recipe.prepare_experiment(words), "greedy-layers", [1, 2])
    words += ["--run_name", "pruned", "--prune_layers", "2"]
    words += ["--baseline", str(one / "base"), "--cache_features", "null"]
    recipe.prepare_experiment(words).run()
    script = tmp_path / "study.py"
    script.write_text(SCRIPT)
    words = arguments(settings, corpus, two, distributed_backend="gloo")
    path = [str(RECIPE), os.environ.get("PYTHONPATH", "")]
    torchrun = ["-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [sys.executable, *torchrun, "--nproc_per_node=2", str(script), *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return one, two


def test_each_process_computes_its_share_of_the_features(pair):
    """Each under a lock of its own, and together what one computes."""
    alone, shared = (
        {path.name for path in (folder / "features").glob("*/??/*.safetensors")}
        for folder in pair
    )
    assert shared == alone and len(alone) > 10
    locks = (pair[1] / "features").glob("*/lock-*")
    assert sorted(lock.name for lock in locks) == ["lock-0", "lock-1"]


def trained(folder):
    files = sorted((Path(folder) / "trained").rglob("*.safetensors"))
    return {
        f"{file.name}.{name}": value
        for file in files
        for name, value in load_file(file).items()
    }


def test_two_processes_are_one_with_accumulation(pair):
    for run in ("base", "pruned"):
        one, two = (trained(folder / run) for folder in pair)
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(
                two[name], one[name], atol=1e-5, rtol=0, msg=f"{run} {name}"
            )
        ours, theirs = (load_run(folder / run) for folder in pair)
        assert ours.kept_layers == theirs.kept_layers
        # Evaluation was shared out, and every utterance scored once.
        for name, score in ours.scores.items():
            other = theirs.scores[name]
            assert (other.value, other.utterances) == (
                score.value,
                score.utterances,
            )
        assert theirs.validation["final_loss"] == pytest.approx(
            ours.validation["final_loss"], abs=1e-5
        )
    plans = [load_plans(f / "base/plan-greedy-layers.json") for f in pair]
    for one, two in zip(*plans):
        assert (two.layers, two.size) == (one.layers, one.size)
        assert two.value == pytest.approx(one.value, abs=1e-4)
        # Each process searches over all utterances by itself.
        assert two.about["layer_passes"] == one.about["layer_passes"]
    for kind in ("speech", "text"):
        one, two = (
            RedundancyTable.load(folder / "base" / f"redundancy-{kind}.json")
            for folder in pair
        )
        assert one.count == two.count == 5
        torch.testing.assert_close(
            torch.tensor(two.distances),
            torch.tensor(one.distances),
            atol=1e-5,
            rtol=0,
            equal_nan=True,
        )


def test_nobody_writes_before_all_have_looked(tmp_path, monkeypatch):
    """Or one process takes what another has just begun for an earlier start."""
    told = []

    def tells(word):
        return lambda *args: told.append(word)

    monkeypatch.setattr(experiment, "new_result", tells("new"))
    monkeypatch.setattr(experiment, "earlier_result", tells("look"))
    monkeypatch.setattr(experiment, "ddp_barrier", tells("wait"))
    run = experiment.Experiment.__new__(experiment.Experiment)
    run.hparams = run.datasets = run.layers = None
    run.folder = str(tmp_path)
    run.train_and_evaluate = tells("write")
    run.run()
    assert told == ["new", "look", "wait", "write"]
