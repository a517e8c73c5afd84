"""The LibriSpeech recipe, from the command line to result.json.

Authors
 * The speechbrain_ext authors, 2026
"""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import RECIPE, write_settings
from safetensors.torch import load_file, save_file

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.runs.reading import read_utterances
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training import experiment as recipe_parts
from speechbrain_ext.training.brain import SpeechLLMBrain
from speechbrain_ext.training.evaluation import EvaluationBrain
from speechbrain_ext.training.peak_memory import PeakMemory
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.export.write import export_runs
from speechllm.exported.model import ExportedSpeechLLM
from speechllm.multitask import MultiTask
from speechllm.settings import load_hparams


class Study:
    """Runs of the recipe in one folder, over one corpus."""

    def __init__(self, recipe, settings, folder, corpus):
        self.recipe, self.folder = recipe, Path(folder)
        self.results = self.folder / "results"
        self.fixed = [
            settings,
            *("--results_folder", str(self.results)),
            *("--data_folder", corpus),
            *("--device", "cpu"),
            "--noprogressbar",
        ]

    def arguments(self, **changes):
        words = list(self.fixed)
        for name, value in changes.items():
            words += [f"--{name}", str(value)]
        return words

    def open(self, **changes):
        return self.recipe.prepare_experiment(self.arguments(**changes))

    def run(self, **changes):
        return self.open(**changes).run()

    def command(self, script, *words, **changes):
        """The real command line; gives the finished process."""
        return subprocess.run(
            [sys.executable, script, *words, *self.arguments(**changes)],
            cwd=RECIPE,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def prune(self, **changes):
        changes.setdefault("baseline", self.results / "base")
        changes.setdefault("prune_layers", 2)
        return self.run(**changes)


@pytest.fixture(scope="module")
def study(recipe, tmp_path_factory, corpus, decoder_folders, encoder_folders):
    """A baseline, trained once by the real command line."""
    folder = tmp_path_factory.mktemp("study")
    settings = write_settings(
        folder, decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
    study = Study(recipe, settings, folder, corpus)
    done = study.command("train.py")
    assert done.returncode == 0, done.stdout + done.stderr
    study.baseline_output = done.stdout + done.stderr
    return study


@pytest.fixture(scope="module")
def tables(study):
    """Tables of the baseline: text by the real command line, then speech."""
    done = study.command("measure.py", "--input", "text")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "size  start  distance" in done.stdout
    study.open().measure("speech")
    return {
        kind: RedundancyTable.load(
            study.results / "base" / f"redundancy-{kind}.json"
        )
        for kind in ("speech", "text")
    }


def test_the_baseline(study):
    folder = study.results / "base"
    result = load_run(folder)
    assert (result.status, result.steps, result.removed) == ("done", 8, 0)
    assert result.kept_layers == [0, 1, 2, 3, 4]
    assert set(result.scores) == {"test-clean", "test-other"}
    assert result.scores["test-clean"].utterances == 6
    assert result.trainable == {"projector": 48 * 32 + 32 + 32 * 32 + 32}
    assert result.data["train"]["utterances"] == 10
    assert result.speed["train_seconds"] > 0
    assert [e["step"] for e in result.validation["history"]] == [4, 8]
    state = load_file(folder / "trained" / "projector.safetensors")
    assert len(state) == 4
    assert (folder / "hyperparams.yaml").is_file()
    assert "Trained: projector" in study.baseline_output


def test_answers_at_their_limit_are_told(study):
    """The baseline learned next to nothing: its answers do not end."""
    result = load_run(study.results / "base")
    for name, score in result.scores.items():
        file = study.results / "base" / f"hypotheses-{name}.jsonl"
        rows = read_utterances(file)
        assert sum(row["hit_limit"] for row in rows) == score.hit_limit
        assert f"{name}: {score}" in study.baseline_output
        assert score.normaliser == "whisper-english"
    assert sum(score.hit_limit for score in result.scores.values()) > 0


def test_rows_know_their_reader(study):
    """Whoever wrote the manifest: SpeechBrain's names reader and chapter."""
    folder = study.results / "base"
    files = [
        f"hypotheses-{name}.jsonl" for name in ("test-clean", "test-other")
    ]
    for file in [*files, "losses-valid.jsonl"]:
        for row in read_utterances(folder / file):
            assert row["speaker"] == row["id"].split("-")[0], file
    for score in load_run(folder).scores.values():
        assert score.speakers == 1
    experiment = study.open()
    place = Path(experiment.hparams["manifest_folder"], "dev-clean.csv")
    text = place.read_text()
    try:
        place.write_text(text.replace(".flac,2,", ".flac,2-10,"))
        assert ".flac,2-10," in place.read_text()
        data = study.recipe.dataio_prepare(
            experiment.hparams, experiment.prompt
        )
        rows = data["valid"].data.values()
        assert {row["spk_id"] for row in rows} == {"2"}
    finally:
        place.write_text(text)


def test_a_run_may_be_trained_first_and_scored_later(study, capsys):
    settings = dict(run_name="unscored", steps=2, warmdown_steps=1)
    trained = study.run(test_splits="[]", **settings)
    assert (trained.status, trained.scores) == ("done", {})
    assert "test_splits is empty" in capsys.readouterr().out
    assert load_run(study.results / "unscored").status == "done"
    assert study.run(test_splits="[]", **settings).status == "done"
    scored = study.run(test_splits="[test-clean]", **settings)
    assert set(scored.scores) == {"test-clean"}
    assert scored.scores["test-clean"].language == "en"
    # In another language, its words are other words.
    again = study.run(test_splits="[test-clean]", language="de", **settings)
    assert again.scores["test-clean"].normaliser == "whisper-basic"
    assert again.speed["train_seconds"] == trained.speed["train_seconds"]


def test_the_best_step_is_what_later_work_gets(study, monkeypatch):
    """A validation loss that rises: its step's weights are not the last."""
    settings = dict(
        test_splits="[test-clean]", keep="best", valid_interval=2, steps=4
    )
    settings |= dict(warmup_steps=0, warmdown_steps=0)
    short = study.run(run_name="until-two", **{**settings, "steps": 2})
    real, rise = SpeechLLMBrain.validate, iter([0.0, 9.0, 0.0])
    with monkeypatch.context() as patch:
        patch.setattr(
            SpeechLLMBrain,
            "validate",
            lambda *words: real(*words) + next(rise),
        )
        result = study.run(run_name="best", **settings)
    losses = [e["valid_loss"] for e in result.validation["history"]]
    assert losses[1] > losses[0] + 5
    assert (result.steps, result.validation["kept_step"]) == (4, 2)
    assert result.validation["final_loss"] == losses[0]
    kept, expected = (
        load_file(study.results / name / "trained/projector.safetensors")
        for name in ("best", "until-two")
    )
    assert all(torch.equal(kept[name], expected[name]) for name in expected)
    hypotheses = "hypotheses-test-clean.jsonl"
    assert read_utterances(study.results / "best" / hypotheses) == (
        read_utterances(study.results / "until-two" / hypotheses)
    )
    assert short.validation["kept_step"] == 2
    assert "kept_step" not in load_run(study.results / "base").validation
    pruned = study.prune(
        baseline=study.results / "best",
        run_name="from-best",
        healing="none",
        steps=0,
        **{k: v for k, v in settings.items() if k != "steps"},
    )
    assert "kept_step" not in pruned.validation


def test_the_script_that_ran_is_kept_with_the_run(study):
    folder = study.results / "base"
    assert (folder / "train.py").read_text() == (
        RECIPE / "train.py"
    ).read_text()
    assert [file.name for file in folder.glob("*.py")] == ["train.py"]


def test_a_second_start_does_nothing(study):
    files = sorted((study.results / "base").rglob("*"))
    # SpeechBrain notes each start: a log, the environment, the script.
    files = [f for f in files if f.is_file() and f.suffix != ".py"]
    files = [f for f in files if f.name not in ("log.txt", "env.log", "lock")]
    before = {f: f.stat().st_mtime_ns for f in files}
    result = study.run()
    assert result.status == "done"
    assert {f: f.stat().st_mtime_ns for f in before} == before


def test_changed_settings_are_refused_before_anything_is_written(study):
    folder = study.results / "base"
    before = (folder / "hyperparams.yaml").read_text()
    with pytest.raises(ValueError) as caught:
        study.run(lr_projector=0.5)
    for words in ("lr_projector: 0.01 there, 0.5 here", "--run_name"):
        assert words in str(caught.value)
    assert load_run(folder).status == "done"
    # What tells how this run was made still tells it.
    assert (folder / "hyperparams.yaml").read_text() == before


def test_a_shorter_run_is_not_taken_for_the_whole(study):
    """What --debug or a step limit left is not the finished run."""
    limited = study.run(run_name="limited", optimizer_step_limit=2)
    assert limited.steps == 2
    whole = study.run(run_name="limited")
    assert whole.steps == 8


def test_the_tables(study, tables):
    assert {t.count for t in tables.values()} == {5}
    speech, text = tables["speech"].provenance, tables["text"].provenance
    assert (speech["input"], text["input"]) == ("speech", "text")
    assert speech["model"] == text["model"] == "tiny"
    assert speech["encoder"] == "tiny-wavlm"
    assert speech["position"] == "target"


@pytest.mark.parametrize("healing", ["none", "decoder", "projector", "both"])
def test_pruned_and_healed(study, tables, healing):
    result = study.prune(run_name=f"prune-{healing}", healing=healing)
    block = tables["speech"].best(2)
    assert result.status == "done" and result.healing == healing
    assert result.start == block.start and result.removed == 2
    kept = [i for i in range(5) if i not in block.removed]
    assert result.kept_layers == kept
    assert result.path["from"] == "speech" and result.path["count"] == 5
    parts = {
        "none": set(),
        "decoder": {"adapter"},
        "projector": {"projector"},
        "both": {"projector", "adapter"},
    }
    assert set(result.trainable) == parts[healing]
    assert result.steps == (0 if healing == "none" else 8)
    assert set(result.scores) == {"test-clean", "test-other"}
    folder = study.results / f"prune-{healing}"
    assert load_run(folder).scores == result.scores
    system = json.loads((folder / "trained" / "system.json").read_text())
    assert system["kept_layers"] == kept
    adapter = folder / "trained" / "healing" / "adapter_model.safetensors"
    assert adapter.is_file() == ("adapter" in parts[healing])
    # What is not trained is the baseline's.
    ours = load_file(folder / "trained" / "projector.safetensors")
    base = study.results / "base" / "trained" / "projector.safetensors"
    equal = [torch.equal(ours[k], v) for k, v in load_file(base).items()]
    assert any(equal) != ("projector" in parts[healing])


PARTS = {
    "attention": {"projector", "adapter"},
    "bridge": {"projector", "adapter", "bridge"},
    "map": set(),
    "map_folded": set(),
}


@pytest.fixture(scope="module")
def block_file(study, tables):
    """A path that leaves layer 0, for a map that is folded into it."""
    speech = copy.deepcopy(tables["speech"])
    speech.distances[1, :] = 0.5
    speech.distances[1, 1] = 0.0
    file = study.folder / "one.json"
    speech.save(file)
    return file


@pytest.mark.parametrize("healing", PARTS)
def test_presets_from_the_command_line(study, block_file, healing):
    result = study.prune(
        run_name=f"own-{healing}", healing=healing, path_from=block_file
    )
    trained = PARTS[healing]
    assert (result.status, result.healing) == ("done", healing)
    assert set(result.trainable) == trained and result.start == 1
    assert result.steps == (8 if trained else 0)
    folder = study.results / f"own-{healing}" / "trained"
    system = json.loads((folder / "system.json").read_text())
    files = {"bridge", "map"} & {healing}, {"map_folded"} & {healing}
    assert (system["bridge"] is not None) == bool(files[0])
    assert (system["folded"] is not None) == bool(files[1])
    if healing.startswith("map"):
        told = result.validation["map"]["1"]
        assert told["positions"] > 64 and len(told["losses"]) == 6
        # Scored is what was chosen: the held-out set is the whole one here.
        final = result.validation["final_loss"]
        assert final == pytest.approx(min(told["losses"].values()), rel=1e-4)
        assert result.speed["fit_seconds"] > 0
    model = TrainedRun(folder.parent).load()
    dataset = study.open().datasets["test"]["test-clean"]
    hparams = {**result.configuration, "eval_precision": "fp32"}
    rows = EvaluationBrain(model, hparams).decode(dataset)
    said = {row["id"]: row["hypothesis"] for row in rows}
    losses = read_utterances(folder.parent / "losses-valid.jsonl")
    tokens = sum(row["tokens"] for row in losses)
    final = result.validation["final_loss"]
    assert sum(row["loss"] for row in losses) / tokens == pytest.approx(final)
    noted = read_utterances(folder.parent / "hypotheses-test-clean.jsonl")
    assert said == {row["id"]: row["hypothesis"] for row in noted}


def test_ones_own_parts_and_a_teacher(study, block_file):
    file = Path(study.fixed[0])
    mine = file.with_name("mine.yaml")
    mine.write_text(
        f"""base: {file.name}
healing: mine
healing_parts:
    adapters: {{where: after, modules: attention, rank: 2}}
    bridge: {{rank: 4, start: map}}
    distillation: {{weight: 0.5, temperature: 2.0}}
"""
    )
    ours = Study(study.recipe, str(mine), study.folder, study.fixed[4])
    result = ours.prune(run_name="mine", path_from=block_file)
    assert (result.status, result.healing) == ("done", "mine")
    # q, o: 64, k, v: 48 in two layers; a bridge of 4 with its bias.
    assert result.trainable == {
        "adapter": 2 * 2 * (2 * 64 + 2 * 48),
        "bridge": 2 * 4 * 32 + 32,
    }
    assert result.configuration["healing_parts"]["bridge"]["start"] == "map"


def test_a_map_has_no_layer_to_be_folded_into(study, tables):
    speech = copy.deepcopy(tables["speech"])
    speech.distances[1, :] = 0.5
    speech.distances[1, 0] = 0.0
    file = study.folder / "first.json"
    speech.save(file)
    with pytest.raises(ValueError, match="no layer before the gap"):
        study.prune(run_name="first", healing="map_folded", path_from=file)


def test_the_path_may_come_from_text_or_a_file(study, tables):
    best = tables["text"].best(1)
    result = study.prune(
        run_name="text", prune_layers=1, path_from="text", healing="none"
    )
    assert (result.start, result.path["from"]) == (best.start, "text")
    # A file with a path of its own, so that only it can have been used.
    speech = copy.deepcopy(tables["speech"])
    far = max(range(4), key=lambda start: abs(start - speech.best(1).start))
    speech.distances[0, far] = 0.0
    file = study.folder / "mine.json"
    speech.save(file)
    result = study.prune(
        run_name="file", prune_layers=1, path_from=file, healing="none"
    )
    assert result.start == far


def test_a_missing_table_is_measured_first(study, tables):
    base = study.folder / "fresh"
    shutil.copytree(study.results / "base", base)
    for file in base.glob("redundancy*"):
        file.unlink()
    study.prune(
        run_name="fresh", baseline=base, healing="none", path_from="text"
    )
    assert [f.name for f in base.glob("redundancy*")] == [
        "redundancy-text.json"
    ]
    again = RedundancyTable.load(base / "redundancy-text.json")
    assert again.path() == tables["text"].path()


def test_what_is_healed_does_not_depend_on_who_measured(study, tables):
    """A run that measures the missing table heals to the same weights."""
    base = study.folder / "unmeasured"
    shutil.copytree(study.results / "base", base)
    (base / "redundancy-speech.json").unlink()
    options = dict(test_splits="[]", lora_dropout=0.2)
    study.prune(run_name="there", **options)
    study.prune(run_name="missing", baseline=base, **options)
    there, missing = (
        trained_weights(study.results / name) for name in ("there", "missing")
    )
    assert there.keys() == missing.keys() and len(there) > 4
    for name, value in there.items():
        assert torch.equal(missing[name], value), name


def trained_weights(folder):
    files = sorted((folder / "trained").rglob("*.safetensors"))
    return {f"{f.name}:{k}": v for f in files for k, v in load_file(f).items()}


def test_a_run_older_than_a_setting_is_still_known(study):
    """What a key was before it was one is what the older run was made with."""
    options = {"run_name": "older"}
    study.run(**options)
    file = study.results / "older" / "result.json"
    result = json.loads(file.read_text())
    for key in ("output_norm", "normalise_input", "max_seconds"):
        del result["configuration"]["speech_encoder"][key]
    for key in ("healing_parts", "decode_static", "lr_bridge", "language"):
        del result["configuration"][key]
    result["made_by"] = "older"
    file.write_text(json.dumps(result))
    before = file.read_bytes()
    assert study.run(**options).status == "done"
    assert file.read_bytes() == before
    with pytest.raises(ValueError, match="'output_norm': False.* there"):
        study.run(**options, **{"speech_encoder.output_norm": True})
    with pytest.raises(ValueError, match="decode_static: False there, True"):
        study.run(**options, decode_static=True)


def test_the_adapted_baseline_is_pruned_with_its_adapter(study):
    whole = study.run(run_name="lora", adapt_attention=True, lora_rank=2)
    # q and o: 32 x 32, k and v: 32 x 16, rank 2, in 5 layers.
    assert whole.trainable["adapter"] == 5 * 2 * (2 * 64 + 2 * 48)
    assert whole.adapter == "lora"
    pruned = study.prune(
        run_name="lora-pruned", baseline=study.results / "lora"
    )
    assert pruned.status == "done"
    assert (study.results / "lora" / "redundancy-speech.json").is_file()
    # The table is the adapted decoder's, not the frozen one's.
    adapted = RedundancyTable.load(
        study.results / "lora" / "redundancy-speech.json"
    )
    assert adapted.count == 5


def test_markers_and_chat_template(study):
    options = dict(speech_markers=True, chat_template=True)
    result = study.run(run_name="marked", **options)
    assert result.trainable["projector"] == 48 * 32 + 32 + 32 * 32 + 32 + 64
    state = load_file(
        study.results / "marked" / "trained" / "projector.safetensors"
    )
    assert {"markers.start", "markers.end"} <= set(state)
    pruned = study.prune(
        run_name="marked-pruned",
        baseline=study.results / "marked",
        healing="none",
        **options,
    )
    assert pruned.status == "done"
    with pytest.raises(ValueError, match="speech_markers"):
        study.prune(
            run_name="unmarked",
            baseline=study.results / "marked",
            chat_template=True,
        )


def test_cached_features_give_the_same_run(study):
    plain = load_run(study.results / "base")
    cached = study.run(
        run_name="cached", cache_features=study.folder / "features"
    )
    a, b = plain.validation["final_loss"], cached.validation["final_loss"]
    # In batches of other lengths sums are rounded otherwise, that is all.
    assert b == pytest.approx(a, rel=1e-4)


def test_an_interrupted_run_keeps_what_it_has(study, monkeypatch):
    experiment = study.open(run_name="interrupted")
    score = experiment.score
    seen = []

    def failing(rows):
        if seen:
            raise RuntimeError("the power went")
        seen.append(1)
        return score(rows)

    experiment.score = failing
    with pytest.raises(RuntimeError, match="the power went"):
        experiment.run()
    failed = load_run(study.results / "interrupted")
    assert failed.status == "failed" and "the power went" in failed.error
    assert set(failed.scores) == {"test-clean"}
    done = study.run(run_name="interrupted")
    assert done.status == "done" and set(done.scores) == {
        "test-clean",
        "test-other",
    }
    base = load_run(study.results / "base")
    assert {k: s.value for k, s in done.scores.items()} == {
        k: s.value for k, s in base.scores.items()
    }


def test_the_settings_it_leaves_can_be_loaded(study):
    """Includes and all, from where they lie."""
    models = RECIPE / "hparams" / "models"
    options = {
        "backbone": models / "backbones" / "mini-qwen2.yaml",
        "run_name": "included",
    }
    experiment = study.open(**options)
    again = load_hparams(str(study.results / "included/hyperparams.yaml"))
    for key, value in experiment.hparams.items():
        if isinstance(value, (str, int, float, dict, list)):
            assert again[key] == value, key


def test_peak_memory_is_inferences_alone(study, monkeypatch):
    """Training, and the whole model that it looks at, are told apart."""
    size, fit = 400 * 2**20, SpeechLLMBrain.fit
    released = []

    def hungry(brain, *sets):
        torch.ones(size // 4).sum()
        fit(brain, *sets)
        brain.distillation = "the whole model"

    def decode(brain, *args):
        released.append((brain.distillation, brain.optimizer))
        return EvaluationBrain.decode(brain, *args)

    monkeypatch.setattr(SpeechLLMBrain, "fit", hungry)
    monkeypatch.setattr(SpeechLLMBrain, "decode", decode)
    result = study.run(run_name="hungry")
    assert set(released) == {(None, None)}
    if not PeakMemory("cpu").known:
        assert (
            result.peak_memory_bytes is result.train_peak_memory_bytes is None
        )
        return
    inference, training = load_peaks(study.results / "hungry")
    assert 0 < inference < training - size / 2
    # A set that is scored later counts too; a training's peak stays.
    more = "[test-clean, test-other, dev-clean]"
    study.run(run_name="hungry", test_splits=more)
    later = load_peaks(study.results / "hungry")
    assert later[0] >= inference and later[1] >= training


def load_peaks(folder):
    result = load_run(folder)
    return result.peak_memory_bytes, result.train_peak_memory_bytes


# -- losses apart -------------------------------------------------------------


def test_losses_are_compared_where_nothing_is_chosen(study, tables):
    """Layers and the training's own validation are blind to loss_splits."""
    base = load_run(study.results / "base")
    changes = {"run_name": "apart", "loss_splits": "[test-other]"}
    result = study.run(**changes)
    folder = study.results / "apart"
    losses = read_utterances(folder / "losses-valid.jsonl")
    others = study.open(**changes).datasets["loss"].data_ids
    assert [row["id"] for row in losses] == others and len(others) == 3
    tokens = sum(row["tokens"] for row in losses)
    mean = sum(row["loss"] for row in losses) / tokens
    assert result.validation["final_loss"] == pytest.approx(mean)
    assert result.validation["history"] == base.validation["history"]
    assert result.data["loss"]["utterances"] == 3
    for kind, table in tables.items():
        study.open(**changes).measure(kind)
        own = RedundancyTable.load(folder / f"redundancy-{kind}.json")
        same = {"rtol": 0, "atol": 0, "equal_nan": True}
        torch.testing.assert_close(own.distances, table.distances, **same)
        assert own.provenance["data"] == ["dev-clean"]
    pruned = {**changes, "run_name": "apart-pruned", "baseline": folder}
    plain = study.prune(run_name="plain-pruned")
    assert study.prune(**pruned).kept_layers == plain.kept_layers
    # They are no part of what was trained: others are scored at once.
    again = study.run(run_name="apart")
    assert again.validation["final_loss"] == base.validation["final_loss"]
    assert again.steps == 8 and "loss" not in again.data


# -- bad input ---------------------------------------------------------------


def test_a_pruned_run_without_baseline_names_the_command(study):
    for baseline in (study.results / "nowhere", None):
        changes = {} if baseline is None else {"baseline": baseline}
        with pytest.raises(ValueError, match="python train.py"):
            study.open(run_name="orphan", prune_layers=2, **changes)
    empty = study.folder / "empty"
    empty.mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="train.py"):
        study.prune(run_name="orphan", baseline=empty)


def test_a_depth_without_receiver_is_refused(study):
    with pytest.raises(ValueError, match="prune_layers: 5.*choose 1 to 4"):
        study.open(prune_layers=5, baseline=study.results / "base")


def test_unknown_keys_and_values_are_told_at_once(study):
    done = study.command(
        "train.py", healing="all", prune_layer=2, run_name="bad"
    )
    assert done.returncode != 0
    assert "prune_layer" in done.stderr and "healing: all" in done.stderr
    assert not (study.results / "bad").exists()


def test_a_path_file_of_another_model_is_refused(study, tables):
    table = tables["text"]
    file = study.folder / "other.json"
    table.provenance["model"] = "Another-7B"
    table.save(file)
    with pytest.raises(ValueError, match="other.json.*Another-7B"):
        study.prune(run_name="other", path_from=file)
    file.write_text('{"format": "nonsense"}')
    with pytest.raises(ValueError, match="other.json is not a redundancy"):
        study.prune(run_name="other2", path_from=file)


def test_a_baseline_of_other_settings_is_refused(study):
    with pytest.raises(ValueError, match="downsampling: 2.*trained with 3"):
        study.prune(run_name="k2", downsampling=2)
    with pytest.raises(ValueError, match="projector_hidden"):
        study.prune(run_name="wide", projector_hidden=7)
    # As deep and as wide, but another model.
    with pytest.raises(ValueError, match="backbone: 'twin', but the baseline"):
        twin = {"backbone.name": "twin", "prune_layers": 0}
        study.prune(run_name="twin", **twin)


def test_a_pruned_run_is_no_baseline(study, monkeypatch):
    study.prune(run_name="cut", healing="decoder")
    monkeypatch.setattr(recipe_parts, "load_prompt", None)
    with pytest.raises(ValueError, match="cut was pruned, it keeps 3 of 5"):
        study.prune(run_name="again", baseline=study.results / "cut")
    with pytest.raises(ValueError, match="cut was pruned, it keeps 3 of 5"):
        study.open(run_name="on", baseline=study.results / "cut")


def test_a_baseline_that_heard_something_else_is_refused(study, monkeypatch):
    """Everything that differs is told at once, before anything is loaded."""
    monkeypatch.setattr(recipe_parts, "load_prompt", None)
    changes = {
        "speech_encoder.dtype": "bfloat16",
        "speech_encoder.output_norm": True,
        "speech_encoder.normalise_input": False,
        "speech_encoder.max_seconds": 20,
        "backbone.dtype": "bfloat16",
        "lowercase_targets": False,
    }
    with pytest.raises(ValueError) as told:
        study.prune(run_name="else", **changes)
    words = "encoder_dtype output_norm normalise_input max_seconds "
    words += "backbone_dtype lowercase_targets"
    for key in words.split():
        assert f"{key}: " in str(told.value)
    # What the encoder's files say is no other setting when it is spelled out.
    with pytest.raises(TypeError, match="NoneType"):  # load_prompt is reached
        study.prune(run_name="t", **{"speech_encoder.normalise_input": True})


@pytest.mark.parametrize("part", ["backbone", "speech_encoder"])
def test_other_weights_of_the_same_name_are_refused(study, part, tmp_path):
    source = study.open(run_name="look").hparams[part]["source"]
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    # Elsewhere, but the same.
    study.open(
        run_name="moved",
        baseline=study.results / "base",
        prune_layers=2,
        **{f"{part}.source": copy},
    )
    state = load_file(copy / "model.safetensors")
    name = next(n for n in sorted(state) if "q_proj.weight" in n)
    state[name][-1, -1] += 0.01
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    word = {"speech_encoder": "encoder"}.get(part, part)
    with pytest.raises(ValueError, match=f"{word}_weights: .*same checkpoint"):
        study.prune(run_name="moved", **{f"{part}.source": copy})


def test_an_older_baseline_is_compared_by_what_it_says(study, capsys):
    """It has no fingerprints and no options; its settings are its word."""
    old = study.folder / "old"
    shutil.copytree(study.results / "base", old)
    file = old / "trained/system.json"
    system = json.loads(file.read_text())
    kept = "backbone encoder prompt chat_template downsampling layers "
    kept += "kept_layers adapter bridge folded"
    system = {key: system[key] for key in kept.split()}
    file.write_text(json.dumps(system))
    result = json.loads((old / "result.json").read_text())
    for key in ("output_norm", "normalise_input", "max_seconds"):
        result["configuration"]["speech_encoder"].pop(key, None)
    (old / "result.json").write_text(json.dumps(result))
    done = study.prune(run_name="on-old", baseline=old, healing="none")
    assert done.status == "done"
    said = capsys.readouterr().out
    assert "Note: the baseline in" in said and "encoder_weights" in said
    with pytest.raises(ValueError, match="encoder_revision"):
        more = {"speech_encoder.revision": "other"}
        study.prune(run_name="on-old2", baseline=old, **more)
    # And it is loaded as it was.
    assert TrainedRun(old).load_encoder().output_norm is False


def test_encoder_options_stay_with_the_run(study, monkeypatch):
    options = dict(output_norm=True, normalise_input=False, max_seconds=2.5)
    changes = {f"speech_encoder.{k}": v for k, v in options.items()}
    result = study.run(run_name="options", **changes)
    about = result.configuration["speech_encoder"]
    assert {key: about[key] for key in options} == options
    folder = study.results / "options"
    system = json.loads((folder / "trained/system.json").read_text())
    assert {key: system[key] for key in options} == options
    exported = str(study.folder / "exported")
    export_runs([str(folder)], exported, tell=lambda line: None)
    for encoder in (
        TrainedRun(folder).load_encoder(),
        MultiTask.from_runs({"asr": str(folder)}).encoders()[0],
        ExportedSpeechLLM.from_pretrained(exported).use("asr").encoder,
    ):
        assert (encoder.output_norm, encoder.normalise_input) == (True, False)
        assert encoder.max_samples == 40000


def test_own_windows_stay_with_the_run(
    recipe, tmp_path, corpus, decoder_folders, encoder_folders
):
    """Whisper's short windows, from features on the disk to the export."""
    models = decoder_folders["qwen2"], encoder_folders["whisper"], "whisper"
    settings = write_settings(tmp_path, *models)
    study = Study(recipe, settings, tmp_path, corpus)
    whole = {"cache_features": tmp_path / "features"}
    own = {**whole, "speech_encoder.window": "own"}
    result = study.run(run_name="own", **own)
    other = study.run(run_name="whole", **whole)
    assert result.validation["history"] != other.validation["history"]
    base, before = study.results / "own", study.results / "whole"
    with pytest.raises(ValueError, match="window: '30s'.*trained with 'own'"):
        study.prune(run_name="no", baseline=base, **whole)
    done = study.prune(run_name="cut", baseline=base, healing="none", **own)
    assert done.status == "done"
    with pytest.raises(ValueError, match="'window': 'own'.* there"):
        study.run(run_name="own", **whole)
    exported = str(study.folder / "own-exported")
    export_runs([str(base)], exported, tell=lambda line: None)
    encoders = [
        TrainedRun(base).load_encoder(),
        MultiTask.from_runs({"asr": str(base)}).encoders()[0],
        ExportedSpeechLLM.from_pretrained(exported).use("asr").encoder,
    ]
    wav_1N = 0.1 * torch.randn(1, 9000)
    features = [encoder(wav_1N, [9000])[0] for encoder in encoders]
    assert all(encoder.core.own for encoder in encoders)
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])
    # A run from before there was a choice heard whole windows.
    for name in ("result.json", "trained/system.json"):
        content = json.loads((before / name).read_text())
        content.pop("window", None)
        if "configuration" in content:
            content["configuration"]["speech_encoder"].pop("window", None)
        (before / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="window: 'own'.*trained with '30s'"):
        study.prune(run_name="no", baseline=before, **own)
    done = study.prune(run_name="old", baseline=before, healing="none", **whole)
    assert done.status == "done"


def broken_corpus(corpus, folder):
    shutil.copytree(corpus, folder)
    return folder, next((folder / "train-clean-100").rglob("*0003.flac"))


def refused(study, corpus, words):
    changed = Study(study.recipe, study.fixed[0], study.folder, str(corpus))
    changed.results = study.folder / f"refused-{corpus.parent.name}"
    changed.fixed[2] = str(changed.results)
    with pytest.raises(ValueError) as caught:
        changed.run()
    assert words in str(caught.value)
    return changed


def break_audio(file, how):
    wav, rate = soundfile.read(file)
    if how == "missing":
        file.unlink()
    elif how == "no transcript":
        lines = next(file.parent.glob("*.txt"))
        text = lines.read_text().splitlines()
        lines.write_text("\n".join(t for t in text if "-0003" not in t))
    elif how == "unreadable":
        file.write_bytes(b"fLaC nonsense")
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "other rate":
        soundfile.write(file, wav, 8000)
    elif how == "stereo":
        soundfile.write(file, torch.tensor([wav, wav]).T.numpy(), rate)


@pytest.mark.parametrize(
    "how, words",
    [
        ("missing", "transcript without audio"),
        ("no transcript", "audio without transcript"),
        ("unreadable", "broken audio"),
        ("empty", "broken audio"),
        ("other rate", "sample rate 8000"),
        ("stereo", "2 channels"),
    ],
)
def test_bad_audio_is_refused_or_left_out(study, corpus, tmp_path, how, words):
    folder, file = broken_corpus(corpus, tmp_path / "LibriSpeech")
    break_audio(file, how)
    changed = refused(study, folder, words)
    if how == "missing":
        result = changed.run(skip_bad=True, run_name="skip", steps=5)
        assert result.data["train"]["utterances"] == 9


def test_a_missing_or_empty_folder_is_refused(study, tmp_path):
    refused(study, tmp_path / "a" / "LibriSpeech", "data_folder")
    empty = tmp_path / "b" / "LibriSpeech"
    empty.mkdir(parents=True)
    refused(study, empty, "train-clean-100")


def test_an_utterance_longer_than_the_encoder_takes(
    study, corpus, tmp_path, encoder_folders, recipe
):
    """Told before the first step, and left out only if asked to."""
    folder, file = broken_corpus(corpus, tmp_path / "LibriSpeech")
    noise = torch.randn(16000 * 3).numpy() * 0.1
    soundfile.write(file, noise, 16000)
    options = {
        "speech_encoder.source": encoder_folders["whisper"],
        "speech_encoder.kind": "whisper",
        "steps": 5,
    }
    long = Study(recipe, study.fixed[0], tmp_path, str(folder))
    refused = long.open(**options)
    for _ in range(2):
        with pytest.raises(ValueError, match="1-10-0003"):
            refused.open_encoder()
    with pytest.raises(ValueError) as caught:
        refused.run()
    assert "1-10-0003" in str(caught.value)
    assert "2.0 s" in str(caught.value)
    assert load_run(long.results / "base").steps is None
    result = long.run(**options, skip_bad=True, run_name="skip")
    assert result.data["train"]["utterances"] == 9


def test_an_utterance_shorter_than_a_frame(study, corpus, tmp_path, recipe):
    """Told before the first step, and left out only if asked to."""
    folder, file = broken_corpus(corpus, tmp_path / "LibriSpeech")
    soundfile.write(file, [0.1] * 200, 16000)
    short = Study(recipe, study.fixed[0], tmp_path, str(folder))
    with pytest.raises(ValueError) as caught:
        short.run()
    assert "1 utterances are shorter than the 0.0450 s" in str(caught.value)
    assert "1-10-0003 (0.0125 s)" in str(caught.value)
    assert load_run(short.results / "base").steps is None
    result = short.run(skip_bad=True, run_name="skip", steps=5)
    assert result.data["train"]["utterances"] == 9


# -- real recordings, where there are some ------------------------------------


@pytest.mark.skipif(
    "SPEECHLLM_REAL" not in os.environ,
    reason="SPEECHLLM_REAL names no folder of real recordings and models",
)
def test_real_recordings_and_real_weights(recipe, tmp_path):
    real = Path(os.environ["SPEECHLLM_REAL"])
    settings = write_settings(
        tmp_path,
        real / "models" / "stories260K-llama",
        real / "models" / "whisper-tiny.en-encoder",
        "whisper",
    )
    study = Study(recipe, settings, tmp_path, str(real / "LibriSpeech"))
    options = {
        "backbone.family": "Llama",
        "test_splits": "[test-clean]",
        "batch_size": 2,
        "downsampling": 5,
    }
    baseline = study.run(**options)
    assert baseline.layers == 5 and baseline.status == "done"
    pruned = study.prune(
        **options, path_from="text", prune_layers=1, run_name="pruned"
    )
    assert pruned.status == "done" and len(pruned.kept_layers) == 4
    assert isinstance(Block(pruned.start, 1).receiving, int)
    losses = [baseline, pruned]
    assert all(0 < r.validation["final_loss"] < 20 for r in losses)
