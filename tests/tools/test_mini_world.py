"""The mini world: its text, its speech, its corpus and its models.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import os
import random
import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from speechllm.export.parts import licence_of
from speechllm.mini_world.corpus.espeak import (
    _resample,
    check_voice,
    variants,
)
from speechllm.mini_world.corpus.librispeech import build_librispeech
from speechllm.mini_world.corpus.shapes import LANGUAGES
from speechllm.mini_world.corpus.speech import Utterance, add_tilt, speak
from speechllm.mini_world.corpus.text import (
    SPLITS,
    draw_sentences,
    draw_word_list,
    spoken_form,
    words,
)
from speechllm.mini_world.corpus.voices import variants_of
from speechllm.mini_world.pretrain import (
    decoders,
    encoders,
    front_ends,
    noisy_text,
    training,
)
from speechllm.mini_world.pretrain.command import (
    DECODERS,
    ENCODERS,
    MODELS,
    MODELS_FOLDER,
    pretrain,
)
from speechllm.mini_world.pretrain.tokens import (
    PROMPTS,
    Segmenter,
    train_tokenizer,
)
from speechllm.packaged import packaged_path

SIZES = {"train-clean-100": 12, "dev-clean": 3, "test-other": 3, "ood": 5}
# The others are made by `make mini-models`; what is there is looked at.
SHIPPED = [n for n in MODELS if os.path.isdir(os.path.join(MODELS_FOLDER, n))]
HPARAMS = os.path.join(os.path.dirname(__file__), "..", "..", "hparams")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("Qwen2")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return build_librispeech(str(folder), SIZES, seed=3)


# --- text -------------------------------------------------------------------


def test_splits_share_no_sentence():
    drawn = {}
    for split in SPLITS:
        for sentence in draw_sentences(split, 800, seed=5, unseen_shapes=0.2):
            # The same English has always the same translation.
            assert sentence.en not in drawn
            drawn[sentence.en] = split
    assert len(drawn) == 800 * len(SPLITS)


def test_same_seed_gives_same_sentences():
    first = draw_sentences("train", 50, seed=1)
    assert first == draw_sentences("train", 50, seed=1)
    assert first != draw_sentences("train", 50, seed=2)


def test_the_share_of_unseen_shapes_is_exact():
    # Only the shapes kept for this set start or go on like this.
    def unseen(text):
        starts = ("We ", "Tomorrow ", "At ", "From ")
        return text.startswith(starts)

    plain = draw_sentences("ood", 200, seed=0)
    mixed = draw_sentences("ood", 200, seed=0, unseen_shapes=0.2)
    assert sum(unseen(s.en) for s in plain) == 0
    assert sum(unseen(s.en) for s in mixed) == 40


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split: 'dev'.*dev-clean"):
        draw_sentences("dev", 1, seed=0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_word_lists_use_the_words_of_the_language(language):
    text = draw_word_list(language, random.Random(0))
    assert set(text.split()) <= set(words(language))
    assert text == spoken_form(text)


# --- speech -----------------------------------------------------------------


def test_speech_is_bit_identical_in_fresh_processes(tmp_path):
    # Breathy voices, whose noise depends on espeak's own chance, included.
    said = []
    for run in ("first", "second"):
        shard = [
            Utterance(str(tmp_path / run / f"{i}.flac"), text, voice, snr=20)
            for i, (text, voice) in enumerate(
                [
                    ("Anna reads.", "en-us+f2"),
                    ("Anna reads.", "en+Alicia"),
                    ("Où est la lampe ?", "fr+f5"),
                ]
            )
        ]
        speak([shard], str(tmp_path / run))
        said.append([open(u.path, "rb").read() for u in shard])
    assert said[0] == said[1]
    assert len(set(said[0])) == 3


@pytest.mark.parametrize("voice", ["en-gb+f2", "en-us+nobody", "en-us+croak"])
def test_unknown_voices_are_refused(voice):
    with pytest.raises(ValueError, match="unknown (base|variant)"):
        check_voice(voice)


@pytest.mark.parametrize("tract", [0.88, 1.13])
def test_another_throat_moves_the_formants_and_keeps_the_rate(tract, tmp_path):
    hertz = np.arange(44100) * 2 * np.pi / 22050
    peak = np.abs(np.fft.rfft(_resample(np.sin(1000 * hertz), tract))).argmax()
    samples = len(_resample(np.zeros(44100), tract))
    assert peak * 16000 / samples == pytest.approx(1000 * tract, rel=0.002)
    # A whole sentence, in a process of its own: espeak keeps state.
    text = "Please put the lamp on the table, Anna."
    shard = [
        Utterance(str(tmp_path / f"{t}.flac"), text, "en-us+f2", tract=t)
        for t in (1.0, tract)
    ]
    speak([[one] for one in shard], str(tmp_path))
    plain, moved = (soundfile.read(one.path)[0] for one in shard)
    assert len(moved) == pytest.approx(len(plain), rel=0.05)
    ratio = centroid(moved) / centroid(plain)
    assert min(1, tract) - 0.05 < ratio < max(1, tract) + 0.05
    assert abs(np.log(ratio)) > 0.3 * abs(np.log(tract))


def test_a_channel_has_its_colour():
    wav = np.random.default_rng(0).standard_normal(16000)
    for tilt in (-3, 2.5):
        power = np.abs(np.fft.rfft(add_tilt(wav, tilt))) ** 2
        power /= np.abs(np.fft.rfft(wav)) ** 2
        octave = 10 * np.log10(power[4000] / power[2000])
        assert octave == pytest.approx(tilt) and len(power) == 8001
        assert power[1000] == pytest.approx(1)


def centroid(wav_N):
    """Hertz around which the speech is, its pitch apart."""
    power = np.abs(np.fft.rfft(wav_N)) ** 2
    hertz = np.linspace(0, 8000, len(power))
    power[hertz < 300] = 0
    return (power * hertz).sum() / power.sum()


def test_a_failing_shard_says_why(tmp_path):
    shard = [Utterance(str(tmp_path / "a.flac"), "a", "xx+f2")]
    with pytest.raises(RuntimeError, match="unknown base 'xx'"):
        speak([shard], str(tmp_path))


def test_splits_share_no_voice_variant():
    groups = [variants_of(g) for g in ("train", "dev", "test", "ood")]
    names = [name for group in groups for name in group]
    assert sorted(names) == variants()


# --- corpus -----------------------------------------------------------------


def test_corpus_has_librispeechs_layout(corpus):
    for split, size in SIZES.items():
        found = 0
        for place, below, files in os.walk(os.path.join(corpus, split)):
            if below:
                continue
            chapter, reader = os.path.split(place)[1], place.split(os.sep)[-2]
            name = f"{reader}-{chapter}"
            assert name.replace("-", "").isdigit()
            with open(os.path.join(place, f"{name}.trans.txt")) as file:
                lines = dict(line.strip().split(" ", 1) for line in file)
            assert {f"{key}.flac" for key in lines} == {
                f for f in files if f.endswith(".flac")
            }
            for key, text in lines.items():
                assert text == spoken_form(text).upper()
                wav, rate = soundfile.read(os.path.join(place, f"{key}.flac"))
                assert rate == 16000 and wav.ndim == 1
                assert 0.5 < len(wav) / rate < 10 and abs(wav).max() > 0.5
            found += len(lines)
        assert found == size


def test_corpus_is_made_once(corpus):
    folder = os.path.dirname(corpus)
    before = os.stat(corpus).st_ino
    assert build_librispeech(folder, SIZES, seed=3) == corpus
    assert os.stat(corpus).st_ino == before


def test_real_corpus_is_never_overwritten(tmp_path):
    (tmp_path / "LibriSpeech" / "dev-clean").mkdir(parents=True)
    with pytest.raises(ValueError, match="not made by the mini world"):
        build_librispeech(str(tmp_path), SIZES)


def test_unknown_corpus_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown.*train-clean-360"):
        build_librispeech(str(tmp_path), {"train-clean-360": 1})


# --- tokens and examples ----------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS.values())
def test_parts_tokenised_apart_are_the_whole_tokenised(tokenizer, prompt):
    exact = Segmenter(tokenizer, 0).exact
    source, target = "anna reads", " Anna liest über Köln."
    parts = exact(source) + exact(prompt) + exact(target)
    assert parts == exact(source + prompt + target)
    assert tokenizer.decode(parts) == source + prompt + target


@pytest.mark.parametrize("dropout", [0.3, 1.0])
def test_smaller_tokens_spell_the_same_text(tokenizer, dropout):
    segment = Segmenter(tokenizer, 0)
    text = "où est la bouteille près du tableau"
    tokens = segment.noisy(text, dropout)
    assert tokenizer.decode(tokens) == text
    assert len(tokens) > len(segment.exact(text))


def test_begin_token_of_each_family():
    assert train_tokenizer("Qwen2").bos_token is None
    llama = train_tokenizer("Llama")
    assert llama("anna").input_ids[0] == llama.bos_token_id
    assert llama.pad_token is None


def test_labels_are_the_target_and_nothing_else():
    example = noisy_text.Example([1, 2, 3], [4, 5], [6, 7, 8])
    longer = noisy_text.Example([1] * 9, [4], [6, 7])
    tokens, labels, source = noisy_text.collate([example, longer], pad=0)
    assert labels[0, 4:7].tolist() == [6, 7, 8]
    assert (labels[0] >= 0).sum() == 3 and (labels[1] >= 0).sum() == 2
    assert source.sum(1).tolist() == [3, 9]
    # Each label is the token that follows.
    here = labels[:, :-1] >= 0
    assert torch.equal(labels[:, :-1][here], tokens[:, 1:][here])


# --- pretraining ------------------------------------------------------------


@pytest.mark.parametrize("family", ["Qwen2", "Llama"])
def test_a_few_steps_teach_a_decoder(family, tmp_path):
    one = decoders.DecoderTraining(
        family,
        str(tmp_path / "model"),
        steps=30,
        batch=8,
        learning_rate=1e-2,
        layers=2,
        width=64,
        sentences=200,
    )
    losses = [one.step() for _ in range(30)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_residual_scaling_shrinks_what_layers_add(tokenizer):
    torch.manual_seed(0)
    plain = decoders.build_decoder("Qwen2", tokenizer, 8, 64)
    torch.manual_seed(0)
    scaled = decoders.build_decoder("Qwen2", tokenizer, 8, 64, True)
    for one, other in zip(plain.model.layers, scaled.model.layers):
        expected = one.mlp.down_proj.weight / 4
        torch.testing.assert_close(other.mlp.down_proj.weight, expected)
        assert torch.equal(one.mlp.up_proj.weight, other.mlp.up_proj.weight)


@pytest.mark.parametrize("kind", ["wavlm", "whisper"])
def test_a_few_steps_teach_an_encoder(kind, tmp_path):
    one = encoders.EncoderTraining(
        kind,
        {"en": 8},
        str(tmp_path / "model"),
        str(tmp_path / "speech"),
        steps=12,
        seconds=10,
        held_out=1,
    )
    losses = [one.step() for _ in range(12)]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_whisper_encodes_full_inputs_as_hugging_face_does():
    net = front_ends.WhisperFrontEnd().eval()
    mels = torch.randn(2, 80, 100 * net.SECONDS)
    with torch.no_grad():
        expected = net.model.encoder(mels).last_hidden_state
        found = front_ends.encode(net.model.encoder, mels)
    torch.testing.assert_close(found, expected)


def test_record_goes_on_from_the_earlier_stage(tmp_path):
    small = {"batch": 2, "layers": 1, "width": 64, "sentences": 20}
    first = str(tmp_path / "first")
    pretrain("mini-qwen2", first, steps=2, **small)
    folder = os.path.join(first, "mini-qwen2")
    log = pretrain(
        "mini-qwen2", str(tmp_path), steps=3, start_from=folder, **small
    )
    with open(tmp_path / "mini-qwen2" / "training.json") as file:
        stages = json.load(file)["stages"]
    assert [s["settings"]["steps"] for s in stages] == [2, 3]
    assert stages[1]["figures"] == log[-1]


def test_start_from_takes_the_weights(tmp_path, tokenizer):
    kept = decoders.build_decoder("Qwen2", tokenizer, 1, 64)
    training.save(kept, tokenizer, str(tmp_path / "kept"))
    one = decoders.DecoderTraining(
        "Qwen2",
        str(tmp_path / "new"),
        layers=1,
        width=64,
        sentences=5,
        start_from=str(tmp_path / "kept"),
    )
    for new, old in zip(one.model.parameters(), kept.parameters()):
        torch.testing.assert_close(new, old.half().float())


def test_unknown_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mini-gpt.*mini-qwen2"):
        pretrain("mini-gpt", str(tmp_path))


# --- shipped models ---------------------------------------------------------


def test_what_the_recipes_need_is_shipped():
    assert {"mini-qwen2", "mini-llama", "mini-wavlm"} <= set(SHIPPED)


def test_shipped_models_are_small():
    sizes = [
        os.path.getsize(os.path.join(place, file))
        for place, _, files in os.walk(MODELS_FOLDER)
        for file in files
    ]
    assert sum(sizes) <= 24e6


def test_shipped_models_say_their_licence_wherever_they_are(monkeypatch):
    told = {}
    monkeypatch.setattr("setuptools.setup", lambda **how: told.update(how))
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    runpy.run_path("setup.py")
    package = root / "speechllm/mini_world"
    shipped = {
        file
        for pattern in told["package_data"]["speechllm.mini_world"]
        for file in package.glob(pattern)
    }
    for name in SHIPPED:
        folder = os.path.join(MODELS_FOLDER, name)
        assert licence_of(folder) == {"license": "apache-2.0"}, name
        assert package / "models" / name / "README.md" in shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_record_their_training(name):
    with open(os.path.join(MODELS_FOLDER, name, "training.json")) as file:
        record = json.load(file)
    assert record["model"] == name
    for stage in record["stages"]:
        settings = stage["settings"]
        last = settings.get("stopped_at", settings["steps"])
        assert stage["figures"]["step"] == last


@pytest.mark.parametrize("name", [n for n in SHIPPED if n in DECODERS])
def test_shipped_decoder_copies_clean_text(name):
    folder = os.path.join(MODELS_FOLDER, name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    right = 0
    sentences = draw_sentences("test-clean", 40, seed=1)
    for sentence in sentences:
        text = spoken_form(sentence.en)
        ids = tokenizer(text + PROMPTS["transcribe"], return_tensors="pt")
        out = model.generate(
            **ids,
            max_new_tokens=60,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
        said = tokenizer.decode(
            out[0, ids.input_ids.shape[1] :], skip_special_tokens=True
        )
        right += said == " " + text
    assert right >= 0.95 * len(sentences)


@pytest.mark.parametrize("name", [n for n in SHIPPED if n in ENCODERS])
def test_shipped_encoder_loads_and_sees_speech(name):
    folder = os.path.join(MODELS_FOLDER, name)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    assert model.config.model_type in name
    assert sum(p.numel() for p in model.parameters()) < 1.2e6
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "file",
    [f"backbones/{n}.yaml" for n in DECODERS if n in SHIPPED]
    + [f"encoders/{n}.yaml" for n in ENCODERS if n in SHIPPED],
)
def test_yaml_names_a_shipped_model(file):
    path = os.path.join(HPARAMS, file)
    with open(path) as stream:
        fields = yaml.safe_load(stream)
    source = packaged_path(fields["source"])
    with open(os.path.join(source, "config.json")) as stream:
        config = json.load(stream)
    kind = fields.get("family", fields.get("kind"))
    assert config["model_type"] == kind.lower()
    assert fields["name"] == os.path.basename(source)
