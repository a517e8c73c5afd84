"""The study of the paper's second half: its plan, and what it reports.

Authors
 * The speechbrain_ext authors, 2026
"""

import json

import numpy as np
import pytest
from conftest import pretend_baseline

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.runs.result import RunResult, SetScore
from speechbrain_ext.training.choose_layers import table_file
from speechbrain_ext.training.settings import speechllm_rules
from speechllm.mini_world.across_tasks import report_tasks
from speechllm.mini_world.full import (
    ASR_DEPTHS,
    BASELINES,
    DEPTHS,
    TRANSLATIONS,
    Study,
)
from speechllm.mini_world.running import (
    COVOST2,
    MULTITASK,
    RECIPES,
    command,
    run_all,
)
from speechllm.settings import load_hparams

LAYERS = 12
WHISPER = RECIPES.parent / "tests/published_configs/whisper-large-v3"


def write_table(results, name, start):
    """A table whose path begins every block at one layer, as far as it can."""
    distances = np.full((LAYERS, LAYERS), np.nan)
    for size in range(1, LAYERS + 1):
        for first in range(LAYERS - size + 1):
            distances[size - 1, first] = 0.1 + 0.01 * abs(first - start)
    told = {"task": name, "input": "speech"}
    errors = np.zeros_like(distances)
    table = RedundancyTable(distances, errors, count=3, provenance=told)
    (results / name).mkdir()
    table.save(table_file(str(results / name), "speech"))


@pytest.fixture
def study(tmp_path):
    write_table(tmp_path, "mini", 3)
    write_table(tmp_path, "mini_lora", 3)
    write_table(tmp_path, "mini_en_de", 3)
    write_table(tmp_path, "mini_fr_en", 5)
    return Study(tmp_path)


def names(commands):
    return [
        one.words[one.words.index("--run_name") + 1]
        for many in commands.values()
        for one in many
    ]


def test_every_command_is_one_of_a_recipe(study):
    for tell in study.stages().values():
        for many in tell().values():
            for one in many:
                assert (RECIPES / one.recipe / one.words[0]).is_file()
                yamls = [w for w in one.words if w.startswith("hparams/")]
                for yaml in yamls:
                    assert (RECIPES / one.recipe / yaml).is_file()


def test_the_same_block_is_run_once(study):
    runs = names(study.pruned())
    assert len(set(runs)) == len(runs)
    for depth in DEPTHS:
        # Both paths of this direction are the same, those of the other not.
        assert f"mini_en_de-prune{depth}" in runs
        assert f"mini_en_de-prune{depth}-asr" not in runs
        assert f"mini_fr_en-prune{depth}-asr" in runs
    assert {f"mini_lora-prune{depth}" for depth in ASR_DEPTHS} <= set(runs)


def test_what_needs_a_lost_baseline_is_left_out(study):
    study.lost = {"mini_fr_en"}
    assert not [run for run in names(study.pruned()) if "fr_en" in run]
    study.lost = {"mini"}
    left = names(study.pruned())
    assert not [run for run in left if run.endswith("-asr")]
    assert "mini_en_de-prune2" in left


def test_overrides_of_the_pruned_runs_are_accepted(study, monkeypatch):
    """The settings that a run would get, without running it."""
    (one,) = [
        one
        for one in study.pruned()["mini_fr_en"]
        if "mini_fr_en-prune4-asr" in one.words
    ]
    pretend_baseline(study.results / "mini_fr_en")
    monkeypatch.chdir(RECIPES / one.recipe)
    words = list(one.words[2:])
    changes = dict(zip([w[2:] for w in words[::2]], words[1::2]))
    changes["prune_layers"] = int(changes["prune_layers"])
    changes["speech_encoder.source"] = str(WHISPER)
    hparams = load_hparams(one.words[1], changes, [speechllm_rules])
    assert hparams["path_from"] == study.asr_table()
    assert hparams["prune_layers"] == 4 and hparams["healing"] == "both"
    assert hparams["task"] == "AST fr-en"
    assert hparams["baseline"] == str(study.results / "mini_fr_en")


def finished(results, name, task, value, block=None):
    run = RunResult(name, "mini-qwen2", task=task, layers=LAYERS)
    if block:
        run.start, run.removed = block.start, block.size
    run.scores = {"test": SetScore("BLEU", value, [value - 1, value + 1])}
    run.status = "done"
    run.save(results / name)


def test_translation_table_pairs_runs_with_paths(study):
    results = study.results
    finished(results, "mini_en_de", "AST en-de", 90.0)
    own = study.blocks("mini_en_de")
    finished(results, "mini_en_de-prune2", "AST en-de", 80.0, own[2])
    failed = RunResult("mini_fr_en-prune2", "mini-qwen2", layers=LAYERS)
    failed.removed, failed.status = 2, "failed"
    failed.start = study.blocks("mini_fr_en")[2].start
    failed.save(results / failed.name)
    lines = report_tasks(results).splitlines()
    whole, pruned = (
        next(line for line in lines if line.startswith(f"| {depth} |"))
        for depth in (0, 2)
    )
    assert whole.split(" | ")[1:] == [
        "—",
        "90.00 [89.00, 91.00]",
        "—",
        "90.00 [89.00, 91.00] |",
    ]
    # One run serves both paths; a failed or missing one is no number.
    assert pruned.split(" | ")[1:] == [
        "failed (5)",
        "80.00 [79.00, 81.00] (3)",
        "— (3)",
        "80.00 [79.00, 81.00] (3) |",
    ]
    assert "Not run, or failed." in "\n".join(lines)


def test_agreement_and_the_check_are_told(study):
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
    told = report_tasks(study.results)
    assert "| a | WER 1.25 | 7 of 8 | no | 1.50 MiB |" in told
    assert "2.00 MiB together, 4.00 MiB as systems" in told
    line = next(x for x in told.splitlines() if x.startswith("| En-De | 0"))
    assert line.startswith("| En-De | 0.0000 | 1.0000 | 1.00 | 1.00 |")
    assert told == (study.results / "tasks.md").read_text()


def test_shared_runs_follow_recognition(study):
    (study.results / "mini_fr_en-prune4-asr").mkdir()
    runs = study.shared_runs()
    assert runs["mini_fr_en"].name == "mini_fr_en-prune4-asr"
    assert runs["mini_en_de"].name == "mini_en_de-prune4"
    assert runs["mini_asr"].name == "mini-prune4"
    assert set(TRANSLATIONS) < set(BASELINES)


def test_a_failing_command_is_told_and_the_others_run(tmp_path):
    bad = command(COVOST2, "train.py", "hparams/none.yaml")
    good = command(MULTITASK, "run.py", "--help")
    logs = tmp_path / "logs"
    assert run_all([bad, good], logs, workers=1) == [bad]
    assert "none.yaml" in (logs / "01.log").read_text()
    assert "usage" in (logs / "02.log").read_text()
