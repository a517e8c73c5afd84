"""The library as someone uses it: short calls, and transformers' pipeline."""

import importlib
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RECIPE, write_settings
from exported import RATE, make_run, speech_like, write_wav
from transformers import AutoModelForCausalLM, AutoTokenizer

import speechllm
from speechbrain_ext.layers import load_pruned, measure
from speechbrain_ext.layers.lm_calls import decoder_layers
from speechllm.exported.model import ExportedSpeechLLM
from speechllm.kind import MODEL_TYPE
from speechllm.settings import load_hparams

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, decoder_folders, encoder_folders):
    """An exported folder."""
    from speechllm.export.write import export_runs

    top = tmp_path_factory.mktemp("api")
    run = make_run(
        top / "run", decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
    export_runs([run], str(top / "model"), tell=lambda line: None)
    return str(top / "model")


@pytest.fixture(scope="module")
def model(folder):
    """It, loaded."""
    return speechllm.load(folder, device="cpu")


# ----------------------------------------------------------------------------
# Layers.


def test_measure_takes_texts(decoder_folders):
    source = decoder_folders["qwen2"]
    lm = AutoModelForCausalLM.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    texts = ["one two three", "", "red", "four five"]
    table = speechllm.measure(lm, texts, tokenizer)
    batches = [
        {"input_ids": tokenizer(text, return_tensors="pt")["input_ids"]}
        for text in texts
        if text
    ]
    alone = measure(lm, batches)
    assert table.count == 3
    np.testing.assert_allclose(table.distances, alone.distances, atol=1e-6)
    assert repr(table) == "<RedundancyTable of a model: 5 layers, 3 sequences>"
    for given, words in (
        ((texts,), "texts need the model's tokenizer"),
        (("one text", tokenizer), "give a list of texts"),
        ((texts, "target"), "position by its name"),
    ):
        with pytest.raises(TypeError, match=words):
            measure(lm, *given)


def test_layers_are_a_list_and_not_a_number(decoder_folders):
    source = decoder_folders["llama"]
    lm = load_pruned(source, [2, 3])
    assert len(decoder_layers(lm)) == 3
    for wrong in (2, np.int64(2), "2-3"):
        with pytest.raises(TypeError, match=r"give a list, such as \[3, 4\]"):
            load_pruned(source, wrong)


# ----------------------------------------------------------------------------
# The package's own names.


def test_the_top_is_lazy_and_whole():
    code = (
        "import sys, speechllm\n"
        "assert 'torch' not in sys.modules and 'transformers' not in "
        "sys.modules\n"
        "print(*sorted(set(speechllm.__all__) - set(dir(speechllm))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    for name in speechllm.__all__:
        assert getattr(speechllm, name) is not None
    with pytest.raises(AttributeError, match="no attribute nothing"):
        speechllm.nothing


def test_what_is_public_is_annotated():
    from speechllm.exported.transcribe import Transcript

    lacking = []
    things = [speechllm.load, speechllm.measure, speechllm.drop_layers]
    things += [speechllm.load_pruned, speechllm.export_runs]
    for kind in (ExportedSpeechLLM, Transcript, speechllm.RedundancyTable):
        things += [
            value
            for name, value in inspect.getmembers(kind, callable)
            if name[0] != "_" and inspect.isroutine(value)
        ]
    for thing in things:
        signature = inspect.signature(thing)
        told = [
            one.annotation
            for name, one in signature.parameters.items()
            if name not in ("self", "cls")
        ]
        if inspect.Signature.empty in [*told, signature.return_annotation]:
            lacking.append(thing.__qualname__)
    assert lacking == []


def test_an_export_in_words_and_elsewhere(model):
    assert re.fullmatch(
        r"<ExportedSpeechLLM: asr; 3 layers, float32 on cpu>", repr(model)
    )
    assert model.to("cpu") is model and model.device == torch.device("cpu")
    with pytest.raises(ValueError, match="did you mean cuda"):
        model.to("gpu")


def test_audio_of_every_kind(model, tmp_path):
    path = write_wav(tmp_path / "a.wav")
    wav = speech_like(1.0)
    expected = model.transcribe((wav, RATE)).text
    assert expected
    hugging_face = {"array": wav, "sampling_rate": RATE, "path": None}
    for audio in (wav, torch.from_numpy(wav), hugging_face):
        assert model.transcribe(audio, sampling_rate=RATE).text == expected
    many = model.transcribe([wav, hugging_face], sampling_rate=RATE)
    assert [one.text for one in many] == [expected] * 2
    from_file = model.transcribe(path).text
    with open(path, "rb") as stream:
        content = stream.read()
        stream.seek(0)
        assert model.transcribe(stream).text == from_file
    assert model.transcribe(content).text == from_file
    with pytest.raises(TypeError, match="sampling_rate"):
        model.transcribe([wav])
    assert (
        model.transcribe(np.zeros(RATE, np.float32), sampling_rate=RATE).text
        == ""
    )


# ----------------------------------------------------------------------------
# transformers' pipeline.


def test_exports_are_registered_in_either_order(monkeypatch):
    """Where the pipelines are imported already, and where they are not yet."""
    import transformers.pipelines  # noqa: F401
    from transformers import CONFIG_MAPPING

    CONFIG_MAPPING._extra_content.pop(MODEL_TYPE, None)
    importlib.reload(speechllm)
    assert MODEL_TYPE in CONFIG_MAPPING
    told = []
    monkeypatch.setattr(speechllm, "_register", lambda: told.append(1))
    monkeypatch.setattr(speechllm._AfterPipelines, "NAME", "colorsys")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    before = len(sys.meta_path)
    finders = [speechllm._AfterPipelines(), *sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", finders)
    import colorsys

    assert told == [1] and colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
    assert len(sys.meta_path) == before


def test_the_pipeline_says_what_transcribe_says(folder, model):
    from transformers import pipeline

    pipe = pipeline("automatic-speech-recognition", folder, device="cpu")
    # The second is longer than a piece, the third is silent.
    wavs = [speech_like(1.0), speech_like(7.0, 1), np.zeros(RATE, np.float32)]
    expected = [model.transcribe(wav, sampling_rate=RATE).text for wav in wavs]
    assert [one["text"] for one in pipe(list(wavs))] == expected
    together = pipe(list(wavs), batch_size=3)
    assert [one["text"] for one in together] == expected
    (one,) = pipe([wavs[0]], generate_kwargs={"task": "asr"})
    assert one["text"] == expected[0]
    with pytest.raises(ValueError, match="'ast' is not in this model"):
        pipe(wavs[0], generate_kwargs={"task": "ast"})


# ----------------------------------------------------------------------------
# Loggers, as docs/logging.md has them.


def logged(tmp_path, monkeypatch, which, decoder, encoder):
    """The logger that one of the page's YAMLs makes over a recipe's."""
    monkeypatch.chdir(RECIPE)
    base = write_settings(tmp_path, decoder, encoder)
    yamls = re.findall(
        r"```yaml\n(.*?)```", (DOCS / "logging.md").read_text(), re.S
    )
    file = tmp_path / "mine.yaml"
    file.write_text(yamls[which].replace("qwen7b.yaml", base))
    overrides = {"data_folder": str(tmp_path), "results_folder": str(tmp_path)}
    return load_hparams(str(file), overrides)["train_logger"]


def test_tensorboard_is_a_line(
    tmp_path, monkeypatch, decoder_folders, encoder_folders
):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    parts = decoder_folders["qwen2"], encoder_folders["wavlm"]
    logger = logged(tmp_path, monkeypatch, 0, *parts)
    for step in (4, 8):
        logger.log_stats({}, {"step": step, "valid_loss": 1.0 / step})
    logger.writer.close()
    events = EventAccumulator(str(tmp_path / "base" / "tensorboard"))
    events.Reload()
    values = [one.value for one in events.Scalars("valid_loss/train")]
    assert values == pytest.approx([0.25, 0.125])


def test_wandb_is_a_line(
    tmp_path, monkeypatch, decoder_folders, encoder_folders
):
    told = []
    run = types.SimpleNamespace(log=lambda stats, **_: told.append(stats))
    asked = {}

    def init(**options):
        asked.update(options)
        return run

    wandb = types.ModuleType("wandb")
    wandb.init = init
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    parts = decoder_folders["qwen2"], encoder_folders["wavlm"]
    logger = logged(tmp_path, monkeypatch, 1, *parts)
    # SpeechBrain hands the initializer over: it is called when it logs.
    assert asked["project"] == "speech-llm" and asked["name"] == "base"
    logger.log_stats({}, {"step": 4, "valid_loss": 0.5})
    assert told == [{"train": {"step": 4, "valid_loss": 0.5}}]
