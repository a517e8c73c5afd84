"""A study's plans by rule, lengths of healing and tuned learning rates."""

import json
from pathlib import Path

import pytest
import yaml

from speechllm.study.plan import PlanError, read_plan
from speechllm.study.state import Run, Study
from speechllm.study.tuning import with_best_rates

ROOT = Path(__file__).resolve().parents[2]

TRIALS = [
    {"lr_projector": 0.001, "lr_adapter": 0.01},
    {"lr_projector": 0.003, "lr_adapter": 0.02},
]
SPLIT = {"projector": True, "adapters": {"budget": 99}}


def plan_of(tmp_path, **changes):
    """The tiny study with a rule's plans, two lengths and a tuning."""
    config = yaml.safe_load((ROOT / "workflow/config/tiny.yaml").read_text())
    config |= {"healings": {"split": SPLIT}, "seeds": [1, 2]}
    config["baseline_seeds"] = [1]
    config["systems"]["tiny"] |= {
        "plans": ["even"],
        "control": [3, 5],
        "tuning": {
            "depth": 3,
            "steps": 2,
            "test_splits": ["ood"],
            "trials": TRIALS,
            "healing": {"split": "even"},
        },
        "study": [
            {"depths": [2], "healing": ["both"], "steps": [3, 20]},
            {"depths": [4], "healing": ["split"], "path": "even", "seeds": [1]},
        ],
        **changes,
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(config))
    return read_plan(file, results=str(tmp_path / "out"))


def option(run, key):
    return run.command[run.command.index(f"--{key}") + 1]


def test_plans_lengths_and_seeds_are_axes(tmp_path):
    plan = plan_of(tmp_path)
    table = plan.runs["tiny-s1-table-even"]
    at = table.command.index("--rule")
    # The study's depth, and that of the trials.
    assert table.command[at : at + 5] == ["--rule", "even", "--sizes", "3", "4"]
    long = plan.runs["tiny-s2-n2-both-speech-k20"]
    given = [option(long, f"{k}steps") for k in ("", "warmup_", "warmdown_")]
    assert given == ["20", "2", "18"]
    split = plan.runs["tiny-s1-n4-split-even"]
    assert yaml.safe_load(option(split, "healing_parts")) == SPLIT
    assert option(split, "path_from").endswith("tiny-s1/plan-even.json")
    assert table.name in split.needs
    assert "tiny-s2-n4-split-even" not in plan.runs
    controls = [name for name in plan.runs if "control" in name]
    assert controls == ["tiny-s1-control-k3", "tiny-s1-control-k5"]


def test_a_tuned_run_waits_for_its_trials_and_takes_the_best(tmp_path):
    plan = plan_of(tmp_path)
    plan.save()
    plan = Study.load(plan.results / "plan.json")
    run = plan.runs["tiny-s1-n4-split-even"]
    names = [f"tiny-s1-trial{i}-split" for i in (1, 2)]
    assert list(run.trials) == names and set(names) <= set(run.needs)
    assert option(plan.runs[names[1]], "lr_adapter") == "0.02"
    for losses, best in (((1.0, 0.5), 1), ((0.4, 0.5), 0), ((None, 0.5), 1)):
        for name, loss in zip(names, losses):
            folder = plan.run_folder(name)
            folder.mkdir(parents=True, exist_ok=True)
            # The final loss is of sets that nothing is chosen by.
            history = [{"valid_loss": 9.0}, {"valid_loss": loss}]
            told = {"final_loss": -(loss or 0), "history": history}
            content = {"validation": told}
            (folder / "result.json").write_text(json.dumps(content))
        told = with_best_rates(plan, run)
        for key, value in TRIALS[best].items():
            assert option(told, key) == str(value)
    plain = Run("x", "healed", ["train.py"])
    assert with_best_rates(plan, plain) is plain


def test_other_trials_make_what_needs_them_anew(tmp_path):
    name = "tiny-s1-n4-split-even"
    before = plan_of(tmp_path).runs
    tuning = yaml.safe_load((tmp_path / "study.yaml").read_text())
    tuning = tuning["systems"]["tiny"]["tuning"]
    after = plan_of(tmp_path, tuning=tuning | {"trials": TRIALS[:1]}).runs
    assert before[name].trained != after[name].trained
    other = "tiny-s1-n2-both-speech-k3"
    assert before[other].made == after[other].made


def test_a_decoder_that_is_to_be_made_comes_first():
    plan = read_plan(ROOT / "workflow/config/healing.yaml")
    made = "data-mini-qwen2-block"
    assert made in plan.runs["qwen2-block-s1"].needs
    assert made in plan.runs["qwen2-block-s1-n4-both-speech-k200"].needs
    assert made not in plan.runs["qwen2-12-s1"].needs


def test_trials_may_do_without_test_sets(tmp_path):
    tuning = {
        "depth": 3,
        "steps": 2,
        "test_splits": [],
        "trials": TRIALS,
        "healing": {"split": "even"},
    }
    plan = plan_of(tmp_path, tuning=tuning)
    trial = plan.runs["tiny-s1-trial1-split"]
    assert option(trial, "test_splits") == "[]" and trial.sets == []


@pytest.mark.parametrize("key", ["trials", "test_splits", "depth"])
def test_a_tuning_without_a_key_is_refused(tmp_path, key):
    tuning = {
        "depth": 3,
        "steps": 2,
        "test_splits": ["ood"],
        "trials": TRIALS,
        "healing": {"split": "even"},
    }
    del tuning[key]
    with pytest.raises(PlanError, match=rf"tiny\.tuning\.{key}: missing"):
        plan_of(tmp_path, tuning=tuning)
