"""What the report compares is alike: same task, same sets.

Authors
 * The speechbrain_ext authors, 2026
"""

from types import SimpleNamespace

import numpy as np

from speechllm.report import maps
from speechllm.report.frontier import common_sets


def test_a_frontier_leaves_out_sets_that_only_some_runs_have():
    scores = {("a", 2): 1.0, ("a", 4): 2.0, ("b", 4): 3.0}
    cells = SimpleNamespace(
        curves=lambda which: {("both", "speech"): [2, 4]},
        depths=lambda which, healing, path: [2, 4],
        sets=lambda which: ["a", "b"],
        score=lambda which, depth, healing, path, name: scores.get(
            (name, depth)
        ),
    )
    assert common_sets(cells, "system") == ["a"]


def test_an_adapted_map_stands_beside_the_frozen_one_of_its_task(monkeypatch):
    def run(task, adapter):
        return SimpleNamespace(
            backbone="m", encoder="e", task=task, seed=1, adapter=adapter
        )

    found = [
        (run("ASR", None), 0.5),
        (run("ASR", "lora"), 0.4),
        (run("AST en-de", None), 0.1),
    ]
    monkeypatch.setattr(maps, "measured", lambda *args: found)
    monkeypatch.setattr(maps, "distances", lambda table: np.array([[table]]))
    monkeypatch.setattr(maps, "over_seeds", lambda cells, by_seed: by_seed)
    (changes,) = maps.adapted_against_frozen(None, None).values()
    assert np.allclose(changes, [-0.1])
