"""Results are read back apart, and a disk's faults have a name and a mend.

Authors
 * The speechbrain_ext authors, 2026
"""

import errno
import os
import threading

import pytest

from speechbrain_ext.runs import disks, files
from speechbrain_ext.runs.reading import load_runs, read_utterances
from speechbrain_ext.runs.result import RunResult, SetScore


def a_run(name="mini-both-4", **changes):
    """A finished run."""
    values = {"scores": {"test-clean": SetScore("WER", 2.5)}, "status": "done"}
    return RunResult(name, "tiny", layers=4, **{**values, **changes})


def _full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, where):
    """A full disk leaves the old file."""
    path = a_run().save(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(os, where, _full_disk)
    with pytest.raises(OSError, match="Free some space") as caught:
        RunResult("newer", "tiny").save(tmp_path)
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    """A folder that is not there is named."""
    with pytest.raises(OSError, match="Make its folder"):
        files.write_json(tmp_path / "none" / "x.json", {})


def test_what_the_block_says_of_a_failure_stays(tmp_path):
    """What the block says of a failure stays."""
    words = "encoder error -2 when writing the image"
    with pytest.raises(OSError, match=words):
        with files.atomic_write(tmp_path / "x.png", "wb"):
            raise OSError(words)
    assert not list(tmp_path.iterdir())


def test_unfinished_runs_are_kept_apart(tmp_path):
    """Unfinished runs are kept apart."""
    a_run().save(tmp_path / "a")
    a_run(name="f", status="failed", error="no memory", scores={}).save(
        tmp_path / "deep" / "down" / "b"
    )
    a_run(name="r", status="running", scores={}).save(tmp_path / "c")
    found = load_runs(tmp_path)
    assert [run.name for run in found.done] == ["mini-both-4"]
    assert sorted(run.name for run in found.unfinished) == ["f", "r"]
    assert len(found.all) == 3


def test_a_missing_folder_is_named(tmp_path):
    """A missing folder is named."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_runs(tmp_path / "nowhere")


def test_a_broken_result_is_kept_apart_with_its_reason(tmp_path):
    """A broken result is kept apart with its reason."""
    a_run().save(tmp_path / "good")
    a_run().save(tmp_path / "bad").write_text("[]")
    found = load_runs(tmp_path)
    assert [run.name for run in found.done] == ["mini-both-4"]
    assert [file for file, _ in found.broken] == ["bad/result.json"]


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path):
    """What a killed writer left goes with the next; a living one's stays."""
    left, living = tmp_path / ".x.json.0.tmp", tmp_path / ".x.json.1.tmp"
    for path in (left, living):
        path.write_text("half")
    with disks.held(living):
        files.write_json(tmp_path / "x.json", {})
    assert sorted(os.listdir(tmp_path)) == [living.name, "x.json"]


def test_what_is_about_to_be_held_is_not_taken_for_a_killed_ones(tmp_path):
    """What is about to be held is not taken for a killed one's."""
    new = tmp_path / ".x.json.0.tmp"
    new.touch()

    def hold():
        """As a writer, a moment after it made the file."""
        with disks.held(new):
            done.wait()

    done, writer = threading.Event(), threading.Timer(0.1, hold)
    writer.start()
    try:
        assert disks.abandoned(tmp_path, ".*.tmp") == []
    finally:
        done.set()
        writer.join()
    assert disks.abandoned(tmp_path, ".*.tmp") == [new]


def test_rows_come_back_and_a_torn_line_is_named(tmp_path):
    """Rows come back and a torn line is named."""
    rows = [
        {"id": "1", "reference": "grün\u2028x", "hypothesis": "", "errors": 2},
        {"id": "2", "reference": "a", "hypothesis": "b\n", "errors": 1},
    ]
    path = files.write_hypotheses(tmp_path / "run", "test-clean", rows)
    assert read_utterances(path) == rows
    path.write_text(path.read_text("utf-8")[:-5], "utf-8")
    with pytest.raises(ValueError, match="line 2: not JSON"):
        read_utterances(path)
