"""Killed at any moment and started again: the same weights, bit for bit.

Authors
 * The speechbrain_ext authors, 2026
"""

import os
import random
import signal
import subprocess
import sys
import time

import torch
from conftest import RECIPE
from safetensors.torch import load_file

from speechbrain_ext.runs.result import load_run

STEPS = 150


def arguments(settings, corpus, results):
    return [
        settings,
        *("--data_folder", corpus),
        *("--results_folder", str(results)),
        *("--device", "cpu"),
        *("--steps", str(STEPS)),
        *("--checkpoint_interval", "3"),
        *("--valid_interval", "50"),
        # An adapter, as its dropout draws random numbers in every step.
        *("--adapt_attention", "True"),
        *("--lora_rank", "2"),
        *("--lora_dropout", "0.1"),
        "--noprogressbar",
    ]


def weights_of(results):
    folder = results / "base" / "trained"
    adapter = folder / "healing" / "adapter_model.safetensors"
    return {**load_file(folder / "projector.safetensors"), **load_file(adapter)}


def start(words):
    return subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=RECIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def checkpoints(results):
    save = results / "base" / "save"
    return {p.name for p in save.glob("CKPT*")}


def kill_in_training(process, results, before, delay):
    """Kill -9 a while after it has written a checkpoint of its own."""
    until = time.monotonic() + 300
    while not checkpoints(results) - before:
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < until
        time.sleep(0.002)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.stdout.read()
    return process.wait()


def test_three_kills_change_nothing(recipe, settings, corpus, tmp_path):
    whole = tmp_path / "whole"
    recipe.prepare_experiment(arguments(settings, corpus, whole)).run()
    killed = tmp_path / "killed"
    words = arguments(settings, corpus, killed)
    seed = random.SystemRandom().randrange(10**9)
    print(f"Delays from seed {seed}")  # shown where the test fails
    delays = random.Random(seed)
    steps = []
    for _ in range(3):
        before = checkpoints(killed)
        process = start(words)
        code = kill_in_training(
            process, killed, before, delays.uniform(0, 0.15)
        )
        assert code == -signal.SIGKILL
        assert load_run(killed / "base").status == "running"
        [last] = sorted(checkpoints(killed))[-1:]
        state = torch.load(
            killed / "base" / "save" / last / "brain.ckpt", weights_only=False
        )
        steps.append(state["optimizer_step"])
    # Each start went on from the one before, and none reached the end.
    assert 0 < steps[0] < steps[1] < steps[2] < STEPS
    recipe.prepare_experiment(words).run()
    expected, found = weights_of(whole), weights_of(killed)
    assert expected.keys() == found.keys() and len(expected) > 4
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    one, other = load_run(whole / "base"), load_run(killed / "base")
    assert (one.status, other.status) == ("done", "done")
    assert one.validation == other.validation
    assert one.scores == other.scores
