"""A study as a graph: what it plans, what it repeats and what it does not."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from speechbrain_ext.runs.result import RunResult, SetScore
from speechllm.study import processes
from speechllm.study import run as study_run
from speechllm.study.local import run_all
from speechllm.study.plan import Plan, PlanError, read_plan
from speechllm.study.state import Run, Study, started

ROOT = Path(__file__).resolve().parents[2]

CONFIGS = ROOT / "workflow/config"


def plan_of(tmp_path, change=None):
    """The plan of the tiny study, with its YAML changed."""
    config = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
    if change:
        change(config)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(config))
    return read_plan(file, results=str(tmp_path / "out"))


@pytest.mark.parametrize(
    "name",
    "mini mini-full paper-mini paper tiny healing real".split(),
)
def test_every_planned_command_is_that_of_a_recipe(name, tmp_path):
    plan = read_plan(CONFIGS / f"{name}.yaml", results=str(tmp_path))
    for run in plan.runs.values():
        assert all(need in plan.runs for need in run.needs)
        if run.kind in ("data", "timing"):
            continue
        assert (Path(run.folder) / run.command[0]).is_file()
        if run.kind not in ("score", "check"):
            assert (Path(run.folder) / run.command[1]).is_file()
        for word in run.command:
            if word.startswith("hparams/") and word.endswith(".yaml"):
                assert (Path(run.folder) / word).is_file()


def test_the_paper_plan_has_its_backbones_depths_and_both_tables(tmp_path):
    plan = read_plan(CONFIGS / "paper.yaml", results=str(tmp_path))
    yamls = {r.command[1] for r in plan.runs.values() if r.kind == "baseline"}
    wanted = "qwen7b qwen7b_lora qwen3b qwen1.5b llama8b llama3b llama1b"
    wanted = {f"hparams/{one}.yaml" for one in f"{wanted} en_de fr_en".split()}
    assert yamls == wanted
    for pair in ("en-de", "fr-en"):
        for path in ("speech", "qwen7b"):
            for depth in (3, 6, 9, 12):
                name = f"{pair}-s1-n{depth}-both-{path}"
                assert name in plan.runs
    run = plan.runs["en-de-s2-n3-both-qwen7b"]
    place = run.command.index("--path_from") + 1
    assert run.command[place].endswith("qwen7b-s1/redundancy-speech.json")
    assert "qwen7b-s1-table-speech" in run.needs


def test_the_paper_plan_heals_all_backbones_in_all_four_ways(tmp_path):
    plan = read_plan(CONFIGS / "paper.yaml", results=str(tmp_path))
    systems = plan.config["systems"]
    backbones = "qwen7b qwen3b qwen1.5b llama8b llama3b llama1b".split()
    for name in backbones:
        depths = systems[name]["study"][0]["depths"]
        assert len(depths) >= 5
        for depth in depths:
            for healing in ("none", "projector", "decoder", "both"):
                # What is not trained is the same for all seeds.
                for seed in [1] if healing == "none" else plan.seeds:
                    run = f"{name}-s{seed}-n{depth}-{healing}-speech"
                    assert run in plan.runs
                    assert f"{run}-score" in plan.runs
    # Table 1's depths are among them.
    for name, depth in zip(backbones, (8, 11, 7, 14, 11, 1)):
        assert depth in systems[name]["study"][0]["depths"]
    # Translation without healing too, along either path.
    for pair in ("en-de", "fr-en"):
        for path in ("speech", "qwen7b"):
            for depth in (3, 6, 9, 12):
                assert f"{pair}-s1-n{depth}-none-{path}" in plan.runs


def test_the_readme_counts_the_paper_plans_runs(tmp_path):
    plan = read_plan(CONFIGS / "paper.yaml", results=str(tmp_path))
    kinds = Counter(run.kind for run in plan.runs.values())
    told = (ROOT / "workflow/README.md").read_text(encoding="utf-8")
    unhealed = sum(
        run.kind == "healed" and "-none-" in name
        for name, run in plan.runs.items()
    )
    controls = sum(name.endswith("-control") for name in plan.runs)
    assert (
        f"{kinds['baseline']} baselines, {kinds['table']} tables, "
        f"{kinds['healed']} pruned runs ({unhealed} of them unhealed, "
        f"{controls} the whole models' controls), {kinds['score']} "
        f"Loquacious scores and {kinds['timing']} timings, {len(plan.runs)} jobs"
    ) in told


def test_the_mini_plan_has_the_seeds_and_runs_that_each_claim_needs(tmp_path):
    plan = read_plan(CONFIGS / "paper-mini.yaml", results=str(tmp_path))
    assert plan.baseline_seeds == [1, 2, 3]
    for seed in plan.seeds:
        assert f"qwen2-12-s{seed}-n5-both-speech" in plan.runs
    # Healing seeds without a baseline of their own take one in turn.
    needs = plan.runs["qwen2-12-s5-n4-both-speech"].needs
    assert "qwen2-12-s2" in needs and "qwen2-12-s5" not in plan.runs
    for seed in plan.baseline_seeds:
        for name in (
            "qwen2-12-s{}-n2-both-text",
            "qwen2-8-s{}-n2-both-speech",
            "llama-8-s{}-n2-both-speech",
            "qwen2-12-s{}-n4-none-speech",
            "qwen2-12-lora-s{}-n2-both-speech",
            "en-de-s{}-n4-both-qwen2-12",
            "qwen2-12-s{}-control",
        ):
            assert name.format(seed) in plan.runs


def test_comments_and_places_change_nothing_settings_do(tmp_path):
    before = plan_of(tmp_path).runs
    moved = read_plan(tmp_path / "study.yaml", results=str(tmp_path / "b")).runs
    assert {n: r.made for n, r in before.items()} == {
        n: r.made for n, r in moved.items()
    }

    def longer(config):
        config["systems"]["tiny"]["set_healed"]["steps"] = 5

    after = plan_of(tmp_path, longer).runs
    changed = {n for n in before if before[n].made != after[n].made}
    assert changed == {n for n in before if before[n].kind == "healed"}

    def other_baseline(config):
        config["systems"]["tiny"]["set_baseline"]["steps"] = 7

    after = plan_of(tmp_path, other_baseline).runs
    changed = {n for n in before if before[n].made != after[n].made}
    assert changed == {n for n in before if before[n].kind != "data"}


def test_a_changed_backbone_file_is_seen(tmp_path, monkeypatch):
    def swap(config):
        config["systems"]["tiny"]["set"] = {
            "backbone": "package:backbones/mini-llama.yaml"
        }

    before = plan_of(tmp_path).runs["tiny-s1"]
    assert plan_of(tmp_path, swap).runs["tiny-s1"].made != before.made


def test_a_further_test_set_scores_and_does_not_train_again(tmp_path):
    def more(config):
        config["set"]["test_splits"] = ["test-clean"]

    before = plan_of(tmp_path).runs["tiny-s1"]
    after = plan_of(tmp_path, more).runs["tiny-s1"]
    assert before.made != after.made
    assert before.trained == after.trained
    assert after.sets == ["test-clean"]


def test_other_options_of_a_score_score_again(tmp_path):
    def plan(**options):
        config = yaml.safe_load((CONFIGS / "mini-full.yaml").read_text())
        config["systems"]["mini"]["score"]["set"] = options
        return Plan({**config, "results": str(tmp_path)})

    before = plan().runs
    after = plan(batch_size=1).runs
    changed = {n for n in before if before[n].made != after[n].made}
    assert changed == {"mini-score", "mini-prune4-score"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.update(seed=[1]), "seed: unknown"),
        (lambda c: c.pop("seeds"), "seeds: missing"),
        (lambda c: c.update(seeds=3), "seeds: 3 is no list"),
        (lambda c: c.update(report="all"), "report: all, choose from paper"),
        (lambda c: c["systems"]["tiny"].update(depth=2), "tiny.depth: unknown"),
        (lambda c: c["systems"].update(tiny=None), "systems.tiny: None, give"),
        (lambda c: c["systems"]["tiny"].pop("healed"), "tiny.healed: missing"),
        (
            lambda c: c["systems"]["tiny"]["study"][0].pop("depths"),
            "tiny.study.depths: missing",
        ),
        (
            lambda c: c["data"]["librispeech"].update(maker=[]),
            "data.librispeech.maker: unknown",
        ),
        (
            lambda c: c["systems"]["tiny"].update(recipe="LibriSpeech/TTS"),
            "tiny.recipe: .*LibriSpeech/TTS is not there",
        ),
        (
            lambda c: c.update(
                checks={
                    "x": {
                        "recipe": "MultiTask/SpeechLLM",
                        "command": ["run.py"],
                        "needs": ["tiny-s2"],
                    }
                }
            ),
            "checks.x.needs: tiny-s2: no such run",
        ),
        (
            lambda c: c["systems"]["tiny"]["study"].append(
                {
                    "depths": [3],
                    "healing": ["both"],
                    "path": "text",
                    "differs": True,
                }
            ),
            "study.differs: depth 3, healing both: no entry before it",
        ),
        (
            lambda c: c["systems"]["tiny"]["study"].append(
                {"depths": [2], "healing": ["both"]}
            ),
            "planned twice",
        ),
        (
            lambda c: c["systems"]["tiny"]["study"][0].update(path="x"),
            "study.path: x",
        ),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path, change, match):
    with pytest.raises(PlanError, match=match):
        plan_of(tmp_path, change)


@pytest.mark.parametrize("text", ["", "seeds: [1"])
def test_a_file_that_is_no_configuration_is_told(tmp_path, text):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(PlanError, match="study.yaml: "):
        read_plan(tmp_path / "study.yaml")


def a_study(tmp_path, code, kind="healed", name="one", trained="t"):
    """A study of one run that is a line of Python."""
    run = Run(name, kind, ["-c", code], str(tmp_path), [], "m", trained)
    return Study(tmp_path / "out", {name: run}), run


DONE = (
    "from speechbrain_ext.runs.result import RunResult as R, SetScore as S\n"
    "R('one', 'tiny', layers=2, scores={'a': S('WER', 1.0)},"
    " status='done').save('out/runs/one')\n"
    "open('times', 'a').write('x')"
)


def _marker(study, run):
    return json.loads(study.marker(run).read_text())


def test_a_finished_run_is_not_repeated(tmp_path):
    study, run = a_study(tmp_path, DONE)
    assert study_run.make(study, run) == 0
    assert _marker(study, run)["status"] == "done"
    study.marker(run).unlink()
    assert study_run.make(study, run) == 0
    assert _marker(study, run)["status"] == "done"
    assert (tmp_path / "times").read_text() == "x"


def test_other_settings_put_the_old_result_aside(tmp_path):
    study, run = a_study(tmp_path, DONE)
    study_run.make(study, run)
    study, run = a_study(tmp_path, DONE, trained="other")
    study_run.make(study, run)
    assert (tmp_path / "times").read_text() == "xx"
    (old,) = (tmp_path / "out/superseded").iterdir()
    assert (old / "result.json").is_file()


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_result_that_is_gone_is_made_again(tmp_path, by_hand):
    study, run = a_study(tmp_path, DONE)
    study_run.make(study, run)
    study.begin()
    assert study_run.status_of(study, "one") == "done"
    if by_hand:
        shutil.rmtree(study.run_folder("one"))
    else:
        # Other settings, and back again: the marker of the first is there.
        other, changed = a_study(tmp_path, DONE, trained="other")
        changed.made = "n"
        study_run.make(other, changed)
    study.begin()
    assert study_run.status_of(study, "one") == "absent"
    study_run.make(study, run)
    assert started(study, run)
    assert (tmp_path / "times").read_text() == "xx" + "x" * (not by_hand)


def test_a_failed_run_is_noted_and_what_needs_it_is_skipped(tmp_path):
    study, run = a_study(tmp_path, "raise ValueError('too hot')")
    after = Run("two", "healed", ["-c", "1"], str(tmp_path), ["one"], "m", "t")
    study.runs["two"] = after
    assert study_run.make(study, run) == 0
    assert _marker(study, run)["status"] == "failed"
    assert "too hot" in _marker(study, run)["error"]
    assert study_run.make(study, after) == 0
    assert _marker(study, after)["status"] == "skipped"
    assert not (tmp_path / "out/logs/two.log").exists()


def test_half_a_result_is_not_believed(tmp_path):
    study, run = a_study(tmp_path, DONE)
    folder = tmp_path / "out/runs/one"
    RunResult("one", "tiny", layers=2).save(folder)
    (folder / "workflow.json").write_text('{"trained": "t"}')
    assert not study_run.is_done(study, run)
    (folder / "result.json").write_text('{"status": "done", "sco')
    assert not study_run.is_done(study, run)
    study_run.make(study, run)
    assert _marker(study, run)["status"] == "done"


def test_a_missing_set_makes_a_done_run_undone(tmp_path):
    study, run = a_study(tmp_path, DONE)
    study_run.make(study, run)
    assert study_run.is_done(study, run)
    run.sets = ["a", "b"]
    assert not study_run.is_done(study, run)


def test_a_killed_run_leaves_no_marker_and_an_error(tmp_path):
    code = "import os; os.kill(os.getpid(), 9)"
    study, run = a_study(tmp_path, code)
    assert study_run.make(study, run) != 0
    assert not study.marker(run).exists()


def test_ctrl_c_is_no_failure(tmp_path):
    code = (
        "from speechbrain_ext.runs.result import RunResult as R\n"
        "R('one', 'tiny', layers=2, status='failed',"
        " error='KeyboardInterrupt: ').save('out/runs/one')\n"
        "raise SystemExit(1)"
    )
    study, run = a_study(tmp_path, code)
    assert study_run.make(study, run) != 0
    assert not study.marker(run).exists()


def test_the_run_ends_with_its_killed_parent(tmp_path):
    code = (
        "import os, time; open('pid', 'w').write(str(os.getpid()));"
        "time.sleep(60)"
    )
    study, run = a_study(tmp_path, code)
    plan = study.save()
    command = [sys.executable, "-m", "speechllm.study.run", plan, "one"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(command, env=environment)
    pid = _until(lambda: int((tmp_path / "pid").read_text()))
    parent.kill()
    parent.wait()
    assert _until(lambda: not _alive(pid))


def _until(what, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = what()
        except (OSError, ValueError):
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().split()[2] != "Z"


def test_gpus_are_handed_out_one_run_each(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with processes.held_gpus(1, tmp_path) as one:
        with processes.held_gpus(1, tmp_path) as other:
            given = {e["CUDA_VISIBLE_DEVICES"] for e in (one, other)}
            assert given == {"3", "5"}
    with processes.held_gpus(2, tmp_path) as both:
        assert both == {"CUDA_VISIBLE_DEVICES": "3,5"}
    with pytest.raises(ValueError, match="cards: 3 wanted"):
        with processes.held_gpus(3, tmp_path):
            pass
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with processes.held_gpus(2, tmp_path) as given:
        assert given == {}


def test_several_cards_start_by_torchrun():
    assert "--nproc_per_node=2" in processes._starter(2)
    assert processes._starter(1) == processes._starter(0) == [sys.executable]


def test_the_plan_comes_back(tmp_path):
    plan = plan_of(tmp_path)
    again = Study.load(plan.save())
    assert again.runs == plan.runs
    assert again.results == plan.results


def snakemake(tmp_path, *words):
    """Snakemake on the tiny study, with one finished result in it."""
    pytest.importorskip("snakemake")
    command = [
        *(sys.executable, "-m", "snakemake"),
        *("-s", ROOT / "workflow/Snakefile"),
        *("--profile", ROOT / "workflow/profiles/local"),
        *("--directory", tmp_path, "--cores", "1"),
        *("--config", f"study={tmp_path}/study.yaml"),
        f"results={tmp_path}/out",
        *words,
    ]
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def _finished(plan, run):
    """What a run would leave behind, made by hand."""
    note = study_run.note_file(plan, run)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"trained": run.trained, "ended": 0}))
    if run.kind in ("baseline", "healed"):
        scores = {name: SetScore("WER", 2.0) for name in run.sets}
        pruned = run.kind == "healed"
        RunResult(
            run.name,
            "mini-qwen2",
            layers=12,
            removed=2 * pruned,
            seed=1,
            healing="both" if pruned else "none",
            path={"from": "speech"} if pruned else None,
            scores=scores,
            status="done",
        ).save(plan.run_folder(run.name))
    if run.kind == "table":
        table = plan.run_folder("tiny-s1") / "redundancy-speech.json"
        table.write_text("{}")


def test_the_graph_plans_goes_on_and_reports(tmp_path):
    plan = plan_of(tmp_path)
    shown = snakemake(tmp_path, "-n")
    assert shown.returncode == 0, shown.stderr
    for run in plan.runs.values():
        assert run.typed() in shown.stdout + shown.stderr
    assert not (tmp_path / "out/plan.json").exists()
    # All but one were finished when the power went; that one cannot work.
    failing = "tiny-s1-n2-both-speech"
    for run in plan.runs.values():
        if run.name != failing:
            _finished(plan, run)
    (tmp_path / "out/runs" / failing).mkdir()
    (tmp_path / "out/runs" / failing / "workflow.json").write_text(
        json.dumps({"trained": plan.runs[failing].trained})
    )
    (tmp_path / "out/runs" / failing / "result.json").write_text("{broken")
    made = snakemake(tmp_path)
    said = made.stdout + made.stderr
    assert made.returncode == 0, said
    ended = {n: study_run.status_of(plan, n) for n in plan.runs}
    assert ended.pop(failing) == "failed"
    assert set(ended.values()) == {"done"}
    page = (tmp_path / "out/report/report.md").read_text()
    assert f"{failing}/result.json: cannot be read" in page
    # The report that is there keeps nothing from being tried again.
    (tmp_path / "out/logs" / f"{failing}.log").unlink()
    snakemake(tmp_path)
    assert (tmp_path / "out/logs" / f"{failing}.log").exists()


# -- timings ------------------------------------------------------------------

TIMINGS = [{"system": "tiny", "depth": 2}]


def _timed(config):
    config["timings"] = [
        *TIMINGS,
        {"system": "tiny", "depth": 2, "healing": "none", "pairs": 6},
    ]


def test_timings_are_planned_alone_and_last(tmp_path):
    plan = plan_of(tmp_path, _timed)
    names = list(plan.runs)
    pair = ["timing-tiny-s1-n2-both-speech", "timing-tiny-s1-n2-none-speech"]
    assert names[-2:] == pair
    first, second = (plan.runs[name] for name in pair)
    assert first.kind == "timing"
    assert first.needs == ["tiny-s1", "tiny-s1-n2-both-speech"]
    # Each after all others, also those that it does not need.
    assert plan.awaited(first) == names[:-2]
    assert plan.awaited(second) == names[:-1]
    whole, pruned = (str(plan.run_folder(need)) for need in first.needs)
    assert first.command[2:4] == [whole, pruned]
    assert "--pairs 6" in second.typed() and "--pairs" not in first.typed()


def test_a_timing_is_made_anew_when_its_runs_are(tmp_path):
    before = plan_of(tmp_path, _timed).runs

    def other(config):
        _timed(config)
        config["systems"]["tiny"]["set_healed"]["steps"] = 5

    after = plan_of(tmp_path, other).runs
    name = "timing-tiny-s1-n2-both-speech"
    assert before[name].made != after[name].made

    def more(config):
        _timed(config)
        config["timings"][0]["pairs"] = 11

    after = plan_of(tmp_path, more).runs
    changed = {n for n in before if before[n].made != after[n].made}
    assert changed == {name}


@pytest.mark.parametrize(
    ("one", "match"),
    [
        ({"system": "tiny"}, "timings.depth: missing"),
        ({"system": "tiny", "depth": 2, "deep": 1}, "timings.deep: unknown"),
        ({"system": "tiny", "depth": 3}, "timings: system tiny, seed 1, depth"),
        ({"system": "x", "depth": 2}, "timings: system x, .* no such run"),
        # The control is no pruned run.
        ({"system": "tiny", "depth": 0}, "timings.depth: missing"),
    ],
)
def test_a_wrong_timing_is_told(tmp_path, one, match):
    def change(config):
        config["timings"] = [one]

    with pytest.raises(PlanError, match=match):
        plan_of(tmp_path, change)


def a_timing(tmp_path, trained="t"):
    """A study of a run and of its timing, which notes when it was alone."""
    file = tmp_path / "out/timings/one.json"
    code = (
        "import os, pathlib\n"
        f"file = pathlib.Path({str(file)!r})\n"
        "file.parent.mkdir(parents=True, exist_ok=True)\n"
        "file.write_text('{\"pairs\": 6}')\n"
        "open('times', 'a').write('t')"
    )
    study, run = a_study(tmp_path, DONE)
    timing = Run(
        "timing-one", "timing", ["-c", code], str(tmp_path), ["one"], trained
    )
    timing.trained = trained
    study.runs[timing.name] = timing
    assert study.timing_file(timing.name) == file
    return study, timing, file


def test_a_timing_is_made_once_and_again_when_it_is_gone(tmp_path):
    study, timing, file = a_timing(tmp_path)
    for _ in range(2):
        study.begin()
        for name in study.runs:
            study_run.make(study, study.runs[name])
    assert (tmp_path / "times").read_text() == "xt"
    assert _marker(study, timing)["status"] == "done"
    file.unlink()
    study.begin()
    assert study_run.status_of(study, timing.name) == "absent"
    study_run.make(study, timing)
    assert (tmp_path / "times").read_text() == "xtt" and file.is_file()


def test_other_settings_put_a_timing_aside(tmp_path):
    study, timing, _ = a_timing(tmp_path)
    study_run.make(study, study.runs["one"])
    study_run.make(study, timing)
    study, timing, file = a_timing(tmp_path, "other")
    timing.command = ["-c", "raise SystemExit('no GPU')"]
    study_run.make(study, timing)
    assert _marker(study, timing)["status"] == "failed"
    # No report takes it for one of the new settings.
    assert not file.exists()
    assert list((tmp_path / "out/superseded").glob("timing-one-*"))


def test_a_timing_of_a_failed_run_says_so(tmp_path):
    study, timing, file = a_timing(tmp_path)
    study.runs["one"].command = ["-c", "raise ValueError('too hot')"]
    study_run.make(study, study.runs["one"])
    study_run.make(study, timing)
    noted = _marker(study, timing)
    assert (noted["status"], noted["error"]) == ("skipped", "needs one")
    assert not file.exists()


def test_nothing_runs_beside_a_timing(tmp_path):
    """With workers to spare, and though another run failed."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "name = sys.argv[1]\n"
        "open('order', 'a').write(f'+{name} ')\n"
        "time.sleep(0.3)\n"
        "open('order', 'a').write(f'-{name} ')\n"
        "if name == 'bad': raise SystemExit('no such depth')"
    )

    def run(name, kind, *needs):
        command = ["script.py", name]
        return Run(name, kind, command, str(tmp_path), list(needs), "m", "m")

    runs = [
        *(run(name, "check") for name in ("a", "b", "bad")),
        run("timing-1", "timing", "a"),
        run("timing-2", "timing", "b"),
    ]
    plan = Study(tmp_path / "out", {one.name: one for one in runs})
    for name in ("timing-1", "timing-2"):
        file = plan.timing_file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
    plan.begin()
    run_all(plan, workers=4)
    order = (tmp_path / "order").read_text().split()
    assert order[-4:] == ["+timing-1", "-timing-1", "+timing-2", "-timing-2"]
    assert sorted(order[:6]) == ["+a", "+b", "+bad", "-a", "-b", "-bad"]
    assert study_run.status_of(plan, "bad") == "failed"


def test_the_graph_times_after_all_runs(tmp_path):
    plan = plan_of(tmp_path, _timed)
    for run in plan.runs.values():
        if run.kind != "timing":
            _finished(plan, run)
    made = snakemake(tmp_path, "--cores", "2")
    said = made.stdout + made.stderr
    assert made.returncode == 0, said
    ended = [
        (plan.marker(run).stat().st_mtime_ns, run.kind)
        for run in plan.runs.values()
    ]
    kinds = [kind for _, kind in sorted(ended)]
    assert kinds[-2:] == ["timing"] * 2 and "timing" not in kinds[:-2]
    assert plan.reported.stat().st_mtime_ns > max(ended)[0]
    # Nothing was really trained here, which each of them says.
    ended = {
        n: study_run.status_of(plan, n)
        for n, run in plan.runs.items()
        if run.kind == "timing"
    }
    assert set(ended.values()) == {"failed"} and len(ended) == 2
    page = (tmp_path / "out/report/report.md").read_text()
    assert "- timing-tiny-s1-n2-both-speech: failed, " in page
