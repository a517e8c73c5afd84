"""Processes: one of two or four is lost, stuck, poisoned, or told to stop.

The others end within a minute with one line that names it; the run goes on
with as many processes or others; a signal saves first. Runs on Linux: ranks
are forked.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from soak.campaign import Outcome, Setting
from soak.processes_ranks import Fault, Group, result
from soak.world import World, make_world
from speechbrain_ext.training.checkpoints import read_state

# Seconds in which the others end; a whole run, on a machine that is busy.
MINUTE, LONGEST = 60, 400
STEPS = 8
SIGNALS = {"SIGTERM": 143, "SIGUSR1": 138}
# Groups at a time that compute, beside those that wait.
AT_A_TIME = 2


@dataclass
class Case:
    """A fault, in a group of some size, and how many go on after it."""

    kind: str
    fault: Fault
    size: int
    again: int
    number: int = 0

    def __str__(self):
        one = self.fault
        return (
            f"{one.what} of process {one.rank} of {self.size} at step "
            f"{one.step} ({one.stage.lower()}), {self.again} go on"
        )


def cases(setting: Setting) -> list[Case]:
    """The faults of a campaign; those first that take long and compute not."""
    draw = setting.random("processes")
    found = []

    def add(
        kind, kinds_of_stop, quick, full, stage="TRAIN", again=(2,), last=5
    ):
        """Some more of a kind, in turns of what it may be."""
        for number in range(setting.many(quick, full)):
            what = kinds_of_stop[number % len(kinds_of_stop)]
            size = 4 if not setting.quick and number % 3 == 2 else 2
            at = STEPS // 2 if stage == "VALID" else draw.randint(2, last)
            fault = Fault(what, draw.randrange(size), at, stage)
            then = again[number % len(again)] if again else 0
            found.append(Case(kind, fault, size, then, len(found)))

    add("stuck: frozen", ["stop"], 1, 8, again=(1, 2, 4))
    add("stuck: asleep in a step", ["sleep"], 1, 8, again=())
    add("under torchrun", ["kill", "torchrun told", "memory"], 1, 9)
    add("killed", ["kill"], 2, 20, again=(2, 4, 1, 3))
    add("left before the others", ["leave"], 1, 6, again=())
    # Four steps in a row without a number are given up.
    add("loss of NaN", ["nan"], 1, 8, again=(), last=3)
    add("unreadable utterance", ["unreadable"], 1, 8, again=())
    add("out of memory", ["memory", "card", "allocate"], 2, 12, again=(0, 4, 2))
    add("signal in a step", list(SIGNALS), 2, 12)
    add("signal in validation", list(SIGNALS), 1, 8, "VALID")
    return found


def faults(setting: Setting) -> Iterator[Outcome]:
    """Each case, and what came of it."""
    world = make_world(setting.folder / "world")
    study = Study(world, setting.folder)
    waiting = [case for case in cases(setting) if setting.wants(case.kind)]
    for size in sorted({case.size for case in waiting}):
        study.finish(study.whole(size))
    running = study.running
    while waiting or running:
        busy = [c for c, _ in running if "stuck" not in c.kind]
        while waiting and ("stuck" in waiting[0].kind or len(busy) < AT_A_TIME):
            case = waiting.pop(0)
            running.append((case, study.strike(case)))
            busy += [case] if "stuck" not in case.kind else []
        time.sleep(0.05)
        for case, group in list(running):
            if group.is_over(LONGEST, MINUTE + 5):
                running.remove((case, group))
                yield Outcome(case.kind, str(case), study.judge(case, group))
                shutil.rmtree(group.folder.parent)


class Study:
    """Runs of one configuration, disturbed and not."""

    def __init__(self, world: World, folder: Path):
        self.world, self.folder = world, folder
        self.ends: dict[int, tuple] = {}
        self.running: list[tuple[Case, Group]] = []

    def words(self, results, **changes):
        """A short run, of which every step and every number counts."""
        lora = {"adapt_attention": True, "lora_rank": 2, "lora_dropout": 0.1}
        steps = {"steps": STEPS, "warmdown_steps": 4, "checkpoint_interval": 3}
        sets = {"test_splits": "[test-clean]", "batch_size": 2}
        options = {**lora, **steps, **sets, **changes}
        return self.world.words(results, **options)

    def group(self, top, name, size, fault=None, **changes):
        """Start the ranks of a run in a folder of its own."""
        words = self.words(top / "results", **changes)
        return Group(top / name, words, size, fault).start()

    def whole(self, size):
        """The run that nothing disturbs."""
        return self.group(self.folder / f"whole-{size}", "ranks", size)

    def finish(self, group):
        """See a run to its end, and keep that; what is wrong with it."""
        while not group.is_over(LONGEST, LONGEST):
            time.sleep(0.05)
            # Or an end would be noted when somebody looks for it.
            for _, other in self.running:
                other.reap()
        if set(group.codes.values()) != {0}:
            return f"did not end well {group.codes}: {group.said()[-1500:]}"
        results = group.folder.parent / "results"
        if result(results)["status"] != "done":
            return f"status {result(results)['status']}"
        if "whole" in group.folder.parent.name:
            self.ends[group.size] = end_of(results)
        return ""

    def strike(self, case):
        """Start a run that meets with a fault."""
        top, changes = self.folder / f"case-{case.number}", {}
        if case.fault.what == "unreadable":
            top.mkdir()
            corpus = top / "LibriSpeech"
            shutil.copytree(self.world.corpus, corpus)
            audio = sorted(corpus.glob("train-clean-100/*/*/*.flac"))
            bad = audio[case.fault.step]
            bad.write_bytes(bad.read_bytes()[:60])
            shutil.copytree(
                self.folder / "whole-2/results/manifests",
                top / "results/manifests",
            )
            changes = {"data_folder": corpus, "skip_prep": True}
        words = self.words(top / "results", **changes)
        torchrun = "torchrun" in case.kind
        group = Group(
            top / "ranks", words, case.size, case.fault, torchrun=torchrun
        )
        return group.start()

    def judge(self, case, group):
        """What is wrong with how a run met its fault; empty: nothing."""
        if group.torchrun:
            wrong = self.judge_torchrun(case, group)
        elif case.fault.what in SIGNALS:
            wrong = self.judge_signal(case, group)
        elif case.fault.what == "unreadable":
            wrong = judge_unreadable(group)
        else:
            wrong = judge_fault(case, group)
        if wrong:
            return f"{wrong}\n{group.said()[-3000:]}"
        return self.go_on(case, group) if case.again else ""

    def go_on(self, case, group):
        """What is wrong with the run once it is started again."""
        top = group.folder.parent
        saved = [*(top / "results/base/save").glob("CKPT*")]
        again = self.group(top, "again", case.again)
        wrong = self.finish(again)
        if wrong:
            return f"started again: {wrong}"
        is_same = case.again == case.size
        if is_same and end_of(top / "results") != self.ends[case.size]:
            return "started again: another end than undisturbed"
        told = f"by {case.again} from here on" in again.said()
        if told != (bool(saved) and not is_same):
            return (
                "started again: not told rightly how many processes there are"
            )
        return ""

    def judge_signal(self, case, group):
        """What is wrong with how a run saved when it was told to stop."""
        codes, wanted = set(group.codes.values()), SIGNALS[case.fault.what]
        if len(group.codes) < case.size:
            return "did not end within a minute"
        # Who was not told itself says what torchrun would have sent.
        if not codes <= {wanted, 143}:
            return f"exit codes {group.codes}, not {wanted}"
        return judge_saved(case, group)

    def judge_torchrun(self, case, group):
        """What is wrong with how torchrun and its ranks ended."""
        struck = group.struck()
        if struck is None or not group.ended:
            return "no fault, or no end within a minute"
        if group.ended[0] - struck > MINUTE or group.codes[0] == 0:
            return f"too late, or as if all was well: {group.codes}"
        if case.fault.what == "torchrun told":
            return judge_saved(case, group)
        who = rf"^Error: Process {case.fault.rank} of {case.size} .*$"
        lines = re.findall(who, group.said(), re.M)
        return "" if len(lines) == 1 else f"not one line: {lines}"


def end_of(results) -> tuple:
    """All that a run's end is: weights bit for bit, losses, answers."""
    folder = Path(results) / "base"
    weights = {
        f"{file.name} {name}": value.numpy().tobytes()
        for file in sorted((folder / "trained").rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }
    told = result(results)
    scores = {name: one["value"] for name, one in told["scores"].items()}
    said = [
        (folder / name).read_bytes()
        for name in ("losses-valid.jsonl", "hypotheses-test-clean.jsonl")
    ]
    assert len(weights) > 4 and torch.is_tensor(value_of(folder))
    return weights, told["validation"], scores, said


def value_of(folder):
    """Any trained weight."""
    return next(
        iter(load_file(folder / "trained/projector.safetensors").values())
    )


def judge_saved(case, group):
    """What is wrong with what was saved at a signal, and told of it."""
    [found] = (group.folder.parent / "results/base/save").glob("CKPT*")
    step = read_state(found / "brain.ckpt")["optimizer_step"]
    least = case.fault.step
    if not least <= step <= least + 2:
        return f"saved after step {step}, told to stop in step {least}"
    lines = re.findall(r"^Stopped by .*$", group.said(), re.M)
    if len(lines) != 1 or f"after step {step}" not in lines[0]:
        return f"not told once and rightly: {lines}"
    return ""


def judge_fault(case, group):
    """What is wrong with how the others ended, and what they said."""
    struck, one = group.struck(), case.fault
    others = [rank for rank in group.pids if rank != one.rank]
    if struck is None:
        return "the fault never came"
    left = [rank for rank in others if rank not in group.codes]
    took = [group.ended[r] - struck for r in others if r in group.ended]
    if left or max(took) > MINUTE:
        return f"processes {left or others} did not end within a minute"
    if 0 in [group.codes[rank] for rank in others]:
        return f"ended as if all was well: {group.codes}"
    who = rf"(?i:process) {one.rank} of {case.size}\b"
    lines = re.findall(rf"^.*{who}.*$", group.said(), re.M)
    errors = [line for line in lines if line.startswith("Error")]
    # An error of Python's own has its traceback, there where it happened.
    wanted = "not finite" if one.what == "nan" else "The others stop"
    if len([line for line in errors if wanted in line]) != 1:
        return f"not one line that names process {one.rank}: {lines}"
    for rank in others:
        if "Traceback" in group.said(rank):
            return f"process {rank} has a traceback of its own"
    told = result(group.folder.parent / "results")
    if one.rank and not re.search(who, told["error"] or ""):
        return f"result.json says {told['status']}, {told['error']}"
    return ""


def judge_unreadable(group):
    """What is wrong with how a damaged file ended the run."""
    if len(group.codes) < group.size or 0 in group.codes.values():
        return f"did not end: {group.codes}"
    lines = re.findall(r"^Error.*$", group.said(), re.M)
    named = re.compile(rf"(?i:process) \d of {group.size}\b")
    if not any(map(named.search, lines)):
        return f"no process is named: {lines}"
    if not any(".flac" in one for one in lines):
        return f"no file is named: {lines}"
    return ""
