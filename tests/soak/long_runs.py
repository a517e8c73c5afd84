"""Runs of many steps: what they hold must not grow, and no step get slower.

Linux only: what a process holds is read in ``/proc``. What is looked at is
the second half of a run; the first is warm-up.

- Resident memory, after the garbage is collected and given back: what is held
  in each fifth (its median) against the fifth before; the median of these four
  growths, in bytes a step, is at most `LEAK`. An allocator takes half a megabyte
  now and then: that is in one of the four, a leak in all.
- Open files and threads: no more in the last quarter than in the third.
- Speed, in seconds of this process's CPU a step, without validation: the
  Theil-Sen slope makes the last step slower than the first by no more than
  `SLOWER`.

Each measure must notice what is planted in a run of its own.
"""

import ctypes
import gc
import os
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field

import torch
from conftest import RECIPE
from exported import make_run, write_wav
from scipy.stats import theilslopes

from soak.campaign import Outcome
from soak.world import make_world
from speechbrain_ext.training.brain import SpeechLLMBrain
from speechllm.export.write import export_runs
from speechllm.exported.model import ExportedSpeechLLM

# Bytes a step, in a quick run and in a full one, whose noise is spread over
# more steps. What is planted is 4 KiB.
LEAK = {True: 2048, False: 256}
PLANTED = 4096
# Share of the first step's time.
SLOWER = 0.3
PAGE = os.sysconf("SC_PAGESIZE")


def faults(setting):
    """A training, a long session of transcribing; then what is planted."""
    torch.set_num_threads(1)
    world = make_world(setting.folder / "world")
    steps = setting.many(400, 20_000)
    seen = training(world, setting, "whole", steps)
    yield from judged(setting, "training, validating, decoding", seen, steps)
    rounds = setting.many(80, 2_000)
    seen = transcribing(world, setting, rounds)
    yield from judged(setting, "transcribing and streaming", seen, rounds)
    # Leaks are planted in a short run: in a long one they are seen the more.
    for name, leak in LEAKS.items():
        seen = training(world, setting, f"leak-{name}", 160, leak())
        found = grown(seen, LEAK[True])
        wrong = "" if name in found else f"not noticed: {found}"
        yield Outcome("a leak on purpose is noticed", name, wrong)


def judged(setting, what, seen, steps):
    """An outcome for each measure of a run."""
    found = grown(seen, LEAK[setting.quick])
    for name in ("memory", "open files", "threads", "speed"):
        yield Outcome(f"{name}: {what}", f"{steps} steps", found.get(name, ""))


@dataclass
class Seen:
    """What a process held at some steps, and what each step took."""

    steps: list = field(default_factory=list)
    resident: list = field(default_factory=list)
    files: list = field(default_factory=list)
    threads: list = field(default_factory=list)
    seconds: list = field(default_factory=list)

    def look(self, step):
        """Note what is held now; garbage does not count."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.steps.append(step)
        with open("/proc/self/statm") as stream:
            self.resident.append(int(stream.read().split()[1]) * PAGE)
        self.files.append(len(os.listdir("/proc/self/fd")))
        self.threads.append(len(os.listdir("/proc/self/task")))


def grown(seen, leak):
    """What grew in the second half, by name, with how much (dict)."""
    half, found = len(seen.steps) // 2, {}
    growth = growths(seen.steps[half:], seen.resident[half:])
    if statistics.median(growth) > leak:
        found["memory"] = f"{[round(one) for one in growth]} bytes a step"
    for name, counts in (("open files", seen.files), ("threads", seen.threads)):
        late = counts[half + half // 2 :]
        before = counts[half : half + half // 2]
        if max(late) > max(before):
            found[name] = f"{max(before)} became {max(late)}"
    seconds = seen.seconds[len(seen.seconds) // 2 :]
    # The median of ten, as a step is short and clocks are coarse.
    tens = [
        statistics.median(seconds[at : at + 10])
        for at in range(0, len(seconds) - 9, 10)
    ]
    fit = theilslopes(tens)
    if fit.slope * len(tens) > SLOWER * statistics.median(tens):
        found["speed"] = f"{fit.slope / statistics.median(tens):.1%} a 10 steps"
    return found


def growths(steps, held, parts=5):
    """Growth a step from each part of a row to the next (list of float)."""
    size = len(steps) // parts
    ends = range(0, size * parts, size)
    medians = [statistics.median(held[at : at + size]) for at in ends]
    middles = [statistics.median(steps[at : at + size]) for at in ends]
    return [
        (medians[i + 1] - medians[i]) / (middles[i + 1] - middles[i])
        for i in range(parts - 1)
    ]


# ----------------------------------------------------------------------------
# The runs.


def training(world, setting, name, steps, leak=None):
    """The LibriSpeech recipe, validating, saving and decoding on the way."""
    words = world.words(
        setting.folder / "results",
        run_name=name,
        steps=steps,
        valid_interval=40,
        checkpoint_interval=20,
        warmup_steps=1,
        warmdown_steps=steps // 2,
        test_splits="[]",
    )
    seen, after = Seen(), SpeechLLMBrain._after_step
    fit_step = SpeechLLMBrain.fit_step

    def timed(brain, batches):
        """A step, with what is planted in it."""
        began = time.process_time()
        loss = fit_step(brain, batches)
        if leak is not None:
            leak(brain.optimizer_step)
        seen.seconds.append(time.process_time() - began)
        return loss

    def looked(brain, all_steps, valid_set):
        """What stands after a step; a text now and then."""
        after(brain, all_steps, valid_set)
        step = brain.optimizer_step
        if step % 40 == 0:
            brain.decode(valid_set, "valid")
            brain.modules.train()
        if step % max(steps // 60, 1) == 0:
            if len(seen.steps) == 2:
                # What was there before is not looked through each time.
                gc.freeze()
            seen.look(step)

    SpeechLLMBrain._after_step, SpeechLLMBrain.fit_step = looked, timed
    try:
        recipe().prepare_experiment(words).run()
    finally:
        SpeechLLMBrain._after_step, SpeechLLMBrain.fit_step = after, fit_step
        gc.unfreeze()
    return seen


def recipe():
    """The LibriSpeech recipe's train.py, as a module."""
    sys.path.insert(0, str(RECIPE))
    try:
        import train
    finally:
        sys.path.remove(str(RECIPE))
    return train


def transcribing(world, setting, rounds):
    """An export that is asked again and again, in lists and in streams."""
    folder = setting.folder / "export"
    run = make_run(setting.folder / "run", world.decoder, world.encoder)
    export_runs([run], str(folder), tell=lambda line: None)
    model = ExportedSpeechLLM.from_pretrained(folder, device="cpu")
    files = [
        write_wav(setting.folder / f"{seed}.{end}", 0.4 + seed / 5, seed)
        for seed, end in enumerate(("wav", "flac", "wav"))
    ]
    broken = setting.folder / "broken.wav"
    broken.write_bytes(b"RIFF no sound")
    seen = Seen()
    for number in range(rounds):
        began = time.process_time()
        model.transcribe([*files, str(broken)], on_error="return")
        "".join(model.stream(files[0]))
        seen.seconds.append(time.process_time() - began)
        if number == 2:
            gc.freeze()
        if number % max(rounds // 60, 1) == 0:
            seen.look(number)
    gc.unfreeze()
    return seen


# ----------------------------------------------------------------------------
# What is planted.


def _memory():
    kept = []
    return lambda step: kept.append(os.urandom(PLANTED))


def _files():
    kept = []
    return lambda step: (
        kept.append(open(os.devnull)) if step % 20 == 0 else None
    )


def _threads():
    end = threading.Event()

    def leak(step):
        """A thread that waits for what does not come."""
        if step % 20 == 0:
            threading.Thread(target=end.wait, daemon=True).start()

    return leak


def _speed():
    return lambda step: sum(range(step * 20_000))


LEAKS = {
    "memory": _memory,
    "open files": _files,
    "threads": _threads,
    "speed": _speed,
}
