"""The one-page report: its figures are the files', its verdicts are known."""

import json
import re
import shutil

import numpy as np
import pytest
from mini_study import (
    LARGE,
    LLAMA,
    SMALL,
    MiniStudy,
)

from speechbrain_ext.runs.reading import load_runs
from speechbrain_ext.runs.result import RunResult, SetScore, load_run
from speechllm import report
from speechllm.report import paper, paper_tables, samples
from speechllm.report.claims import all_claims
from speechllm.report.estimates import estimate
from speechllm.report.figures import degradation_curves
from speechllm.report.frontier import _aside, frontier
from speechllm.report.maps import four_maps
from speechllm.report.page import _units, planned_runs
from speechllm.report.paper_tables import table_one, table_two
from speechllm.report.study import Study
from speechllm.report.tables import GAP
from speechllm.report.timings import read_timings
from speechllm.report.write import as_html

BOTH = ("both", "speech")


@pytest.fixture(scope="module")
def cells(whole_study):
    """Its cells."""
    return cells_of(whole_study)


def cells_of(folder):
    found = load_runs(folder)
    timings = read_timings(folder)
    return Study(found.all, found.folders, timings=timings)


def which(system):
    backbone, adapter, _, _, task = system
    return backbone, adapter, "mini-wavlm", task


def test_scores_are_the_files_and_means_of_seeds(whole_study, cells):
    runs = [
        load_run(f)
        for f in sorted(whole_study.glob("mini-qwen2--ASR-s?-n4-both-s*"))
    ]
    assert len(runs) == 3
    for run in runs:
        for name, one in run.scores.items():
            assert cells.samples.score(run, name).value == one.value
    mean = np.mean([run.scores["test-other"].value for run in runs])
    ours = cells.score(which(LARGE), 4, *BOTH, "test-other").value
    assert ours == pytest.approx(mean)


def test_tables_show_the_figures_of_the_files(whole_study, cells):
    runs = [load_run(f) for f in sorted(whole_study.glob("mini-qwen2--ASR-s?"))]
    mean = np.mean([run.scores["test-clean"].value for run in runs])
    rows = table_one(cells).rows
    (row,) = [r for r in rows if r[:2] == ["here", "mini-qwen2"]]
    assert row[4].startswith(f"{mean:.2f} [")
    assert row[-1] == 3
    after = rows[rows.index(row) + 1]
    assert after[2:4] == ["33.3 %", "4 of 12"]
    # By the interval rule, of so many depths and runs.
    assert after[-3:] == ["[4, 5] of 12 layers", "2, 4, 5", 3]
    german = [
        load_run(f) for f in whole_study.glob("*AST_en-de-s?-n2-both-ASR*")
    ]
    mean = np.mean([run.scores["test"].value for run in german])
    (row,) = [r for r in table_two(cells).rows if r[4] == "2 of 12"]
    assert row[6].startswith(f"{mean:.2f} [")


def test_the_papers_rows_are_marked_and_right(cells):
    table = table_one(cells)
    theirs = [row for row in table.rows if row[0] == "the paper's"]
    assert len(theirs) == 14
    assert ["the paper's", "+ pruning", "43.8 %", "14 of 32"] == theirs[9][:4]
    assert theirs[9][-4] == "18.92"
    assert as_html(str(table), None, "").count('class="paper"') == 14
    assert paper.table_2()[-1]["asr"] == 17.07


def test_the_interval_of_one_seed_is_that_of_its_speakers(tmp_path):
    MiniStudy(tmp_path, seeds=(1,)).run(LARGE, 10)
    cells = cells_of(tmp_path)
    run = cells.done[0]
    ours = estimate(cells.samples.score(run, "test-clean"))
    theirs = run.scores["test-clean"].interval
    assert [ours.low, ours.high] == pytest.approx(theirs)
    assert ours.lacking == ("seeds",)


def test_seeds_have_students_interval(tmp_path):
    def run(seed, wer):
        one = RunResult(f"r{seed}", "x", layers=2, seed=seed, status="done")
        one.scores["a"] = SetScore("WER", wer)
        return one

    cells = Study([run(1, 2.0), run(2, 4.0), run(3, 6.0)])
    found = estimate(cells.baseline_score(("x", "", "", "ASR"), "a"))
    assert found.value == 4.0
    # Three seeds: wider than their range, and speakers are not known.
    assert found.low < 2 and found.high > 6
    assert found.lacking == ("answers",)
    assert any("no hypotheses" in note for note in cells.samples.notes)


def test_systems_share_the_speakers_left_out(whole_study):
    """A system that errs as another does differs from it by nothing."""
    folder = whole_study / "mini-qwen2--ASR-s1"
    one = load_run(folder)
    twin = load_run(folder)
    twin.name = "twin"
    drawn = samples.Samples([one, twin], {one.name: folder, "twin": folder})
    gap = drawn.score(one, "test-clean") - drawn.score(twin, "test-clean")
    assert not np.nan_to_num(gap.values).any()
    assert np.nanstd(drawn.score(one, "test-clean").values) > 0


def test_tolerance_needs_every_set(cells):
    sets = [
        cells.degradation(which(LARGE), 4, *BOTH, name).value
        for name in ("test-clean", "test-other")
    ]
    assert max(sets) <= 0.25
    assert cells.largest(which(LARGE)) == 4
    assert cells.tolerance(which(LARGE)) == (4, 5)
    assert cells.standing(which(LARGE), 3, *BOTH) == "open"


def test_failed_and_missing_runs_are_gaps_and_no_zeros(whole_study, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(whole_study, folder)
    for name in folder.glob("mini-qwen2--ASR-s?-n4-both-speech"):
        run = load_run(name)
        run.status, run.scores, run.error = "failed", {}, "out of memory"
        run.save(name)
    for name in folder.glob("*AST_en-de-s?-n2-both-speech"):
        shutil.rmtree(name)
    cells = cells_of(folder)
    curve = degradation_curves(cells, which(LARGE), "test-clean")[BOTH]
    assert [share for share, _ in curve] == pytest.approx(
        [50 / 3, 100 / 3, 125 / 3]
    )
    assert curve[1][1] is None and curve[2][1] is not None
    (row,) = [r for r in table_two(cells).rows if r[4] == "2 of 12"]
    assert row[5] == GAP and row[6] != GAP
    depths = [one["depth"] for one in frontier(cells, which(LARGE))]
    joint = [o for o in frontier(cells, which(LARGE)) if o["healing"] == "both"]
    assert 4 in depths and {o["path"] for o in joint if o["depth"] == 4} == {
        "text"
    }


def test_the_frontier_is_the_best_at_each_depth_with_its_cost(cells):
    rows = [one for one in frontier(cells, which(LARGE)) if one["depth"] == 4]
    values = [one["score"].value for one in rows]
    assert values == sorted(values) and len(values) == 5
    assert rows[0]["trainable"] == 1500 and rows[0]["steps"] == 100
    assert rows[0]["seconds"] == pytest.approx(30 + 10 * (1 - 3.2 / 12) * 1.02)


def test_the_threshold_comes_from_the_sizes(cells):
    gaps = {
        (large, small, name): gap.value
        for _, large, small, name, gap in paper_tables.relative_gaps(cells)
    }
    assert gaps["mini-qwen2", "mini-qwen2-8", "test-clean"] == pytest.approx(
        0.25, abs=0.05
    )
    rows = paper_tables.threshold_table(cells).rows
    (mean,) = [r for r in rows if r[:2] == ["here", "mean"]]
    assert float(mean[3].split()[0]) == pytest.approx(
        np.mean(list(gaps.values())), abs=0.006
    )
    table = paper_tables.next_smaller_table(cells)
    assert table.header[-1] == "Still better (Holm over 4)"
    assert table.rows[0][0].startswith("mini-llama without 2 of 12")
    assert {row[-1] for row in table.rows} == {"yes"}


def test_one_seed_is_not_called_better(tmp_path):
    study = MiniStudy(tmp_path, seeds=(1,))
    for system, wer in ((LARGE, 4), (SMALL, 30)):
        study.run(system, wer)
    study.run(LARGE, 4.1, 2, "both")
    rows = paper_tables.next_smaller_table(cells_of(tmp_path)).rows
    assert {row[-1] for row in rows} == {"undecided"}


def test_figure_one_has_text_speech_adapted_and_another_family(
    whole_study, cells
):
    maps = four_maps(cells, report.read_tables(whole_study))
    assert [title.replace("\n", " ") for title, _ in maps] == [
        "text mini-qwen2",
        "speech mini-qwen2",
        "speech, LoRA mini-qwen2",
        "speech mini-llama",
    ]
    assert maps[3][1]["provenance"]["model"] == LLAMA[0]


def test_the_page_needs_no_other_file(whole_study, tmp_path):
    pytest.importorskip("matplotlib")
    assert report.main([str(whole_study), "--output", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r'src="([^"]{20})', page)
    assert sources == ["data:image/png;base6"] * 4
    assert "href" not in page and "<script" not in page
    text = (tmp_path / "report.md").read_text()
    for name in ("figure1", "figure2", "costs", "frontier"):
        assert f"({name}.png)" in text
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (tmp_path / f"{name}.pdf").read_bytes()[:4] == b"%PDF"
    assert "- seeds: 3 (a baseline's and its pruned models' together)" in text
    assert "- speakers of test-clean: 24" in text
    assert "are chosen on the very test scores" in text
    assert len(re.findall(r"\| confirmed +\|", text)) > 4


def test_the_page_says_what_is_not_known(tmp_path):
    study = MiniStudy(tmp_path, seeds=(1,))
    study.run(LARGE, 4)
    for file in tmp_path.rglob("hypotheses-test-clean.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        lines = [json.dumps({**row, "speaker": None}) for row in rows]
        file.write_text("\n".join(lines) + "\n")
    lines = list(_units(cells_of(tmp_path).samples))
    assert any(
        line.startswith("seeds: 1 (a baseline's")
        and line.endswith("how much another differs is not known)")
        for line in lines
    )
    assert any(
        line.startswith("utterances of test-clean: 120 (their speakers are not")
        for line in lines
    )
    assert "speakers of test-other: 24" in lines


def test_a_planned_run_without_result_is_missing(tmp_path):
    study = MiniStudy(tmp_path / "runs", seeds=(1,))
    study.run(LARGE, 4)
    failed = {"status": "failed", "error": "out of memory"}
    study.run(LARGE, 4, 2, "both", **failed)
    runs = [
        {"name": name, "kind": "healed", "made": "m"}
        for name in ("mini-qwen2--ASR-s1", "gone", "broke")
    ]
    (tmp_path / "plan.json").write_text(json.dumps({"runs": runs}))
    graph = tmp_path / "graph/healed"
    graph.mkdir(parents=True)
    noted = {"status": "failed", "error": "no such key"}
    (graph / "broke.m.json").write_text(json.dumps(noted))
    assert planned_runs(tmp_path / "runs")["gone"] == "no run"
    report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")])
    text = (tmp_path / "out/report.md").read_text()
    assert "- gone: no run" in text
    assert "- mini-qwen2--ASR-s1-n2-both-speech: failed, out of memory" in text
    assert "- broke: failed, no such key" in text
    assert "- mini-qwen2--ASR-s1:" not in text


def test_what_a_run_says_is_text_on_the_page():
    text = "- one_b_c: <b>bad</b> & [x](y) <https://a.b>\n\n| a |\n|---|\n"
    page = as_html(f"{text}| x\\|y |\n", None, "<t>")
    assert "<title>&lt;t&gt;</title>" in page
    body = page.split("<body>")[1]
    assert "one_b_c: &lt;b&gt;bad&lt;/b&gt; &amp; [x](y) &lt;https" in body
    assert "<td>x|y</td>" in body and "href" not in body


def test_many_points_of_one_depth_stand_side_by_side():
    few, many = [{"depth": 2}] * 3, [{"depth": 4}] * 9
    aside = list(_aside(few + many))
    assert aside[:3] == [0, 0, 0]
    # The best in front, within a third of the way to the next depth.
    assert aside[3:] == sorted(aside[3:]) and len(set(aside[3:])) == 9
    assert aside[3] == -aside[-1] == pytest.approx(-0.35 * 2)


# -- claim 6: timings, and nothing else ---------------------------------------


def claim_6(folder):
    *_, claim = all_claims(cells_of(folder), [])
    return claim


@pytest.fixture
def pruned(tmp_path):
    """A study with a whole and a pruned model, nothing timed yet."""
    study = MiniStudy(tmp_path, seeds=(1,))
    study.run(LARGE, 4)
    # What shared its cores says that it is ten times as fast.
    speed = {"real_time_factor": 0.01}
    study.run(LARGE, 4.2, 5, "both", speed=speed, peak_memory_bytes=9)
    return study


def test_without_a_timing_no_speed_is_told(pruned, tmp_path):
    claim = claim_6(tmp_path)
    assert (claim.verdict, claim.parts) == ("undecided", [])
    assert "timing on an idle device" in claim.missing
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    report.main([str(tmp_path), "--output", str(out)])
    assert "Not drawn: missing: a timing on an idle" in (
        (out / "report.md").read_text()
    )
    assert not (out / "costs.png").exists()


@pytest.mark.parametrize(
    ("ratio", "verdict", "missing"),
    [
        (1.6, "confirmed", ""),
        # 45 % faster is 31 % less time.
        (1.45, "undecided", "which 35 % is meant"),
        (1.35, "undecided", ""),
        (1.2, "refuted", ""),
    ],
)
def test_both_readings_of_35_per_cent_are_told(
    pruned, tmp_path, ratio, verdict, missing
):
    pruned.timing(LARGE, 5, ratio)
    claim = claim_6(tmp_path)
    assert claim.verdict == verdict
    assert claim.missing.startswith(missing) and bool(claim.missing) == bool(
        missing
    )
    speed, time = claim.parts[:2]
    assert speed.found.value == pytest.approx(100 * (ratio - 1))
    assert time.found.value == pytest.approx(100 * (1 - 1 / ratio))
    assert time.found.low == pytest.approx(100 * (1 - 1 / (0.98 * ratio)))
    memory, weights = claim.parts[4:6]
    # 12,100 and 1,200 bytes held, and 7,100 and 700.
    assert memory.found.value == pytest.approx(100 * (1 - 7800 / 13300))
    assert (memory.verdict, weights.value()) == ("confirmed", "100")


def test_a_timing_beside_other_work_decides_nothing(pruned, tmp_path):
    for busy in (0.5, None):
        place = {"others_busy_cores": busy, "cores": 2}
        pruned.timing(LARGE, 5, 1.6, measured_on=place)
        claim = claim_6(tmp_path)
        assert claim.verdict == "undecided"
        assert "idle" in claim.missing


def test_a_timing_far_from_40_per_cent_is_not_the_claims(pruned, tmp_path):
    pruned.timing(LARGE, 2, 1.6)
    claim = claim_6(tmp_path)
    assert claim.missing == "a timing without 35 to 45 % of the layers"
    pruned.timing(LARGE, 5, 1.7)
    found = [part.says for part in claim_6(tmp_path).parts]
    assert "without 5 of 12" in found[0] and "without 2 of 12" in found[-1]


def test_a_broken_timing_is_told_and_passed_over(pruned, tmp_path, capsys):
    pruned.timing(LARGE, 5, 1.6)
    (tmp_path / "timings/a.json").write_text('{"baseline": "x"}')
    (one,) = read_timings(tmp_path / "runs")
    assert one.depth == 5
    assert "a.json: no timing" in capsys.readouterr().err


def test_a_planned_timing_that_was_not_made_is_missing(pruned, tmp_path):
    pruned.timing(LARGE, 5, 1.6)
    names = ("mini-qwen2--ASR-s1-n5-both-speech", "x")
    runs = [
        {"name": f"timing-{name}", "kind": "timing", "made": "m"}
        for name in names
    ]
    (tmp_path / "plan.json").write_text(json.dumps({"runs": runs}))
    graph = tmp_path / "graph/timing"
    graph.mkdir(parents=True)
    noted = {"status": "skipped", "error": "needs y"}
    (graph / "timing-x.m.json").write_text(json.dumps(noted))
    report.main([str(tmp_path), "--output", str(tmp_path / "out")])
    text = (tmp_path / "out/report.md").read_text()
    assert "- timing-x: skipped, needs y" in text
    assert "- timing-mini" not in text
