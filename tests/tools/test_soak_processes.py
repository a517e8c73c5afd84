"""Processes that are lost, stuck, or told to stop: found by the campaign."""

import os
import signal
import subprocess
import threading
import time

import pytest
import torch
from speech_llm_fixtures import make_brain, make_dataset

from speechbrain_ext.training import (
    left_out,
    processes,
    steps,
    stops,
    watch,
)
from speechbrain_ext.training.stops import Stopped
from speechbrain_ext.training.watch import Watch
from speechllm.command import run_command

BLOCK = (1, 2)


class Group:
    """Two watches at one store, of which the first looks when it is told."""

    def __init__(self, monkeypatch):
        self.store = torch.distributed.HashStore()
        monkeypatch.setattr(watch, "LOOK", 0.001)
        monkeypatch.setattr(watch, "PATIENCE", 0.02)
        monkeypatch.delenv(watch.VARIABLE, raising=False)
        self.one = Watch(self.store, 0, 2)
        self.other = None

    def begin(self):
        """The other process begins."""
        self.other = Watch(self.store, 1, 2)
        return self

    def look(self, times=1, beats=True):
        """What the first finds in so many looks."""
        for _ in range(times):
            if beats:
                self.other._beat()
            fault = self.one._fault()
            if fault:
                return fault
        return None


@pytest.fixture
def group(monkeypatch):
    return Group(monkeypatch)


def test_all_is_well(group):
    assert group.begin().look(100) is None


def test_one_that_ended_with_an_error_is_named_with_it(group):
    group.begin().other.close(MemoryError("of 2 GB"))
    assert group.look(beats=False) == (1, "ended: MemoryError: of 2 GB", False)


def test_one_that_was_killed_is_seen_at_once(group, monkeypatch):
    gone = subprocess.Popen(["true"])
    gone.wait()
    group.begin()
    monkeypatch.setattr(os, "getpid", lambda: gone.pid)
    assert group.look() is None  # its word is new
    rank, what, is_lost = group.look(beats=False)
    assert rank == 1 and "was killed" in what and is_lost


def test_one_that_is_frozen_is_told_from_one_that_is_slow(group):
    group.begin()
    for _ in range(3):  # now and then a sign
        assert group.look() is None
        assert group.look(watch.FROZEN, beats=False) is None
    rank, what, _ = group.look(2, beats=False)
    assert rank == 1 and "no sign" in what


def test_one_that_never_begins_is_not_waited_for_for_ever(group):
    assert group.look(watch.BEGIN, beats=False) is None
    assert group.look(beats=False) == (1, "has not begun", True)


def test_one_that_does_not_come_is_told_with_its_place(group, monkeypatch):
    group.begin()
    assert group.look(100) is None  # nobody waits
    group.one.meetings += 1
    rank, what, is_lost = group.look(100)
    assert rank == 1 and is_lost
    # Here the main thread is the one that says where it is.
    assert "has not come" in what and "processes.py:" in what
    assert watch.VARIABLE in what


def test_one_that_computes_may_take_its_time(group, monkeypatch):
    seconds = iter(range(10**6))
    monkeypatch.setattr(watch, "_work", lambda: next(seconds))
    group.begin()
    group.one.meetings += 1
    assert group.look(200) is None


def test_one_that_is_always_a_little_later_is_not_stuck(group):
    group.begin()
    for _ in range(200):
        group.one.meetings += 1
        assert group.look() is None
        group.other.meetings += 1


def test_one_that_ended_well_is_missed_only_by_whom_it_left(group):
    group.begin().other.close()
    assert group.look(beats=False) is None
    for missed in ("_deserted", "meetings"):
        setattr(group.one, missed, 1)
        found = group.look(beats=False)
        assert found == (1, "ended before this one", True)
        setattr(group.one, missed, 0)


def test_patience_is_a_number(group, monkeypatch):
    monkeypatch.setenv(watch.VARIABLE, "long")
    with pytest.raises(ValueError, match="SPEECHLLM_PATIENCE=long: give"):
        group.begin()


def test_a_store_that_is_gone_ends_the_run(group, monkeypatch):
    group.begin()

    def gone(keys):
        raise torch.distributed.DistNetworkError("Connection reset")

    monkeypatch.setattr(group.one, "_read", lambda: gone(None))
    assert group.look(watch.NO_STORE - 1) is None
    assert "does not answer" in group.look()[1]


def test_one_line_is_told_and_the_result_knows_it(group, monkeypatch, capsys):
    ended, noted = [], []
    monkeypatch.setattr(os, "_exit", ended.append)
    for one in (group.one, group.begin().other):
        one.record = noted.append
        one._leave(1, "was killed", True)
    assert ended == [1, 1]
    assert noted[0] == "ProcessLost: process 1 of 2 was killed"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("Error: Process 1 of 2 was")
    assert said[0].endswith("goes on from the last checkpoint.")


def test_a_thread_ends_its_process_once_another_has_failed(group, monkeypatch):
    left = []
    monkeypatch.setattr(group.one, "_leave", lambda *told: left.append(told))
    group.begin().other.close(ValueError("no"))
    group.one.start()
    until = time.monotonic() + 20
    while not left and time.monotonic() < until:
        time.sleep(0.01)
    group.one.close()
    assert left[0] == (1, "ended: ValueError: no", False)


def test_what_torchrun_ends_tells_first_of_whom(group, monkeypatch):
    done = []
    monkeypatch.setattr(group.one, "_leave", lambda *told: done.append(told))
    monkeypatch.setattr(os, "kill", lambda pid, number: done.append(number))
    monkeypatch.setattr(watch, "LOOK", 0.2)
    before = signal.getsignal(signal.SIGTERM)
    group.begin().other.close(MemoryError("none"))
    group.one.start()
    try:
        group.one.die(signal.SIGTERM, None)
    finally:
        signal.signal(signal.SIGTERM, before)
        group.one.close()
    assert done[0] == (1, "ended: MemoryError: none", False)
    assert done[-1] == signal.SIGTERM


def test_the_same_error_of_all_is_told_once(group, monkeypatch, capsys):
    def refuse():
        raise_from_ours("a: no such folder")

    for one in (group.one, group.begin().other):
        monkeypatch.setattr(processes, "_watch", one)
        with pytest.raises(SystemExit):
            run_command(refuse)
    said = capsys.readouterr().err
    assert said == "Error in process 0 of 2: a: no such folder\n"


def raise_from_ours(text):
    """An error that a package of ours raises."""
    from speechbrain_ext.training.faults import ConfigError

    error = ConfigError("a", [])
    error.args = (text,)
    raise error


def test_the_others_wait_for_the_main_process_without_a_limit(
    group, monkeypatch
):
    """They come to the operation, which has one, when it is done."""
    came = []
    monkeypatch.setattr(
        watch.distributed,
        "run_on_main",
        lambda work: came.append(1) or work(),
    )
    other = group.begin().other
    waiting = threading.Thread(target=other.call, args=(lambda: 0, []))
    waiting.start()
    time.sleep(0.05)
    assert came == []
    group.one.call(lambda: time.sleep(0.05), [])
    waiting.join(20)
    assert not waiting.is_alive() and came == [1, 1]


# ----------------------------------------------------------------------------
# Signals


def trained(folder, tmp_path, stage=None, number=signal.SIGTERM, step=3):
    """A Brain after training, told to stop in a step where one is given."""
    brain = make_brain(folder, BLOCK, "both", tmp_path, checkpoint_interval=8)
    forward, told = brain.compute_forward, []

    def heard(batch, now):
        """The signal comes while it computes."""
        due = brain.optimizer_step == step and now.name == stage
        if due and not told:
            told.append(1)
            os.kill(os.getpid(), number)
        return forward(batch, now)

    brain.compute_forward = heard
    data = make_dataset(brain.model.prompt)
    torch.manual_seed(3)
    brain.fit(data, data)
    return brain


@pytest.fixture(scope="module")
def folder(decoder_folders):
    return decoder_folders["qwen2"]


@pytest.mark.parametrize("number", stops.SIGNALS)
@pytest.mark.parametrize(
    "stage, step", [("TRAIN", 2), ("VALID", 4), ("VALID", 8)]
)
def test_a_signal_saves_first_and_the_end_is_the_same(
    folder, tmp_path, capsys, number, stage, step
):
    before = signal.getsignal(number)
    whole = trained(folder, tmp_path / "whole")
    with pytest.raises(Stopped) as stopped:
        trained(folder, tmp_path / "stopped", stage, number, step)
    assert stopped.value.code == 128 + number
    saved = step + (stage == "TRAIN")
    said = capsys.readouterr().out
    assert f"Stopped by {number.name} after step {saved}," in said
    assert signal.getsignal(number) is before
    again = trained(folder, tmp_path / "stopped")
    assert again.history == whole.history
    for (name, one), (_, other) in zip(
        again.trainable.named(), whole.trainable.named(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_signal_to_one_process_stops_all_after_the_same_step(monkeypatch):
    pair = [steps.JoinedSteps() for _ in range(2)]
    asked = [False, False]
    sums: list = []
    ended: dict = {}
    meeting = threading.Barrier(2)
    own = threading.local()

    def all_reduce(flat):
        """Sum over both threads."""
        sums[own.rank] = flat.clone()
        meeting.wait(20)
        total = sums[0] + sums[1]
        meeting.wait(20)
        flat.copy_(total)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    sums[:] = [None, None]

    def rank(number):
        """The steps of a process until it stops."""
        own.rank = number
        for step in range(1, 10):
            asked[1] = asked[1] or (number == 1 and step == 4)
            loss, gradient = torch.ones(()), torch.ones(3)
            pair[number].join(loss, [gradient], 2, asked[number])
            if pair[number].is_stop():
                ended[number] = step
                return

    threads = [threading.Thread(target=rank, args=(n,)) for n in (0, 1)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert ended == {0: 5, 1: 5}


def test_who_reads_data_does_not_hear_what_its_parent_is_told(folder):
    brain = make_brain(folder)
    data = make_dataset(brain.model.prompt, 6)
    brain.hparams.num_workers = 1
    batches = iter(brain._loader(data, [[0, 1], [2, 3], [4, 5]] * 20))
    next(batches)
    [worker] = batches._workers
    for number in stops.SIGNALS:
        os.kill(worker.pid, number)
    assert sum(1 for _ in batches) == 59


def test_other_processes_than_were_saved_are_told(capsys):
    from speechbrain_ext.training.checkpoints import (
        random_state,
        resume_random_state,
    )

    states = [random_state()] * 2
    for world_size in (1, 2, 4):
        for rank in range(world_size):
            resume_random_state(states, rank, world_size, 7)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "by 2 processes so far, by 1 from here on" in said[0]


def test_the_last_word_on_a_loss_names_the_process(folder):
    brain = make_brain(folder)
    brain.world_size, brain.nonfinite_count = 2, brain.nonfinite_patience
    brain.joined.own = [torch.tensor(1.0), torch.tensor(float("nan"))]
    brain._gather = lambda value: [True, value]
    with pytest.raises(ValueError, match="the loss of process 1 of 2"):
        left_out.check(brain, torch.tensor(float("nan")))


def test_a_job_that_is_told_to_stop_waits_for_its_training(
    tmp_path, monkeypatch
):
    from speechllm.study import processes as started

    script = (
        "trap 'sleep 0.3; echo saved >saved; exit 143' TERM; echo >ready; "
        "while :; do sleep 0.05; done"
    )
    monkeypatch.setattr(started, "_starter", lambda gpus: ["sh", "-c", script])
    wait, told = subprocess.Popen.wait, []

    def waiting(process):
        """The job's own signal comes while it waits the first time."""
        if told:
            return wait(process)
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        told.append(1)
        raise SystemExit(143)

    monkeypatch.setattr(subprocess.Popen, "wait", waiting)
    with pytest.raises(SystemExit):
        started.run_started([], tmp_path, dict(os.environ), tmp_path / "log")
    assert (tmp_path / "saved").exists()
