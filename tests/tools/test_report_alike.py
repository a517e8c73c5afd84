"""What the report compares is alike: same task, same sets.

Authors
 * The speechbrain_ext authors, 2026
"""

import pytest
from mini_study import ADAPTED, LARGE, MiniStudy

from speechbrain_ext.runs.reading import load_runs
from speechbrain_ext.runs.result import RunResult, SetScore
from speechllm.report import maps
from speechllm.report.study import Study


def test_a_frontier_leaves_out_sets_that_only_some_runs_have():
    scores = {2: {"a": 1.0}, 4: {"a": 2.0, "b": 3.0}}
    how = {"layers": 12, "healing": "both", "status": "done"}
    runs = [
        RunResult(
            f"n{depth}",
            "mini-qwen2",
            removed=depth,
            scores={
                name: SetScore("WER", value) for name, value in own.items()
            },
            **how,
        )
        for depth, own in scores.items()
    ]
    cells = Study(runs)
    (which,) = cells.systems()
    assert cells.sets(which) == ["a", "b"]
    assert cells.common_sets(which) == ["a"]


def test_an_adapted_map_stands_beside_the_frozen_one_of_its_task(tmp_path):
    study = MiniStudy(tmp_path, seeds=(1, 2))
    for task, gap in (("ASR", 0.1), ("AST en-de", 0.4)):
        frozen = (*LARGE[:4], task)
        study.run(frozen, 5)
        study.run(frozen, 6, 2, "both")
        study.table(frozen, "speech", gap)
    study.run(ADAPTED, 5)
    study.run(ADAPTED, 6, 2, "both")
    # At a depth that the frozen one was not pruned to.
    study.run(ADAPTED, 6, 3, "both")
    study.table(ADAPTED, "speech", 0.07)
    found = load_runs(tmp_path)
    cells = Study(found.all, found.folders)
    changed = maps.adapted_against_frozen(cells, maps.read_tables(tmp_path))
    assert changed.value == pytest.approx(-0.03)
    assert maps.adapted_against_frozen(cells, []) is None
