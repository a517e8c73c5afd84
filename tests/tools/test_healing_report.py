"""The healing study's summary on constructed results with known ratios.

Authors
 * The speechbrain_ext authors, 2026
"""

import json

import pytest

from speechbrain_ext.runs.files import write_hypotheses, write_losses
from speechbrain_ext.runs.result import RunResult, SetScore
from speechllm.report.healing import HealingStudy, comparisons, main

WORDS = "red dog sits under old trees near long green fences".split()


def rows_of(errors):
    """Forty utterances of ten words; some have that many errors."""
    wrong = [3 if i % 4 == 0 else 1 if errors > 1 else 0 for i in range(40)]
    return [
        {
            "id": f"u{i}",
            "reference": " ".join(WORDS),
            "hypothesis": " ".join(WORDS[: 10 - min(9, errors * wrong[i])]),
            "duration": 1.0,
        }
        for i in range(40)
    ]


def add(folder, name, errors, loss, seed=1, removed=0, steps=100, **more):
    """A finished run with its hypotheses; its WER is that of its rows."""
    rows = rows_of(errors)
    lost = sum(10 - len(row["hypothesis"].split()) for row in rows)
    run = RunResult(name, "mini", layers=6, removed=removed, seed=seed)
    run.status, run.steps = "done", steps
    run.scores = {"dev": SetScore("WER", 100 * lost / 400)}
    run.validation = {"final_loss": loss}
    run.trainable = {} if steps == 0 else {"projector": 5}
    if removed:
        run.kept_layers = list(range(removed, 6))
        run.path = {"from": "speech", "rule": "angular"}
    for key, value in more.items():
        setattr(run, key, value)
    run.save(folder / name)
    write_hypotheses(folder / name, "dev", rows)
    return run


@pytest.fixture
def folder(tmp_path):
    """Baseline loss 1; both loses 0.4 and 0.6, attention a half of each."""
    runs = tmp_path / "runs"
    even = {"from": "speech even", "rule": "even"}
    for seed, loss in ((1, 0.4), (2, 0.6)):
        add(runs, f"base-{seed}", 1, 1.0, seed)
        cell = dict(seed=seed, removed=2)
        add(runs, f"both-{seed}", 3, 1 + loss, **cell, healing="both")
        half = dict(healing="attention")
        add(runs, f"att-{seed}", 2, 1 + loss / 2, **cell, **half)
    one = dict(removed=2, healing="both")
    add(runs, "even-1", 1, 1.3, path=even, **one)
    add(runs, "long-1", 2, 1.1, steps=300, **one)
    add(runs, "map-1", 3, 2.0, steps=0, removed=2, healing="map")
    add(runs, "a-s1-trial1-both", 1, 0.1, **one)
    failed = RunResult("bad", "mini", layers=6, removed=2, healing="bridge")
    failed.path, failed.status, failed.seed = {"from": "speech"}, "failed", 1
    failed.save(runs / "bad")
    plan = [{"name": n, "kind": "healed", "made": ""} for n in ("bad", "gone")]
    (tmp_path / "plan.json").write_text(json.dumps({"runs": plan}))
    return runs


def cell(folder, method, steps=100):
    main([str(folder), "--output", str(folder.parent)])
    found = json.loads((folder.parent / "summary.json").read_text())
    (one,) = [
        record
        for record in found["comparisons"]
        if (record["method"], record["steps"]) == (method, steps)
    ]
    return one


def test_ratios_are_those_that_were_built_in(folder):
    one = cell(folder, "attention")
    assert (one["backbone"], one["removed"], one["layers"]) == ("mini", 2, 6)
    assert one["seeds"] == [1, 2]
    assert one["ratio"]["cross_entropy"]["value"] == pytest.approx(0.5)
    assert one["degradation"]["cross_entropy"]["value"] == pytest.approx(0.25)
    # Errors: 30 whole; 2 x 3 x 10 + 2 x 30 = 120; 9 x 10 + 3 x 30 = 180.
    assert one["degradation"]["score"]["value"] == pytest.approx(3.0)
    assert one["ratio"]["score"]["value"] == pytest.approx(3 / 5)
    low, high = one["ratio"]["score"]["interval"]
    assert low <= 3 / 5 <= high < 1


def test_cross_entropy_is_drawn_over_utterances(folder):
    """One seed each: only utterances can make an interval."""
    assert cell(folder, "both, even")["ratio"]["cross_entropy"]["interval"] is (
        None
    )
    # Nats above the baseline's 1: half of both's 0.4, but not everywhere.
    for name, above in (
        ("base-1", lambda i: 0.0),
        ("both-1", lambda i: 0.4),
        ("even-1", lambda i: 0.4 if i % 2 else 0.0),
    ):
        rows = [
            {"id": f"v{i}", "loss": 5 * (1 + above(i)), "tokens": 5}
            for i in range(40)
        ]
        write_losses(folder / name, rows)
    run = json.loads((folder / "even-1/result.json").read_text())
    run["validation"]["final_loss"] = 1.2
    (folder / "even-1/result.json").write_text(json.dumps(run))
    ratio = cell(folder, "both, even")["ratio"]["cross_entropy"]
    assert ratio["value"] == pytest.approx(0.5)
    low, high = ratio["interval"]
    # A mean of 40 that are 0 or 1: 0.5, give or take 1.96 x 0.079.
    assert low == pytest.approx(0.5 - 0.155, abs=0.05)
    assert high == pytest.approx(0.5 + 0.155, abs=0.05)


def test_the_best_of_a_cell_stands_beside_the_papers(folder):
    main([str(folder), "--output", str(folder.parent)])
    page = (folder.parent / "table.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.split("## mini, ASR")[0].splitlines()
        if line.startswith("| mini, ASR")
    ]
    # 100 steps: attention loses 0.25 of both's 0.5; the map loses 1.
    (row,) = [row for row in rows if row[1:3] == ["2 of 6", "100"]]
    assert row[3].startswith("0.50") and row[5] == (
        "attention (best of 4 compared)"
    )
    assert row[6] == "5" and row[7].startswith("0.25")
    assert row[9].startswith("0.50") and row[10].startswith("0.60")


def test_a_higher_bleu_is_a_lower_degradation(folder):
    """100 whole; the paper's healing loses 20 of it, attention 5."""
    for name, removed, healing, bleu in (
        ("de", 0, "none", 100.0),
        ("de-both", 2, "both", 80.0),
        ("de-att", 2, "attention", 95.0),
    ):
        run = RunResult(name, "mini", task="AST en-de", layers=6, seed=1)
        run.removed, run.healing, run.steps = removed, healing, 100
        run.kept_layers = list(range(removed, 6))
        run.path = {"from": "speech"} if removed else None
        run.trainable = {"projector": 5}
        run.scores, run.status = {"test": SetScore("BLEU", bleu)}, "done"
        run.save(folder / name)
    main([str(folder), "--output", str(folder.parent)])
    found = json.loads((folder.parent / "summary.json").read_text())
    (one,) = [
        record
        for record in found["comparisons"]
        if (record["task"], record["method"], record["steps"])
        == ("AST en-de", "attention", 100)
    ]
    assert one["degradation"]["score"]["value"] == pytest.approx(0.05)
    assert one["ratio"]["score"]["value"] == pytest.approx(0.25)
    page = (folder.parent / "table.md").read_text()
    assert "## mini, ASR" in page and "## mini, AST en-de" in page


def test_the_paper_is_its_own_measure(folder):
    ratio = cell(folder, "both")["ratio"]
    for measure in ("cross_entropy", "score"):
        assert ratio[measure]["value"] == 1.0
        assert ratio[measure]["interval"] in (None, [1.0, 1.0])


def test_only_shared_seeds_count_and_rules_are_told_apart(folder):
    one = cell(folder, "both, even")
    assert one["seeds"] == [1]
    # 0.3 over the 0.4 of the same seed, not over the mean of both.
    assert one["ratio"]["cross_entropy"]["value"] == pytest.approx(0.75)
    assert one["ratio"]["cross_entropy"]["interval"] is None


def test_lengths_are_told_apart_and_untrained_ones_are_in_all(folder):
    both = cell(folder, "both", 300)
    assert both["degradation"]["cross_entropy"]["value"] == pytest.approx(0.1)
    fixed = cell(folder, "map", 300)
    assert fixed["ratio"]["cross_entropy"]["value"] == pytest.approx(10.0)
    fixed = cell(folder, "map", 100)
    assert fixed["ratio"]["cross_entropy"]["value"] == pytest.approx(2.5)


def test_missing_runs_show_as_missing(folder):
    one = cell(folder, "bridge")
    assert one["ratio"] == {"cross_entropy": None, "score": None}
    page = (folder.parent / "table.md").read_text()
    (line,) = [
        row for row in page.splitlines() if "bridge" in row and "100" in row
    ]
    assert line.count("missing") == 4
    assert "- gone: no run" in page and "- bad: " in page
    assert (folder.parent / "frontier-100.png").is_file()
    assert (folder.parent / "frontier-300.png").is_file()


def test_a_paper_that_loses_nothing_is_no_measure(folder):
    add(folder, "both-1", 1, 0.9, removed=2, healing="both")
    add(folder, "both-2", 1, 0.9, seed=2, removed=2, healing="both")
    one = cell(folder, "attention")
    assert one["ratio"] == {"cross_entropy": None, "score": None}
    assert one["degradation"]["score"]["value"] > 0
    page = (folder.parent / "table.md").read_text()
    (line,) = [r for r in page.splitlines() if "100   | attention" in r]
    assert line.count("loses nothing") == 2 and "missing" not in line


def test_no_run_gives_no_comparison(tmp_path):
    assert comparisons(HealingStudy([], {})) == []
    assert HealingStudy([], {}).steps() == []
    assert main([str(tmp_path)]) == 2
