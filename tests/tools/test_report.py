"""The report says what the result files say, and shows gaps as gaps.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from speechbrain_ext.runs.files import write_hypotheses, write_json
from speechbrain_ext.runs.result import RunResult, SetScore, load_run
from speechbrain_ext.scores.score import score_recognition
from speechllm import report
from speechllm.report import summary, tables
from speechllm.report.comparison import compare_runs
from speechllm.report.figures import degradation_curves, draw_curves
from speechllm.report.maps import compare_inputs
from speechllm.report.paper_tables import table_one
from speechllm.report.study import Study, baseline_of
from speechllm.report.tables import limit_lines, markdown_table

SETS = ("test-clean", "test-other")


def a_run(name, wer=None, removed=0, healing="none", path="speech", **more):
    """A run; without a score it failed."""
    scores = {
        one: SetScore("WER", wer * (1 + place), [wer * 0.8, wer * 2.5])
        for place, one in enumerate(SETS)
        if wer is not None
    }
    values = {
        "backbone": "mini-qwen",
        "layers": 12,
        "seed": 1,
        "start": 12 - 1 - removed if removed else None,
        "path": {"from": path} if removed else None,
        "speed": {"train_seconds": 30.0, "decode_seconds": 4.5},
        "status": "done" if wer is not None else "failed",
        "error": None if wer is not None else "out of memory",
    }
    return RunResult(
        name,
        removed=removed,
        healing=healing,
        scores=scores,
        **{**values, **more},
    )


def a_study():
    """A baseline; four depths; one failed, one missing, two on text."""
    return [
        a_run("base", 2.0),
        a_run("n2", 9.87, 2, "none"),
        a_run("b2", 2.25, 2, "both"),
        a_run("b2t", 2.125, 2, "both", "text"),
        a_run("n4", None, 4, "none"),
        a_run("b4", 2.5, 4, "both"),
        a_run("b6", 3.25, 6, "both"),
    ]


def table_text(runs, broken=()):
    """``table.md`` of some runs."""
    return tables.table_text(Study(runs), broken)


def test_a_table_lines_up_and_holds_its_bars():
    found = markdown_table(["a", "long"], [["x|y", 1], ["é", None]])
    assert found.split("\n") == [
        "| a    | long |",
        "| ---- | ---- |",
        "| x\\|y | 1    |",
        "| é    | None |",
        "",
    ]
    assert markdown_table(["a"], []) == "| a |\n| - |\n"
    with pytest.raises(ValueError):
        markdown_table(["a", "b"], [["one"]])


def test_answers_at_their_limit_stand_beside_the_scores():
    runs = [a_run("base", 2.0), a_run("b2", 2.25, 2, "both")]
    assert "At limit" not in table_text(runs)  # older results
    for one, hit in zip(runs[1].scores.values(), (3, 0)):
        one.utterances, one.hit_limit = 40, hit
    table = table_text(runs)
    header, _, whole, pruned = table.split("\n")[2:6]
    assert header.split("|")[-2].strip() == "At limit"
    assert whole.split("|")[-2].strip() == "—"
    assert pruned.split("|")[-2].strip() == "3 of 80"
    assert limit_lines(runs) == ["b2, test-clean: 3 of 40"]
    record = summary.summarise(Study(runs))[1]
    assert record["scores"]["test-clean"]["hit_limit"] == 3


def test_scores_of_other_languages_are_no_degradation():
    base, run = a_run("base", 2.0), a_run("b2", 2.25, 2, "both")
    study = Study([base, run])
    assert set(summary.degradations(study, run)) == set(SETS)
    base.scores[SETS[0]].language, run.scores[SETS[1]].language = "de", "en"
    assert set(summary.degradations(study, run)) == {SETS[1]}


def test_runs_scored_as_different_languages_are_not_compared(tmp_path):
    rows = [
        {"id": str(i), "reference": "a b c d", "hypothesis": "a b c x"}
        for i in range(4)
    ]
    folders = {}
    for language in (None, "en", "de"):
        score, told = score_recognition(rows, language)
        folders[language] = str(tmp_path / str(language))
        RunResult("a", "b", scores={"dev": score}).save(folders[language])
        write_hypotheses(folders[language], "dev", told)
    (same,) = compare_runs(folders[None], folders["en"])["runs"]
    assert same["sets"]["dev"]["difference"] == 0
    with pytest.raises(ValueError, match="dev was not scored alike"):
        compare_runs(folders["en"], folders["de"])


def _said(folder, errors, ids=None):
    """A run whose utterances of ten words have that many errors each."""
    words = list("abcdefghij")
    rows = [
        {
            "id": str(i) if ids is None else ids[i],
            "reference": " ".join(words),
            "hypothesis": " ".join(words[: 10 - many]),
        }
        for i, many in enumerate(errors)
    ]
    score, told = score_recognition(rows)
    RunResult("same", "b", scores={"dev": score}).save(folder)
    write_hypotheses(folder, "dev", told)
    return folder


def test_a_comparison_of_runs_is_paired(tmp_path):
    errors = np.random.default_rng(5).binomial(10, 0.3, size=200)
    hard = _said(tmp_path / "hard", errors)
    # The same errors but for one word in every tenth utterance.
    less = errors - np.minimum(1, errors) * (np.arange(200) % 10 == 0)
    turned = [str(i) for i in range(200)][::-1]
    other = _said(tmp_path / "other", less[::-1], turned)
    found = compare_runs(hard, other)["runs"][0]["sets"]["dev"]
    gap = 100 * (errors.sum() - less.sum()) / 2000
    assert found["difference"] == pytest.approx(gap)
    assert 0 < found["low"] < gap < found["high"]
    assert found["p_value"] < 0.01
    # Unpaired, the interval of one alone is far wider than the difference.
    low, high = load_run(hard).scores["dev"].interval
    assert high - low > 2 * (found["high"] - found["low"])


def test_a_run_differs_in_nothing_from_itself(tmp_path):
    run = _said(tmp_path, [i % 3 for i in range(30)])
    found = compare_runs(run, run)["runs"][0]["sets"]["dev"]
    assert (found["difference"], found["low"], found["high"]) == (0, 0, 0)
    assert found["p_value"] == 1


def test_runs_on_other_utterances_are_not_compared(tmp_path):
    one = _said(tmp_path / "a", [0, 1])
    other = _said(tmp_path / "b", [0])
    told = "dev: 1 utterances are in only one of .*/a and .*/b, which.*"
    told += r"/b lacks 1 \(1\)\. Evaluate both again from one manifest"
    with pytest.raises(ValueError, match=told):
        compare_runs(one, other)
    (other / "hypotheses-dev.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="b/hypotheses-dev.jsonl"):
        compare_runs(one, other)


def a_table(kind, gap=0.0, layers=6, model="mini-qwen"):
    """A redundancy table as its file holds it."""
    distances = [
        [
            0.1 * size + 0.01 * (layers - start) + gap
            if start + size <= layers
            else None
            for start in range(layers)
        ]
        for size in range(1, layers + 1)
    ]
    path = [[layers - size - 1, size] for size in range(1, layers)]
    return {
        "distances": distances,
        "path": path,
        "provenance": {"model": model, "input": kind},
    }


def _write(folder, runs, tables=()):
    for run in runs:
        run.save(folder / run.name)
    for place, table in enumerate(tables):
        write_json(folder / f"table-{place}.json", table)


def test_summary_equals_the_result_files(tmp_path):
    runs = a_study()
    _write(tmp_path, runs)
    report.main([str(tmp_path)])
    records = json.loads((tmp_path / "summary.json").read_text())
    assert {record["name"] for record in records} == {r.name for r in runs}
    for record in records:
        file = tmp_path / record["name"] / "result.json"
        content = json.loads(file.read_text())
        for key in ("backbone", "layers", "removed", "start", "healing"):
            assert record[key] == content[key]
        assert record["status"] == content["status"]
        assert record["scores"] == content["scores"]
        assert record["path"] == (content["path"] or {}).get("from")
        assert record["seconds"] == 34.5


def test_degradations_are_of_the_baseline_and_need_one():
    runs = a_study()
    told = report.summarise(Study(runs))
    records = {record["name"]: record for record in told}
    found = records["b4"]["degradation"]["test-clean"]
    assert found["value"] == pytest.approx(0.25)
    # The interval of one score over another is none of their degradation.
    assert found["interval"] is None and found["over"] == {}
    assert records["b4"]["baseline"] == "base"
    assert records["base"]["degradation"] == {}
    alone = report.summarise(Study(runs[1:]))
    assert all(record["degradation"] == {} for record in alone)


def test_a_bleu_that_falls_is_a_degradation_above_zero():
    runs = [a_run("base"), a_run("p", removed=3)]
    for run, value in zip(runs, (40.0, 36.0)):
        run.status = "done"
        run.scores = {"test": SetScore("BLEU", value, [value - 4, value + 2])}
    found = summary.degradations(Study(runs), runs[1])["test"]
    assert found["value"] == pytest.approx(0.1)


def test_the_baseline_is_the_best_of_the_same_seed_and_system():
    runs = [
        a_run("short", 2.4),
        a_run("long", 2.0),
        a_run("other-seed", 1.0, seed=2),
        a_run("other-model", 0.5, backbone="x"),
        a_run("adapted", 0.5, adapter="lora"),
    ]
    pruned = a_run("p", 3.0, 2)
    assert baseline_of(pruned, runs).name == "long"
    pruned.seed = 3
    assert baseline_of(pruned, runs).name == "other-seed"


def _cells(table, start):
    """Cells of the rows of a Markdown table whose first cell begins so."""
    rows = [line.strip("| ").split("|") for line in table.split("\n")]
    rows = [[cell.strip() for cell in row] for row in rows]
    return [row for row in rows if row[0].startswith(start)]


def test_table_has_the_figures_of_the_runs():
    table = table_text(a_study())
    assert _cells(table, "mini-qwen")[0] == [
        "mini-qwen",
        "-",
        "12",
        "2.00 [1.60, 5.00]",
        "4.00 [1.60, 5.00]",
    ]
    (two, four, six) = _cells(table, "+ pruning, both (speech path)")
    assert two[1:4] == ["16.7 %", "2 of 12", "2.25 [1.80, 5.62]"]
    # The only one at its depth that was finished is not called the best.
    assert four[1:4] == ["33.3 %", "4 of 12", "2.50 [2.00, 6.25]"]
    (text,) = _cells(table, "+ pruning, both (text path)")
    # Best of the three at its depth.
    assert text[3].startswith("**2.12**")


def test_failed_runs_say_failed_and_missing_ones_are_a_dash():
    runs = a_study()
    table = table_text(runs, [("x/result.json", "cut short")])
    two, four, six = _cells(table, "+ pruning, none (speech path)")
    assert two[3].startswith("9.87")
    assert four[3:] == ["failed", "failed"]
    assert six[3:] == ["—", "—"]
    assert "- n4: failed, out of memory" in table
    assert "- x/result.json: cannot be read, cut short" in table
    assert "0.00" not in table


def test_a_set_that_a_run_lacks_is_a_dash():
    runs = a_study()
    del runs[5].scores["test-other"]
    table = table_text(runs)
    assert _cells(table, "+ pruning, both (speech path)")[1][4] == "—"


def test_runs_without_test_sets_are_told_as_such():
    done = dict(status="done", error=None)
    runs = [a_run("base", **done), a_run("b4", None, 4, "both", **done)]
    rows = table_one(Study(runs)).rows
    names = [row[1] for row in rows if row[0] == "here"]
    assert names == ["mini-qwen", "+ pruning, both (degradation unknown)"]


def test_largest_depth_is_told_for_each_healing_and_path():
    table = table_text(a_study())
    lines = {
        curve: next(line for line in table.split("\n") if curve in line)
        for curve in ("both, speech", "both, text", "none, speech")
    }
    assert "the paper's point rule: 4 (33.3 %)" in lines["both, speech"]
    assert "the paper's point rule: 2 (16.7 %)" in lines["both, text"]
    assert "the paper's point rule: 0 (0.0 %)" in lines["none, speech"]
    # Without answers there are no intervals, and nothing is known.
    for line in lines.values():
        assert "path: [0, none run is over] of 12 layers" in line
        assert "not over speakers or seeds" in line
    assert "relative degradation of at most 0.25" in table


def test_paths_stand_side_by_side():
    table = table_text(a_study())
    rows = [row for row in _cells(table, "mini-qwen") if len(row) == 7]
    assert [row[3] for row in rows] == ["speech", "text"]
    assert rows[0][5] == "2.25 [1.80, 5.62]"
    without = [run for run in a_study() if run.name != "b2t"]
    assert "different paths" not in table_text(without)


def test_seeds_are_told_apart_and_averaged():
    runs = [run for run in a_study() if run.name != "b4"]
    runs += [
        a_run("b4", 3.5, 4, "both"),
        a_run("b4-2", 2.5, 4, "both", seed=2),
        a_run("base-2", 2.0, seed=2),
    ]
    table = table_text(runs)
    assert _cells(table, "+ pruning, both (speech path), seed 2")
    # 75 % and 25 % worse: half on average, so depth 4 is out.
    which = ("mini-qwen", "", "", "ASR")
    assert Study(runs).largest(which, "both", "speech") == 2


def test_largest_depth_wants_all_sets_at_once():
    def largest(**by_depth):
        runs = [a_run("base", 2.0)]
        for depth, changes in by_depth.items():
            run = a_run(depth, 2.0, int(depth[1:]), "both")
            for name, change in zip(SETS, changes):
                if change is None:
                    del run.scores[name]
                else:
                    run.scores[name].value *= 1 + change
            runs.append(run)
        return Study(runs).largest(("mini-qwen", "", "", "ASR"))

    whole = {"d1": (0, 0.1), "d2": (0.1, 0.3), "d4": (0.25, 0.25)}
    assert largest(**whole, d6=(0.1, None), d9=(0.3, 0.1)) == 4
    assert largest(d1=(0, 0.1), d2=(0.1, 0.3)) == 1
    assert largest(d1=(0.26, 0)) == largest() == 0


def test_a_path_that_was_given_is_a_path_of_its_own():
    runs = [a_run("base", 2.0), a_run("b2", 3.0, 2, "both")]
    runs.append(a_run("given", 2.0, 2, "both", path=None))
    which = ("mini-qwen", "", "", "ASR")
    found = Study(runs).score(which, 2, "both", None, "test-clean")
    assert found.value == 2.0


def test_curves_hold_the_degradations_with_gaps_for_failed_runs():
    study = Study(a_study())
    (which,) = study.systems()
    curves = degradation_curves(study, which, "test-clean")
    both = curves["both", "speech"]
    assert [share for share, _ in both] == pytest.approx([100 / 6, 100 / 3, 50])
    assert [one.value for _, one in both] == pytest.approx([0.125, 0.25, 0.625])
    (_, two), (share, four) = curves["none", "speech"]
    assert two and four is None and share == pytest.approx(100 / 3)


def test_drawn_curves_are_the_numbers(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = {}, Axes.plot

    def spy(axes, x, y, **how):
        drawn[axes.get_title(), how["label"]] = (x, y, how)
        return plot(axes, x, y, **how)

    monkeypatch.setattr(Axes, "plot", spy)
    draw_curves(Study(a_study()), tmp_path / "curves.png")
    curve = {label: found for (_, label), found in drawn.items()}
    share, values, look = curve["both"]
    assert np.allclose(share, [0, 100 / 6, 100 / 3, 50])
    assert np.allclose(values, [0, 0.125, 0.25, 0.625])
    # Another path has the same colour and line, and hollow marks.
    share, _, text = curve["both, text path"]
    # A line from the unpruned model to a lone point would tell what was not
    # run: along another path only what was run is drawn.
    assert min(share) > 0
    assert text["color"] == look["color"] == look["markerfacecolor"]
    assert text["markerfacecolor"] == "white"
    assert np.isnan(curve["none"][1][2])


def test_text_and_speech_maps_are_compared_over_what_both_have():
    tables = [a_table("text"), a_table("speech", gap=0.003)]
    tables[1]["path"][2] = [0, 3]
    (line,) = compare_inputs(tables)
    assert line == (
        "(a) against (b): mean difference 0.0030, the same block at 4 of 5 "
        "sizes, random blocks at 1.4"
    )
    assert compare_inputs([a_table("text"), a_table("text")]) == []
    other = a_table("speech", model="another")
    assert compare_inputs([a_table("text"), other]) == []


def test_the_same_table_beside_two_runs_is_drawn_once(tmp_path):
    speech, text = a_table("speech", 0.01), a_table("text")
    _write(tmp_path, a_study(), [speech, speech, text])
    found = report.read_tables(tmp_path)
    assert found == [text, speech]


@pytest.mark.parametrize("options", [[], ["--column"]])
def test_the_command_writes_everything(tmp_path, capsys, options):
    from matplotlib.image import imread

    source, output = tmp_path / "runs", tmp_path / "out"
    _write(source, a_study(), [a_table("text"), a_table("speech", 0.01)])
    code = report.main([str(source), "--output", str(output), *options])
    assert code == 0
    table = (output / "table.md").read_text("utf-8")
    assert table in capsys.readouterr().out
    for name in ("heatmap.png", "curves.png"):
        picture = imread(output / name)[..., :3]
        inches = picture.shape[1] / 200
        assert inches <= (3.4 if options else 7.0) + 0.01
        # Something is drawn, and nothing touches the left or right edge.
        assert picture.std() > 0.05
        edges = np.concatenate([picture[:, :2], picture[:, -2:]], axis=1)
        assert edges.min() > 0.9


def test_a_half_finished_study_gets_what_can_be_made(tmp_path, capsys):
    _write(tmp_path, a_study()[:1])
    (tmp_path / "curves.png").write_text("of yesterday")
    assert report.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "heatmap.png: not drawn: no redundancy table" in said
    assert "curves.png: not drawn: no curve" in said
    assert (tmp_path / "table.md").exists()
    assert not (tmp_path / "curves.png").exists()


def test_no_results_is_an_error(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert report.main([str(tmp_path / "none")]) == 2
    assert "none: no such folder" in capsys.readouterr().err


def test_without_matplotlib_the_table_is_there_and_the_extra_named(
    tmp_path, capsys, monkeypatch
):
    _write(tmp_path, a_study(), [a_table("text")])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.main([str(tmp_path)]) == 1
    assert "pip install markdown matplotlib" in capsys.readouterr().err
    assert (tmp_path / "summary.json").exists()
    assert (tmp_path / "report.html").exists()


def test_without_markdown_the_rest_is_there_and_the_extra_named(
    tmp_path, capsys, monkeypatch
):
    _write(tmp_path, a_study(), [a_table("text")])
    (tmp_path / "report.html").write_text("of yesterday")
    monkeypatch.setitem(sys.modules, "markdown", None)
    assert report.main([str(tmp_path)]) == 1
    assert "pip install markdown matplotlib" in capsys.readouterr().err
    assert (tmp_path / "report.md").exists()
    assert not (tmp_path / "report.html").exists()


def test_importing_the_parts_without_models_brings_no_torch():
    code = (
        "import sys\n"
        "from speechbrain_ext.runs import reading\n"
        "from speechbrain_ext.scores import counts, translation, words\n"
        "from speechllm import report\n"
        "words.wer([('Mr. A', 'mister a')]); translation.bleu(['a'], ['a'])\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert run.stdout.strip() == "False", run.stderr
