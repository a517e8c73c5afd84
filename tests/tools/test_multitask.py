"""Many tasks on one pruned backbone: the same outputs, less memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recipe_scripts import RECIPES, quick, train
from test_covost2 import write_release

from speechbrain_ext.data.rows import read_manifest
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.cli import main as speechllm
from speechllm.multitask import (
    MultiTask,
    compare_with_separate,
    memory_of,
    read_wavs,
    told_memory,
)
from speechllm.settings import load_hparams

RECIPE = RECIPES / "MultiTask/SpeechLLM"
ASR = RECIPES / "LibriSpeech/ASR/SpeechLLM"
AST = RECIPES / "CoVoST2/AST/SpeechLLM"
TASKS = ("asr", "en_de", "fr_en")


@pytest.fixture(scope="module")
def study(tmp_path_factory, corpus, decoder_folders, encoder_folders):
    """Three healed runs along ASR's path, and what goes with them."""
    top = tmp_path_factory.mktemp("multitask")
    source = decoder_folders["qwen2"]
    wavlm, whisper = encoder_folders["wavlm"], encoder_folders["whisper"]
    # Rates so high that two steps change adapters and projectors visibly.
    more = {"lr_adapter": 0.3, "lr_projector": 0.03, "max_new_tokens": 9}
    asr = quick(
        top / "asr",
        source,
        wavlm,
        data_folder=corpus,
        valid_splits="[dev-clean]",
        test_splits="[test-clean]",
        **more,
    )
    train(ASR, "mini.yaml", asr)
    train(ASR, "mini_prune.yaml", asr)
    table = top / "asr/mini/redundancy-speech.json"
    runs = {"asr": top / "asr/mini_prune"}
    roots = {"asr": str(corpus)}
    for pair, encoder in (("en_de", wavlm), ("fr_en", whisper)):
        kind = "whisper" if pair == "fr_en" else "wavlm"
        roots[pair] = write_release(top / pair, pair[:2], pair)
        options = quick(
            top / "ast",
            source,
            encoder,
            kind,
            data_folder=roots[pair],
            path_from=table,
            # French goes without an adapter.
            healing="projector" if pair == "fr_en" else "both",
            **more,
        )
        train(AST, f"mini_{pair}.yaml", options)
        train(AST, f"mini_{pair}_prune.yaml", options)
        runs[pair] = top / f"ast/mini_{pair}_prune"
    return {"top": top, "runs": runs, "roots": roots, "table": table}


@pytest.fixture(scope="module")
def tasks(study):
    """All three on one backbone."""
    return MultiTask.from_runs(study["runs"])


@pytest.fixture(scope="module")
def rows(study):
    """A few utterances of each task."""
    found = {}
    for name, root in study["roots"].items():
        column = "wrd" if name == "asr" else "translation"
        folder = study["top"] / ("asr" if name == "asr" else "ast")
        split = "test-clean" if name == "asr" else f"{name}_test"
        file = folder / "manifests" / f"{split}.csv"
        found[name] = [
            {
                "wav": row["wav"],
                "target": row[column],
                "duration": row["duration"],
                "resample": name != "asr",
            }
            for row in list(read_manifest(file, str(root)).values())[:4]
        ]
    return found


def test_runs_name_whose_path_they_follow(study):
    paths = {n: load_run(f).path_from for n, f in study["runs"].items()}
    assert paths == dict(asr="speech", en_de="ASR speech", fr_en="ASR speech")
    kept = {TrainedRun(folder).kept for folder in study["runs"].values()}
    assert len(kept) == 1


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_bit_for_bit_its_own_system(tasks, rows, name):
    for other in TASKS:
        tasks.use(other)
    found = compare_with_separate(tasks, name, rows[name], batch_size=3)
    assert found["same_logits"] and found["largest_difference"] == 0
    assert found["same_texts"] == found["utterances"] == 4


def test_each_task_has_its_own_adapter(tasks, rows):
    wavs = read_wavs(rows["asr"])
    targets = [tasks.models["asr"].prompt.encode_target("one")] * 4
    x_BSF, tokens_B = tasks.models["asr"].features(
        torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True),
        torch.tensor([len(wav) for wav in wavs]),
    )
    said = []
    for name in TASKS:
        tasks.use(name)
        said.append(tasks.models["asr"](x_BSF, tokens_B, targets)[0])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(said[one], said[other], atol=1e-3)


def mixed(rows):
    """All rows, a task after the other in turn."""
    names = [name for _ in range(4) for name in TASKS]
    return names, [rows[n][i] for i in range(4) for n in TASKS]


def test_mixed_batch_gives_each_row_its_task(tasks, rows):
    names, batch = mixed(rows)
    # Rows leave the batch at different times.
    limits_B = torch.tensor([9, 2, 5, 1] * 3)
    wavs = read_wavs(batch)
    targets = [
        tasks.models[name].prompt.encode_target(row["target"])
        for name, row in zip(names, batch)
    ]
    together = tasks.transcribe(wavs, names, limits_B)
    logits_NV, labels_N = tasks.target_logits(wavs, names, targets)
    parts = logits_NV.split([len(target) for target in targets])
    for index, name in enumerate(names):
        model = tasks.use(name)
        x_BSF, tokens_B = model.features(
            wavs[index][None], torch.tensor([len(wavs[index])])
        )
        one = slice(index, index + 1)
        alone = model.transcribe(x_BSF, tokens_B, limits_B[one])
        assert together[index] == alone[0]
        theirs_NV, _ = model(x_BSF, tokens_B, targets[one])
        # In fp32, and sums are taken in another order than alone.
        torch.testing.assert_close(
            parts[index], theirs_NV, atol=4e-5, rtol=1e-5
        )
    assert labels_N.tolist() == torch.cat(targets).tolist()


def test_a_mixed_batch_that_fails_leaves_nothing_behind(
    tasks, rows, monkeypatch
):
    wav, model = read_wavs(rows["asr"])[0], tasks.use("asr")
    target = model.prompt.encode_target(rows["asr"][0]["target"])
    before_NV, _ = model(*model.features_of([wav]), [target])

    def out_of_memory(sequence):
        tasks.decoder.lm(**sequence.causal_inputs())
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(tasks.decoder, "target_logits", out_of_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            tasks.target_logits([wav], ["en_de"], [target])
    model = tasks.use("asr")
    after_NV, _ = model(*model.features_of([wav]), [target])
    assert torch.equal(before_NV, after_NV)


def test_memory_is_one_backbone_and_small_parts(tasks):
    memory = memory_of(tasks)
    sizes = [p.numel() * p.element_size() for p in tasks.parameters()]
    assert memory["together"] == sum(sizes)
    assert memory["tasks"]["fr_en"]["adapter"] == 0
    assert memory["tasks"]["asr"]["adapter"] > 0
    alone = [
        sum(
            p.numel() * p.element_size()
            for p in TrainedRun(run.folder).load().parameters()
        )
        for run in tasks.runs.values()
    ]
    assert memory["separately"] == sum(alone)
    assert memory["together"] < memory["separately"]
    assert "backbone, once" in told_memory(memory)


def test_what_does_not_fit_is_refused(study, tasks, tmp_path, corpus):
    with pytest.raises(ValueError, match="is taken"):
        tasks.add("asr", study["runs"]["asr"])
    with pytest.raises(ValueError, match="has other signs"):
        tasks.add("a.b", study["runs"]["asr"])
    whole = study["top"] / "asr/mini"
    with pytest.raises(ValueError, match="kept layers.*--prune_layers 2"):
        tasks.add("whole", whole)
    with pytest.raises(FileNotFoundError, match="holds no trained system"):
        tasks.add("none", tmp_path)


def run_script(*words):
    """run.py as typed."""
    return subprocess.run(
        [sys.executable, "run.py", *map(str, words)],
        cwd=RECIPE,
        capture_output=True,
        text=True,
    )


def test_command_decodes_scores_and_checks(study, tmp_path):
    words = [f"hparams/{name}.yaml" for name in TASKS]
    for name in TASKS:
        folder = study["top"] / ("asr" if name == "asr" else "ast")
        split = "test-clean" if name == "asr" else f"{name}_test"
        words += [
            f"--{name}.run_folder={study['runs'][name]}",
            f"--{name}.manifest={folder}/manifests/{split}.csv",
            f"--{name}.data_root={study['roots'][name]}",
        ]
    out = tmp_path / "out"
    done = run_script(*words, "--check", f"--output_folder={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all tasks together" in done.stdout
    content = json.loads((out / "multitask.json").read_text())
    assert [content["scores"][n]["metric"] for n in TASKS] == [
        "WER",
        "BLEU",
        "BLEU",
    ]
    # In mixed batches as in the run's own evaluation.
    for name in TASKS:
        result = load_run(study["runs"][name])
        (score,) = result.scores.values()
        assert content["scores"][name]["value"] == pytest.approx(score.value)
        assert content["checks"][name]["same_logits"]


def test_tables_are_compared_by_a_command(study, tmp_path, capsys):
    own = study["top"] / "ast/mini_en_de"
    other = json.loads(study["table"].read_text())
    other["provenance"]["task"] = "AST en-de"
    other["distances"][0][1] = 0.0
    (own / "changed.json").write_text(json.dumps(other))
    words = ["compare", str(study["table"]), str(own / "changed.json")]
    assert speechllm(words) == 0
    said = capsys.readouterr().out
    assert "A: " in said and "ASR, speech" in said and "AST en-de" in said
    assert speechllm([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["mean_difference"] < 0.1
    assert found["provenance"][1]["task"] == "AST en-de"
    assert speechllm([*words[:2], str(tmp_path / "none")]) == 1
    assert "two tables' files" in capsys.readouterr().err


YAMLS = sorted(path.stem for path in (RECIPE / "hparams").glob("*.yaml"))


@pytest.mark.parametrize("name", YAMLS)
def test_every_task_is_a_yaml_of_ten_lines(name):
    file = Path(RECIPE / "hparams" / f"{name}.yaml")
    overrides = {"data_root": "somewhere"}
    if name == "task":
        overrides.update(name="a", run_folder="b", manifest="c")
    else:
        assert len(file.read_text().splitlines()) <= 10
    settings = load_hparams(str(file), overrides)
    assert settings["metric"] == (
        "BLEU" if name.endswith(("_de", "_en")) else "WER"
    )
