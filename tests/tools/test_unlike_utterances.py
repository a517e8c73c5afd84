"""One missing utterance: the run is left out and named, never unpaired."""

import json

import pytest
from mini_study import LARGE, SETS, MiniStudy

from speechbrain_ext.runs.reading import load_runs
from speechllm.report.study import Study

NAME = f"{LARGE[0]}--ASR-s2-n2-both-speech"


def opened(folder):
    found = load_runs(folder)
    return Study(found.all, found.folders), {r.name: r for r in found.all}


@pytest.fixture
def folder(tmp_path):
    """Three seeds of a baseline and of a pruned system, the second worse."""
    MiniStudy(tmp_path).run(LARGE, 5)
    MiniStudy(tmp_path, seeds=(1, 3)).run(LARGE, 6, 2, "both")
    MiniStudy(tmp_path, seeds=(2,)).run(LARGE, 9, 2, "both")
    return tmp_path


def drop(folder, utterance):
    """Take an utterance out of a run's answers on the first set."""
    file = folder / NAME / f"hypotheses-{SETS[0]}.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    rest = [line for line in lines if f'"{utterance}"' not in line]
    assert len(rest) == len(lines) - 1
    file.write_text("".join(rest))


def test_a_run_that_misses_an_utterance_is_left_out_and_named(folder):
    study, runs = opened(folder)
    assert not [note for note in study.samples.notes if "left out" in note]
    assert study.samples.score(runs[NAME], SETS[0]) is not None
    [which] = study.systems()
    cell = which, 2, "both", "speech"
    assert study.degradation(*cell, SETS[0]).value > 0.35
    drop(folder, "u7")
    study, runs = opened(folder)
    [note] = [note for note in study.samples.notes if "left out" in note]
    for part in (NAME, SETS[0], "1 utterances", "u7", "evaluate it again"):
        assert part in note
    # Of that set alone, and of that run alone.
    assert study.samples.score(runs[NAME], SETS[0]) is None
    assert study.samples.score(runs[NAME], SETS[1]) is not None
    rest = study.degradation(*cell, SETS[0])
    assert rest.value == pytest.approx(0.2, abs=0.02)


def test_without_any_run_to_pair_a_set_has_no_degradation(tmp_path):
    study = MiniStudy(tmp_path, seeds=(2,))
    study.run(LARGE, 5)
    study.run(LARGE, 6, 2, "both")
    drop(tmp_path, "u7")
    study, _ = opened(tmp_path)
    [which] = study.systems()
    found = [
        study.degradation(which, 2, "both", "speech", name) for name in SETS
    ]
    assert found[0] is None and found[1] is not None
    assert any("left out" in note for note in study.samples.notes)


def test_a_seed_that_lacks_a_set_is_named(folder):
    file = folder / NAME / "result.json"
    result = json.loads(file.read_text())
    del result["scores"][SETS[0]]
    file.write_text(json.dumps(result))
    study, _ = opened(folder)
    [note] = [one for one in study.samples.notes if "degradation" in one]
    assert note.startswith(f"{NAME}: not in the degradation on {SETS[0]}")
