"""The study of the paper's second half: its plan, and what it reports.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import pretend_baseline

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.runs.result import RunResult, SetScore
from speechbrain_ext.training.choose_layers import table_file
from speechbrain_ext.training.settings import speechllm_rules
from speechllm.settings import load_hparams
from speechllm.study import local
from speechllm.study.local import run_all
from speechllm.study.plan import read_plan
from speechllm.study.state import (
    ROOT,
    Run,
    Study,
    status_of,
    twin_of,
    with_twins,
)
from speechllm.study.tasks import main as report
from speechllm.study.tasks import report_tasks

LAYERS = 12
WHISPER = ROOT / "tests/published_configs/whisper-large-v3"
DEPTHS = (2, 3, 4, 6)


def write_table(results, name, start, kind="speech"):
    """A table whose path begins every block at one layer, as far as it can."""
    distances = np.full((LAYERS, LAYERS), np.nan)
    for size in range(1, LAYERS + 1):
        for first in range(LAYERS - size + 1):
            distances[size - 1, first] = 0.1 + 0.01 * abs(first - start)
    told = {"task": name, "input": kind}
    errors = np.zeros_like(distances)
    table = RedundancyTable(distances, errors, count=3, provenance=told)
    (results / name).mkdir(exist_ok=True)
    table.save(table_file(str(results / name), kind))


@pytest.fixture
def study(tmp_path):
    write_table(tmp_path, "mini", 3)
    write_table(tmp_path, "mini_lora", 3)
    write_table(tmp_path, "mini_en_de", 3)
    write_table(tmp_path, "mini_fr_en", 5)
    return read_plan(
        ROOT / "workflow/config/mini-full.yaml", results=str(tmp_path)
    )


def test_the_same_block_is_run_once(study):
    for depth in DEPTHS:
        # Both paths of this direction are the same, those of the other not.
        same = study.runs[f"mini_en_de-prune{depth}-asr"]
        assert twin_of(same) == f"mini_en_de-prune{depth}"
        assert twin_of(study.runs[f"mini_fr_en-prune{depth}-asr"]) is None
        assert twin_of(study.runs[f"mini_fr_en-prune{depth}"]) is None


@pytest.mark.parametrize(("start", "run"), [(3, [4]), (5, [2, 4, 6])])
def test_a_path_that_never_differs_is_run_at_one_depth(tmp_path, start, run):
    """The one of `make mini`, along the text's path."""
    write_table(tmp_path, "mini", 3)
    write_table(tmp_path, "mini", start, "text")
    plan = read_plan(ROOT / "workflow/config/mini.yaml", results=str(tmp_path))
    twins = {
        depth: twin_of(plan.runs[f"mini-prune{depth}-both-text"])
        for depth in (2, 4, 6)
    }
    assert [depth for depth, twin in twins.items() if not twin] == run
    assert {twin for twin in twins.values() if twin} == {
        f"mini-prune{depth}-both" for depth in (2, 4, 6) if depth not in run
    }


def test_make_mini_plans_what_its_documented_runs_are(tmp_path):
    plan = read_plan(ROOT / "workflow/config/mini.yaml", results=str(tmp_path))
    told = json.loads((ROOT / "docs/mini/summary.json").read_text())
    for one in told:
        run = plan.runs[one["name"]]
        words = dict(zip(run.command[2::2], run.command[3::2]))
        assert words["--run_name"] == one["name"]
        assert words["--seed"] == str(one["seed"])
        assert words.get("--prune_layers", "0") == str(one["removed"])
        if one["removed"]:
            assert words["--healing"] == one["healing"]
            assert words["--path_from"] == one["path"]
        # All else is what the recipe's own YAML says.
        assert set(words) <= {
            *("--run_name", "--seed", "--prune_layers", "--healing"),
            *("--path_from", "--baseline", "--data_folder"),
            "--results_folder",
        }


def test_what_needs_a_lost_baseline_is_told_apart(study):
    needs = {name: set(run.needs) for name, run in study.runs.items()}
    assert "mini-table-speech" in needs["mini_en_de-prune2-asr"]
    assert "mini_en_de-table-speech" in needs["mini_en_de-prune2-asr"]
    for name in ("mini_en_de-prune2", "mini_lora-prune2"):
        assert not [one for one in needs[name] if one.startswith("mini-")]


def test_overrides_of_the_pruned_runs_are_accepted(study, monkeypatch):
    """The settings that a run would get, without running it."""
    one = study.runs["mini_fr_en-prune4-asr"]
    pretend_baseline(study.results / "mini_fr_en")
    monkeypatch.chdir(one.folder)
    words = list(one.command[2:])
    changes = dict(zip([w[2:] for w in words[::2]], words[1::2]))
    for key in ("prune_layers", "seed"):
        changes[key] = int(changes[key])
    changes["speech_encoder.source"] = str(WHISPER)
    Path(changes["data_folder"]).mkdir(parents=True)
    hparams = load_hparams(one.command[1], changes, [speechllm_rules])
    table = table_file(str(study.results / "mini"), "speech")
    assert hparams["path_from"] == table
    assert hparams["prune_layers"] == 4 and hparams["healing"] == "both"
    assert hparams["task"] == "AST fr-en"
    assert hparams["baseline"] == str(study.results / "mini_fr_en")


def rows_of(page):
    """First cell to the others, of all rows of a page's tables."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines]
    return {first: others for first, *others in cells}


def block_of(results, name):
    table = RedundancyTable.load(table_file(str(results / name), "speech"))
    return table.best(2)


def finished(results, name, task, value, block=None):
    run = RunResult(name, "mini-qwen2", task=task, layers=LAYERS)
    if block:
        run.start, run.removed = block.start, block.size
    run.scores = {"test": SetScore("BLEU", value, [value - 1, value + 1])}
    run.status = "done"
    run.save(results / name)


def said(results):
    """The tables of a study, their columns not lined up."""
    return one_space(report_tasks(results))


def one_space(text):
    return re.sub(" +", " ", text)


def test_translation_table_pairs_runs_with_paths(study):
    results = study.results
    finished(results, "mini_en_de", "AST en-de", 90.0)
    own, other = (block_of(results, f"mini_{x}") for x in ("en_de", "fr_en"))
    finished(results, "mini_en_de-prune2", "AST en-de", 80.0, own)
    failed = RunResult("mini_fr_en-prune2", "mini-qwen2", layers=LAYERS)
    failed.removed, failed.status = 2, "failed"
    failed.start = other.start
    failed.save(results / failed.name)
    rows = rows_of(report_tasks(results))
    assert rows["0"] == [
        "—",
        "90.00 [89.00, 91.00]",
        "—",
        "90.00 [89.00, 91.00]",
    ]
    # One run serves both paths; a failed or missing one is no number.
    assert rows["2"] == [
        "failed (5)",
        "80.00 [79.00, 81.00] (3)",
        "— (3)",
        "80.00 [79.00, 81.00] (3)",
    ]
    assert "Not run, or failed." in (results / "tasks.md").read_text()


def test_agreement_and_the_check_are_told(study, capsys):
    folder = study.results / "multitask"
    folder.mkdir()
    part = {"projector": 2**20, "adapter": 2**19}
    content = {
        "scores": {"a": {"metric": "WER", "value": 1.25}},
        "checks": {
            "a": {"same_logits": False, "same_texts": 7, "utterances": 8}
        },
        "memory": {
            "tasks": {"a": part},
            "together": 2**21,
            "separately": 2**22,
        },
    }
    (folder / "multitask.json").write_text(json.dumps(content))
    assert report([str(study.results)]) == 0
    told = (study.results / "tasks.md").read_text()
    assert told in capsys.readouterr().out
    rows = rows_of(told)
    assert rows["a"] == ["WER 1.25", "7 of 8", "no", "1.50 MiB"]
    assert "2.00 MiB together, 4.00 MiB as systems" in told
    assert rows["En-De"][:4] == ["0.0000", "1.0000", "1.00", "1.00"]
    compared = study.results / "tables-mini-mini_lora.json"
    assert json.loads(compared.read_text())["correlation"] > 0.999


def test_shared_runs_follow_recognition(study):
    check = study.runs["multitask"]
    # It may be run on these, and does not begin before they are done.
    assert {"mini_en_de-prune4", "mini_fr_en-prune4"} <= set(check.needs)
    same = study.runs["mini_en_de-prune4-asr"]
    marker = study.marker(same)
    marker.parent.mkdir(parents=True)
    marker.write_text('{"status": "same", "twin": "mini_en_de-prune4"}')
    command = with_twins(study, check).command
    folders = {
        command[at]: command[at + 1]
        for at, word in enumerate(command)
        if word.endswith("run_folder")
    }
    assert folders == {
        "--mini_asr.run_folder": str(study.results / "mini-prune4"),
        "--mini_en_de.run_folder": str(study.results / "mini_en_de-prune4"),
        "--mini_fr_en.run_folder": str(study.results / "mini_fr_en-prune4-asr"),
    }


def test_runs_come_in_the_order_of_needs_and_one_may_fail(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "if sys.argv[1] == 'bad': raise SystemExit('no such depth')\n"
        "time.sleep(0.2)\n"
        "open('order', 'a').write(sys.argv[1] + ' ')"
    )

    def run(name, *needs, made="m"):
        command = ["script.py", name]
        return Run(
            name, "check", command, str(tmp_path), list(needs), made, made
        )

    runs = [
        run("last", "first", "other"),
        run("lost", "bad"),
        *map(run, ("bad", "first", "other")),
    ]
    plan = Study(tmp_path / "out", {one.name: one for one in runs})
    plan.begin()
    run_all(plan, workers=2)
    *before, after = (tmp_path / "order").read_text().split()
    assert sorted(before) == ["first", "other"] and after == "last"
    ended = {name: status_of(plan, name) for name in plan.runs}
    assert (ended.pop("bad"), ended.pop("lost")) == ("failed", "skipped")
    assert set(ended.values()) == {"done"}
    assert "no such depth" in (tmp_path / "out/logs/bad.log").read_text()
    # What is done is not run again; what failed is.
    script.write_text(script.read_text().replace("'bad'", "'none'"))
    plan.begin()
    run_all(plan, workers=2)
    assert {status_of(plan, name) for name in plan.runs} == {"done"}
    order = (tmp_path / "order").read_text().split()
    assert order[3:] == ["bad", "lost"]


def test_what_cannot_be_started_stops_no_other_run(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    words = ["-c", "print(1)"]
    runs = {
        "gpu": Run("gpu", "check", words, str(tmp_path), [], "m", "m"),
        "cpu": Run("cpu", "data", words, str(tmp_path), [], "m", "m"),
    }
    plan = Study(tmp_path / "out", runs, cards=1)
    plan.begin()
    run_all(plan, workers=1)
    assert [status_of(plan, name) for name in runs] == ["absent", "done"]


def test_a_report_that_is_not_written_is_told(tmp_path, monkeypatch):
    plan = Study(tmp_path)
    plan.reported.parent.mkdir()
    plan.reported.write_text("of an earlier start")
    os.utime(plan.reported, (1, 1))
    code = "raise SystemExit(1)"
    monkeypatch.setattr(plan, "report_commands", lambda: [["-c", code]])
    assert not local._report(plan)
    code = f"open({str(plan.reported)!r}, 'w'); {code}"
    assert local._report(plan)


def test_ctrl_c_ends_what_runs_and_starts_nothing_more(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, sys, time\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    code = (
        # A shell's background job has Ctrl-C ignored, and so has its child.
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from speechllm.study.local import run_all\n"
        "from speechllm.study.state import Run, Study\n"
        "runs = {n: Run(n, 'check', ['script.py', n], sys.argv[1])"
        " for n in 'ab'}\n"
        "plan = Study(sys.argv[1] + '/out', runs)\n"
        "plan.begin()\n"
        "run_all(plan, workers=1)"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    study = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
    end = time.monotonic() + 40
    while not (tmp_path / "a").exists() or not (tmp_path / "a").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(study.pid, signal.SIGINT)
    assert study.wait(20) != 0
    assert not (tmp_path / "b").exists()
    assert not list((tmp_path / "out/graph").glob("check/*"))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "a").read_text()), 0)
