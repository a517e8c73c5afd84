"""A pruned model timed against its baseline: by turns, at equal lengths."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden import world as golden
from recipe_scripts import load_script

from speechbrain_ext.model import decoding
from speechbrain_ext.model.decoding import greedy
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.study import timing
from speechllm.study.machine import OthersWork
from speechllm.study.timing import (
    TimingError,
    cache_bytes,
    held_bytes,
    ratio_of_pairs,
    time_pair,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of finished tiny runs with their data."""
    return golden.open_world(tmp_path_factory.mktemp("timing") / "world")


@pytest.fixture
def world(place, monkeypatch):
    """The process in it."""
    monkeypatch.chdir(place)


def timed(baseline="base", pruned="planned", **how):
    train = load_script(golden.RECIPE, "train")
    how = {"pairs": 6, "utterances": 2, **how}
    folders = f"runs/{baseline}", f"runs/{pruned}"
    return time_pair(*folders, train.dataio_prepare, **how)


@pytest.mark.parametrize("batch", [1, 2])
def test_both_say_as_many_tokens_as_the_reference(world, monkeypatch, batch):
    said = []

    def watched(lm, sequence, limits_B, *more):
        rows = greedy(lm, sequence, limits_B, *more)
        said.append((len(lm.model.layers), list(map(len, rows))))
        return rows

    monkeypatch.setattr(timing, "greedy", watched)
    found = timed(batch=batch)
    rows = TrainedRun("runs/base").load()
    prompt = rows.prompt
    folder = Path("runs/base/hypotheses-test-clean.jsonl")
    references = [
        json.loads(line)["reference"]
        for line in folder.read_text().split("\n")[:-1]
    ]
    wanted = sum(len(prompt.encode_target(text)) for text in references)
    assert found["tokens"] == wanted > 0
    # A warm-up and six times each, whole and pruned by turns.
    calls = 2 // batch
    layers = [5] * calls + [3] * calls
    assert [many for many, _ in said] == layers * 7
    assert found["order"] == ["baseline", "pruned"] * 6
    each = [
        sum(map(sum, (row for _, row in said[i : i + calls])))
        for i in range(0, len(said), calls)
    ]
    assert set(each) == {wanted}
    for what in ("system", "llm"):
        seconds = found["times"][what]["seconds"]
        assert {k: len(v) for k, v in seconds.items()} == {
            "baseline": 6,
            "pruned": 6,
        }


def test_a_stop_token_ends_nothing(world, monkeypatch):
    """Also where a model says its end token at once."""
    stop = TrainedRun("runs/base").load_decoder().stop_ids[0]

    def always(logits_BV):
        return torch.full((len(logits_BV),), stop)

    monkeypatch.setattr(decoding, "first_best", always)
    assert timed()["tokens"] > 2


def test_unequal_lengths_are_refused(world, monkeypatch):
    def short(*told):
        return [ids[:-1] for ids in greedy(*told)]

    monkeypatch.setattr(timing, "greedy", short)
    with pytest.raises(RuntimeError, match="no equal lengths"):
        timed()


def test_the_pruned_holds_less_by_the_removed_layers(world):
    whole = TrainedRun("runs/base").load()
    layers = whole.decoder.lm.model.layers
    # Without an adapter of its own, that is all.
    run = TrainedRun("runs/planned")
    own = run.load()
    added = sum(
        p.nbytes for n, p in own.decoder.named_parameters() if "lora" in n
    )
    gone = sum(held_bytes(layers[index]) for index in run.removed)
    assert len(run.removed) == 2 and gone > 0 and added > 0
    held = timed()["bytes"]
    assert held["removed_layers"] == gone
    for what in ("llm", "system"):
        saved = held["baseline"][what] - held["pruned"][what]
        assert saved == gone - added
    # Of five layers' keys and values three are left.
    assert 5 * held["pruned"]["beyond"] == 3 * held["baseline"]["beyond"]


def test_a_cache_is_as_large_as_its_shape(world):
    from transformers import DynamicCache

    lm = TrainedRun("runs/base").load_decoder().lm
    cache = DynamicCache(config=lm.config)
    lm(torch.ones(2, 7, dtype=torch.long), past_key_values=cache)
    held = sum(one.keys.nbytes + one.values.nbytes for one in cache.layers)
    assert cache_bytes(lm, 2, 7) == held


def _as_control(name):
    """A copy of the baseline's run that was trained further from it."""
    shutil.copytree("runs/base", f"runs/{name}", dirs_exist_ok=True)
    run = load_run(f"runs/{name}")
    run.name, run.configuration["baseline"] = name, "runs/base"
    run.save(f"runs/{name}")


def test_a_control_is_no_base(world, monkeypatch):
    _as_control("control")
    monkeypatch.setattr(TrainedRun, "load_encoder", None)
    for pair, why in (
        (("control", "planned"), "control run, trained further from runs/base"),
        (("planned", "planned"), "lacks layers"),
        (("base", "control"), "lacks no layer"),
        (("lora", "planned"), "speech_markers"),
    ):
        with pytest.raises(ValueError, match=why):
            timed(*pair)
    with pytest.raises(TimingError, match="give 6 or more"):
        timed(pairs=5)
    with pytest.raises(FileNotFoundError):
        timed("nowhere")


def test_the_interval_is_of_order_statistics():
    pruned = [1.0] * 9
    whole = [1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 99.0]
    found = ratio_of_pairs(whole, pruned)
    assert found["median"] == 1.5
    # One that was disturbed does not count among nine.
    assert found["interval"] == [1.2, 1.8]
    assert ratio_of_pairs(whole[:6], pruned[:6])["interval"] == [1.1, 1.6]


def test_others_work_is_seen_and_ones_own_is_not():
    watched = OthersWork()
    if watched.cores() is None:
        pytest.skip("this system does not tell")
    code = "import time; e = time.time() + 2\nwhile time.time() < e: pass"
    with subprocess.Popen([sys.executable, "-c", code]):
        pass
    assert watched.cores() > 0.5


def test_it_is_typed_in_the_recipes_folder(place):
    command = [sys.executable, "-m", "speechllm.study.timing"]
    command += ["runs/base", "runs/planned", "--output", "timings/a.json"]
    root = Path(__file__).resolve().parents[2]

    def typed(*words, path=()):
        told = {**os.environ, "PYTHONPATH": ":".join(map(str, (root, *path)))}
        return subprocess.run(
            [*command, *words],
            cwd=place,
            env=told,
            capture_output=True,
            text=True,
        )

    elsewhere = typed()
    assert elsewhere.returncode == 2
    assert "in the runs' recipe's folder" in elsewhere.stderr
    more = ["--pairs", "6", "--set", "test-clean", "--device", "cpu"]
    done = typed(*more, path=[golden.RECIPE])
    assert done.returncode == 0, done.stderr
    assert "times as fast as base" in done.stdout
    found = json.loads((place / "timings/a.json").read_text())
    assert (found["pairs"], found["set"]) == (6, "test-clean")
    where = {"machine", "device", "threads", "load_average_at_start"}
    assert where < set(found["measured_on"])
