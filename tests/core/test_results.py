"""Results: whole or not there, and never a number that was not measured.

Authors
 * The speechbrain_ext authors, 2026
"""

import dataclasses
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from speechbrain_ext.runs import files
from speechbrain_ext.runs.result import RunResult, SetScore, load_run


def a_run(**changes):
    """A finished pruned run."""
    values = {
        "name": "mini-both-4",
        "backbone": "mini-qwen",
        "layers": 12,
        "removed": 4,
        "start": 7,
        "kept_layers": [0, 1, 2, 3, 4, 5, 6, 11],
        "healing": "both",
        "path": {"from": "speech", "provenance": {"input": "speech"}},
        "scores": {
            "test-clean": SetScore("WER", 2.5, [2.0, 3.1], 1, 2, 3, 240, 30)
        },
        "speed": {"train_seconds": 20.0, "decode_seconds": 2.0},
        "configuration": {"prune_layers": 4, "lr": 0.003},
        "status": "done",
    }
    return RunResult(**{**values, **changes})


def test_a_run_comes_back_as_it_was(tmp_path):
    """A run comes back as it was."""
    run = a_run(versions=files.versions())
    path = run.save(tmp_path / "runs" / "one")
    assert path.name == "result.json"
    assert load_run(path.parent) == run
    assert load_run(path) == run


def test_an_unpruned_run_keeps_every_layer():
    """An unpruned run keeps every layer."""
    run = RunResult("base", "mini-qwen", layers=3)
    assert run.kept_layers == [0, 1, 2]
    # Removed, but which is not known: nothing is made up.
    assert a_run(kept_layers=None).kept_layers is None


def test_nan_and_infinity_become_null(tmp_path):
    """Nan and infinity become null."""
    path = tmp_path / "x.json"
    values = {
        "nan": float("nan"),
        "infinite": [float("inf"), -np.inf],
        "numpy": np.float32("nan"),
        "array": np.array([1.5, np.nan]),
        "integer": np.int64(3),
        "path": Path("a"),
        "true": True,
    }
    files.write_json(path, values)
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == {
        "nan": None,
        "infinite": [None, None],
        "numpy": None,
        "array": [1.5, None],
        "integer": 3,
        "path": "a",
        "true": True,
    }


def test_what_is_no_json_is_named_and_nothing_is_written(tmp_path):
    """What is no json is named and nothing is written."""
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(TypeError, match=r"configuration\.optimiser\[1\]"):
        files.write_json(path, {"configuration": {"optimiser": [1, {2}]}})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_an_error_in_the_block_leaves_the_old_file(tmp_path):
    """An error in the block leaves the old file."""
    path = tmp_path / "scores.bin"
    with files.atomic_write(path, "wb") as stream:
        stream.write(b"old")
    with pytest.raises(RuntimeError), files.atomic_write(path, "wb") as stream:
        stream.write(b"half of the ")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["scores.bin"]
    # A fault of another file is not told as one of this.
    with pytest.raises(FileNotFoundError, match="other"):
        with files.atomic_write(path) as stream:
            stream.write((tmp_path / "other").read_text())
    assert path.read_bytes() == b"old"


def test_newlines_are_written_as_they_are(tmp_path):
    """Newlines are written as they are."""
    with files.atomic_write(tmp_path / "x.csv") as stream:
        stream.write("a,b\r\né,1\n")
    assert (tmp_path / "x.csv").read_bytes() == "a,b\r\né,1\n".encode()


def test_killed_while_writing_the_old_file_stays(tmp_path):
    """Killed while writing the old file stays."""
    path = a_run().save(tmp_path)
    # Death between the bytes and the rename, as kill -9 would bring it.
    code = (
        "import os, sys, signal\n"
        "from speechbrain_ext.runs.files import write_json\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_json(sys.argv[1], {'name': 'half'})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)])
    assert done.returncode == -9
    assert load_run(tmp_path) == a_run()


def test_a_result_may_be_read_by_others(tmp_path):
    """A result may be read by others."""
    before = os.umask(0o022)
    try:
        path = a_run().save(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_configuration_hash_hangs_on_values_and_not_on_order():
    """Configuration hash hangs on values and not on order."""
    one = files.configuration_hash({"a": 1, "b": {"c": 2, "d": 3}})
    assert one == files.configuration_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert one != files.configuration_hash({"a": 1, "b": {"c": 2, "d": 4}})
    assert a_run().made_by != a_run(configuration={}).made_by


def test_versions_name_what_is_installed():
    """Versions name what is installed."""
    found = files.versions()
    assert found["numpy"] == np.__version__
    assert found["python"].startswith("3.")
    assert found[files.__name__.split(".")[0]] != "not installed"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"status": "finished"}, "status: 'finished'"),
        ({"removed": 13}, "removed: 13 of 12"),
    ],
)
def test_nonsense_is_refused(changes, match):
    """Nonsense is refused."""
    with pytest.raises(ValueError, match=match):
        a_run(**changes)


def _broken_ones():
    whole = json.dumps(dataclasses.asdict(a_run()))
    content = json.loads(whole)
    scores = content["scores"]["test-clean"]
    return {
        "half": whole[: len(whole) // 2],
        "empty": "",
        "a-list": "[]",
        "unknown-key": json.dumps({**content, "colour": "red"}),
        "no-name": json.dumps({"backbone": "x"}),
        "done-without-scores": json.dumps({**content, "scores": {}}),
        "text-score": json.dumps(
            {**content, "scores": {"a": {**scores, "value": "2.5"}}}
        ),
        "nan-score": whole.replace("2.5", "NaN"),
    }


@pytest.mark.parametrize("name", _broken_ones())
def test_a_broken_result_is_named_and_not_read(tmp_path, name):
    """A broken result is named and not read."""
    pytest.importorskip("speechbrain_ext.runs.reading")
    path = tmp_path / "bad" / "result.json"
    path.parent.mkdir()
    path.write_text(_broken_ones()[name])
    with pytest.raises(ValueError, match="bad/result.json"):
        load_run(path.parent)


def test_a_run_that_was_to_score_nothing_is_done(tmp_path):
    """A run that was to score nothing is done."""
    run = a_run(scores={}, configuration={"test_splits": []})
    assert load_run(run.save(tmp_path)).status == "done"


def test_an_older_result_loads(tmp_path):
    """An older result loads."""
    content = dataclasses.asdict(a_run())
    new = ("language", "normaliser", "hit_limit", "speakers")
    for key in new:
        del content["scores"]["test-clean"][key]
    (tmp_path / "result.json").write_text(json.dumps(content))
    [score] = load_run(tmp_path).scores.values()
    assert [getattr(score, key) for key in new] == [None] * 4
    assert str(score) == "WER 2.50 [2.00, 3.10]"


def test_hypotheses_come_back(tmp_path):
    """Hypotheses come back."""
    rows = [
        {"id": "1", "reference": "grün\u2028x", "hypothesis": "", "errors": 2},
        {"id": "2", "reference": "a", "hypothesis": "b\n", "errors": 1},
    ]
    path = files.write_hypotheses(tmp_path / "run", "test-clean", rows)
    assert path.name == "hypotheses-test-clean.jsonl"
    lines = path.read_text("utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows
    with pytest.raises(ValueError, match="without slashes"):
        files.write_hypotheses(tmp_path, "../x", rows)


def test_an_older_runs_peak_is_none_of_inference():
    """Training was in it; no ratio may be made of it and a newer one."""
    old = RunResult("a", "tiny", layers=4, steps=5, peak_memory_bytes=9)
    assert old.inference_peak_bytes is None
    old.train_peak_memory_bytes = 12
    assert old.inference_peak_bytes == 9
