"""Anyone's own recordings: four forms, the split by speaker, every refusal."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipe_scripts import RECIPES, load_script, quick, run_command, train
from safetensors.torch import load_file

from speechbrain_ext.data.audio import read_place
from speechbrain_ext.data.augment import perturbed
from speechbrain_ext.data.manifests import PreparationError
from speechbrain_ext.data.rows import read_manifest
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.speech_llm import SpeechLLM
from speechbrain_ext.runs.reading import read_utterances
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training.faults import ConfigError

RECIPE = RECIPES / "OwnData/ASR/SpeechLLM"
REAL = os.environ.get("SPEECHLLM_REAL")
sys.path.insert(0, str(RECIPE))
import own_prepare  # noqa: E402

SPLIT = {"valid": 1, "test": 1, "seed": 1}
RATE = 16000


def voices():
    """Real recordings and their words where there are some, or none."""
    top = Path(REAL or "none", "LibriSpeech/train-clean-100")
    for file in sorted(top.rglob("*.flac"))[:10]:
        (table,) = file.parent.glob("*.trans.txt")
        rows = (line.split(" ", 1) for line in table.read_text().splitlines())
        yield file, dict(rows)[file.stem]


VOICES = list(voices())


def recording(file, seconds, seed=0, rate=RATE, channels=1):
    """Write a piece of speech, or of noise, to a file of any format."""
    file.parent.mkdir(parents=True, exist_ok=True)
    size = round(seconds * rate)
    if VOICES:
        wave, real = soundfile.read(VOICES[seed % len(VOICES)][0])
        wave = np.interp(np.arange(size) * real / rate, range(len(wave)), wave)
    else:
        wave = 0.2 * np.random.default_rng(seed).standard_normal(size)
    soundfile.write(file, np.stack([wave] * channels, 1).squeeze(), rate)


def said(speakers=5, each=2):
    """Name, speaker and text of some utterances."""
    words = [text for _, text in VOICES] or ["ONE RED DOG"]
    return [
        (f"s{who}-{index}", f"s{who}", words[(who * each + index) % len(words)])
        for who in range(speakers)
        for index in range(each)
    ]


# -- a folder for each form, all with one long recording of parts -------------


def as_kaldi(folder, rows):
    """With segments: each speaker is one recording."""
    speakers = list(dict.fromkeys(who for _, who, _ in rows))
    for seed, who in enumerate(speakers):
        recording(folder / f"audio/{who}.wav", 2.0, seed, 8000)
    data = folder / "data"
    data.mkdir()
    lines = {"wav.scp": [f"{who}\taudio/{who}.wav" for who in speakers]}
    lines["text"] = [f"{name} {text}" for name, _, text in rows]
    lines["utt2spk"] = [f"{name} {who}" for name, who, _ in rows]
    lines["segments"] = [
        f"{name} {who} {0.6 * (i % 2):.2f} {0.6 * (i % 2) + 0.5:.2f}"
        for i, (name, who, _) in enumerate(rows)
    ]
    for name, content in lines.items():
        (data / name).write_text("\n".join(content) + "\n")
    return ["--train_data=data"]


def as_nemo(folder, rows):
    """Files of their own, but for each speaker's second: a part."""
    with open(folder / "all.jsonl", "w") as stream:
        for seed, (name, who, text) in enumerate(rows):
            recording(folder / f"{name}.flac", 0.9, seed)
            row = {"audio_filepath": f"{name}.flac", "duration": 0.9}
            if name.endswith("1"):
                row = {**row, "offset": 0.3, "duration": 0.5}
            row |= {"text": text, "speaker": who}
            stream.write(json.dumps(row) + "\n")
    return []


def as_audiofolder(folder, rows):
    """Hugging Face's sets, a folder each."""
    sets = ["train", "train", "train", "validation", "test"]
    tables = {name: [] for name in sets}
    for seed, (name, who, text) in enumerate(rows):
        place = sets[int(who[1:])]
        recording(folder / place / f"{name}.ogg", 0.6, seed)
        tables[place].append((f"{name}.ogg", text, who))
    for place, table in tables.items():
        with open(folder / place / "metadata.csv", "w", newline="") as stream:
            head = ("file_name", "transcription", "speaker_id")
            csv.writer(stream).writerows([head, *table])
    return []


def as_csv(folder, rows):
    """Semicolons, a column of sets, parts, and no speaker."""
    recording(folder / "long.wav", 10, 3, 22050, 2)
    with open(folder / "own.csv", "w", newline="") as stream:
        table = csv.writer(stream, delimiter=";")
        table.writerow(["Path", "Transcript", "start", "end", "split"])
        sets = {"s3": "dev", "s4": "test"}
        for index, (_, who, text) in enumerate(rows):
            start = 0.7 * index
            row = ["long.wav", text, start, start + 0.5, sets.get(who, "")]
            table.writerow(row)
    return ["--mix_channels=True"]


FORMS = {
    "kaldi": as_kaldi,
    "nemo": as_nemo,
    "audiofolder": as_audiofolder,
    "csv": as_csv,
}


def options_for(tmp_path, decoder_folders, encoder_folders, **more):
    """What makes small.yaml a matter of seconds on tiny models."""
    return [
        *quick(
            tmp_path / "results",
            decoder_folders["llama"],
            encoder_folders["whisper"],
            "whisper",
            **{"backbone.family": "Llama", "downsampling": 3, **more},
        ),
        "--device=cpu",
    ]


@pytest.mark.parametrize("form", FORMS)
def test_from_each_form_to_a_pruned_model(
    form, tmp_path, decoder_folders, encoder_folders
):
    """As typed: a baseline, then its layers go; both score the same set."""
    data = tmp_path / "data of mine"
    data.mkdir()
    rows = said()
    options = [f"--data_folder={data}", "--split.valid=1", "--split.test=1"]
    options += FORMS[form](data, rows)
    options += options_for(tmp_path, decoder_folders, encoder_folders)
    told = run_command(RECIPE, "train.py", "hparams/small.yaml", *options)
    log = (tmp_path / "results/small/log.txt").read_text() + told
    assert f"is read as {form}, by its looks" in log
    whole = load_run(tmp_path / "results/small")
    counts = {k: v["utterances"] for k, v in whole.data.items()}
    assert counts == {"train": 6, "valid": 2, "test": 2}
    assert whole.validation["kept_step"] == 2
    if form == "csv":
        assert whole.scores["test"].speakers is None
    else:
        assert whole.scores["test"].speakers == 1
    said_there = read_utterances(
        tmp_path / "results/small/hypotheses-test.jsonl"
    )
    texts = {text.lower() for _, _, text in rows}
    assert {row["reference"] for row in said_there} <= texts
    lengths = {"kaldi": 0.5, "csv": 0.5, "audiofolder": 0.6}
    if form in lengths:
        found = [row["duration"] for row in said_there]
        assert found == pytest.approx([lengths[form]] * 2, abs=0.05)
    pruned = train(RECIPE, "small_prune.yaml", [*options, "--prune_layers=2"])
    assert (pruned.status, pruned.removed) == ("done", 2)
    assert list(pruned.scores) == ["test"]


def test_a_run_from_before_these_keys_is_still_finished(
    tmp_path, decoder_folders, encoder_folders
):
    data = simple(tmp_path / "data")
    options = [f"--data_folder={data}", "--split.valid=1", "--split.test=1"]
    options += options_for(tmp_path, decoder_folders, encoder_folders)
    train(RECIPE, "small.yaml", options)
    file = tmp_path / "results/small/result.json"
    result = json.loads(file.read_text())
    for key in ("start_from", "projector_dropout", "weight_decay"):
        del result["configuration"][key]
    for key in ("speed_perturb", "noise_snr"):
        del result["configuration"][key]
    del result["configuration"]["split"]["test_speakers"]
    result["made_by"] = "before"
    file.write_text(json.dumps(result))
    assert train(RECIPE, "small.yaml", options).finished == result["finished"]
    with pytest.raises(ValueError, match="weight_decay: 0.0 there, 0.1 here"):
        train(RECIPE, "small.yaml", [*options, "--weight_decay=0.1"])


def test_mini_tries_ones_data_on_the_models_that_are_shipped(tmp_path):
    data = simple(tmp_path / "data")
    options = [f"--data_folder={data}", "--split.valid=1", "--split.test=1"]
    options += [f"--results_folder={tmp_path / 'results'}", "--device=cpu"]
    short = ["--steps=2", "--warmup_steps=0", "--warmdown_steps=2"]
    short += ["--max_new_tokens=4"]
    whole = train(RECIPE, "mini.yaml", [*options, *short])
    assert (whole.status, whole.layers, whole.steps) == ("done", 12, 2)
    assert whole.backbone == "mini-qwen2" and list(whole.scores) == ["test"]
    pruned = train(RECIPE, "mini_prune.yaml", [*options, *short])
    assert (pruned.status, pruned.removed) == ("done", 2)


# -- real voices ---------------------------------------------------------------


@pytest.mark.skipif(not VOICES, reason="SPEECHLLM_REAL names no folder")
def test_real_recordings_and_their_parts(
    tmp_path, decoder_folders, encoder_folders
):
    """Real speech in a Kaldi folder: an utterance, and a part that is it."""
    data, lines = tmp_path / "data", {"wav.scp": [], "text": [], "utt2spk": []}
    lines["segments"] = []
    data.mkdir()
    for file, words in VOICES[:4]:
        name, quiet = file.stem, np.zeros(RATE // 2)
        wave, _ = soundfile.read(file, stop=int(1.8 * RATE))
        soundfile.write(
            data / f"{name}.flac", np.concatenate([quiet, wave]), RATE
        )
        np.save(data / f"{name}.npy", wave)
        lines["wav.scp"].append(f"{name} {name}.flac")
        lines["text"].append(f"{name} {words}")
        lines["utt2spk"].append(f"{name} {name.split('-')[0]}")
        lines["segments"].append(f"{name} {name} 0.5 -1")
    for name, content in lines.items():
        (data / name).write_text("\n".join(content) + "\n")
    options = options_for(tmp_path, decoder_folders, encoder_folders)
    result = train(
        RECIPE,
        "small.yaml",
        [
            f"--data_folder={data}",
            "--split.valid=1",
            "--split.test=1",
            *options,
        ],
    )
    assert result.status == "done" and result.data["train"]["utterances"] == 2
    for name in ("train", "valid", "test"):
        rows = read_manifest(
            tmp_path / f"results/manifests/{name}.csv", str(data)
        )
        for key, row in rows.items():
            wave = np.load(data / f"{key}.npy")
            found = read_place(row["wav"]).numpy()
            assert np.abs(found - wave).max() < 1e-4
            assert row["duration"] == pytest.approx(len(wave) / RATE)


# -- preparation alone ----------------------------------------------------------


def prepare(data, out, splits=("train", "valid", "test"), **options):
    """Prepare; gives the manifests' rows by split."""
    given = {
        k: options.pop(f"{k}_data", None) for k in ("train", "valid", "test")
    }
    options.setdefault("split", SPLIT)
    root = own_prepare.prepare_own(
        str(data), str(out), list(splits), given, **options
    )
    return {
        name: read_manifest(Path(out) / f"{name}.csv", root) for name in splits
    }


def simple(folder, rows=None, **columns):
    """A CSV with a recording for each row."""
    rows = said() if rows is None else rows
    folder.mkdir(exist_ok=True)
    with open(folder / "own.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "text", "speaker", *columns])
        for index, (name, who, text) in enumerate(rows):
            recording(folder / f"{name}.wav", 0.3, index)
            more = [values[index] for values in columns.values()]
            table.writerow([f"{name}.wav", text, who, *more])
    return folder


def test_speakers_are_drawn_whole_and_the_same_each_time(tmp_path):
    data = simple(tmp_path / "data", said(12, 3))
    split = {"valid": 2, "test": 0.25, "seed": 1}
    sets = prepare(data, tmp_path / "a", split=split)
    who = {k: {r["spk_id"] for r in rows.values()} for k, rows in sets.items()}
    assert [len(who[name]) for name in sets] == [7, 2, 3]
    assert not who["train"] & who["test"] and not who["valid"] & who["test"]
    assert sum(map(len, sets.values())) == 36
    # Not by the order of the lines, nor by which sets are asked for.
    lines = (data / "own.csv").read_text().splitlines()
    (data / "own.csv").write_text("\n".join([lines[0], *lines[:0:-1]]))
    again = prepare(data, tmp_path / "b", split=split)
    assert {k: set(v) for k, v in again.items()} == {
        k: set(v) for k, v in sets.items()
    }
    untested = prepare(data, tmp_path / "c", ["train", "valid"], split=split)
    assert set(untested["train"]) == set(sets["train"])
    other = prepare(data, tmp_path / "d", split={**split, "seed": 2})
    assert set(other["test"]) != set(sets["test"])


def test_without_speakers_recordings_are_drawn_and_told(tmp_path, caplog):
    data = simple(tmp_path / "data", [(n, "", t) for n, _, t in said()])
    sets = prepare(data, tmp_path / "out")
    assert [len(rows) for rows in sets.values()] == [8, 1, 1]
    assert "10 of 10 utterances have no speaker" in caplog.text


def test_what_is_given_is_not_drawn(tmp_path, caplog):
    data = tmp_path / "data"
    data.mkdir()
    simple(data / "train")
    simple(data / "test", said(1))
    simple(data / "phone", [("p", "s0", "HELLO")])
    sets = prepare(data, tmp_path / "out", ["train", "valid", "test", "phone"])
    assert [len(rows) for rows in sets.values()] == [8, 2, 2, 1]
    assert "test: 1 of its speakers are in train too (s0)" in caplog.text
    with pytest.raises(PreparationError, match="radio: .* no folder or table"):
        prepare(data, tmp_path / "out", ["train", "valid", "radio"])
    sets = prepare(
        data, tmp_path / "new", ["train", "valid"], valid_data="test"
    )
    assert [len(rows) for rows in sets.values()] == [10, 2]


def test_the_first_speakers_of_a_test_set_may_do(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    simple(data / "train")
    rows = [(f"t{i}", f"w{(5 - i) // 2}", "HELLO") for i in range(6)]
    simple(data / "test", rows)
    split = {**SPLIT, "test_speakers": 2}
    sets = prepare(data, tmp_path / "out", split=split)
    assert {r["spk_id"] for r in sets["test"].values()} == {"w0", "w1"}
    assert len(sets["test"]) == 4 and len(sets["train"]) == 8
    # The others of a drawn test set are not trained on either.
    drawn = {"valid": 1, "test": 3, "seed": 1}
    every = prepare(data / "train", tmp_path / "all", split=drawn)
    few = prepare(
        data / "train", tmp_path / "few", split={**drawn, "test_speakers": 1}
    )
    assert set(few["train"]) == set(every["train"]) and len(few["test"]) == 2
    assert set(few["test"]) < set(every["test"])
    more = prepare(data, tmp_path / "more", split={**split, "test_speakers": 9})
    assert len(more["test"]) == 6


def test_the_manifests_stay_until_something_changes(tmp_path):
    data, out = simple(tmp_path / "data"), tmp_path / "out"

    def written():
        prepare(data, out)
        return [os.stat(out / f"{n}.csv").st_ino for n in ("train", "test")]

    first = written()
    assert written() == first
    assert prepare(data, out, skip_prep=True)
    table = data / "own.csv"
    table.write_text(table.read_text().replace("E", "A"))
    assert written() != first


def test_copies_are_rows_of_their_own_with_features_of_their_own(
    tmp_path, decoder_folders, encoder_folders
):
    data = simple(tmp_path / "data")
    options = [f"--data_folder={data}", "--split.valid=1", "--split.test=1"]
    options += options_for(tmp_path, decoder_folders, encoder_folders)
    options += ["--speed_perturb=[0.8, 1.25]", "--noise_snr=[10]"]
    options += ["--projector_dropout=0.1", "--weight_decay=0.01"]
    module = load_script(RECIPE, "train")
    file = str(RECIPE / "hparams/small.yaml")
    experiment = module.prepare_experiment([file, *options])
    train = experiment.datasets["train"]
    names = list(train.data_ids)
    assert len(names) == 24 and len(set(names)) == 24
    assert len(experiment.datasets["valid"]) == 2
    base = names[0]
    copies = [base, f"{base}@0.8x", f"{base}@1.25x", f"{base}@10dB"]
    wavs = [train[names.index(name)]["sig"] for name in copies]
    assert [len(wav) for wav in wavs] == [4800, 6000, 3840, 4800]
    seconds = [train.data[name]["duration"] for name in copies]
    assert seconds == pytest.approx([0.3, 0.375, 0.24, 0.3])
    assert (wavs[3] - train[names.index(copies[3])]["sig"]).abs().max() == 0
    # Each utterance has noise of its own.
    pair = [perturbed(wavs[0], name, {"snr": 10}) for name in "ab"]
    assert not pair[0].equal(pair[1])
    # SpeechBrain's noise replaces a share of the speech.
    speech = wavs[0] @ wavs[3] / (wavs[0] @ wavs[0])
    noise = wavs[3] - speech * wavs[0]
    ratio = 20 * (speech * wavs[0].norm() / noise.norm()).log10()
    assert float(ratio) == pytest.approx(10, abs=1)
    result = experiment.run()
    assert result.status == "done"
    assert result.data["train"]["utterances"] == 24
    features = experiment.datasets["train"]
    kept = {name: features[names.index(name)]["features"] for name in copies}
    frames = [len(kept[name]) for name in copies]
    assert frames[2] < frames[0] == frames[3] < frames[1]
    assert not kept[copies[0]].equal(kept[copies[3]])


def test_training_starts_from_another_run(
    tmp_path, decoder_folders, encoder_folders
):
    data = simple(tmp_path / "data")
    options = [f"--data_folder={data}", "--split.valid=1", "--split.test=1"]
    options += options_for(tmp_path, decoder_folders, encoder_folders)
    first = train(RECIPE, "small.yaml", options)
    place = tmp_path / "results/small"
    again = ["--run_name=again", f"--start_from={place}", "--steps=0"]
    again += ["--warmdown_steps=0", "--seed=5"]
    second = train(RECIPE, "small.yaml", [*options, *again])
    # Untrained, it is the run that it started from.
    assert second.validation["final_loss"] == pytest.approx(
        first.validation["final_loss"]
    )
    assert second.removed == 0 and not second.configuration["baseline"]
    # A baseline of its own right: layers are cut from it, not from the first.
    pruned = ["--baseline", str(tmp_path / "results/again"), "--run_name=cut"]
    cut = train(
        RECIPE, "small_prune.yaml", [*options, *pruned, "--prune_layers=2"]
    )
    assert cut.status == "done"
    with pytest.raises(ValueError, match="downsampling: 4, but"):
        train(RECIPE, "small.yaml", [*options, *again, "--downsampling=4"])
    told = "start_from.*, but baseline .* is given too"
    both = ["--baseline", str(place), f"--start_from={place}"]
    with pytest.raises(ConfigError, match=told):
        train(RECIPE, "small_prune.yaml", [*options, *both, "--prune_layers=2"])
    lora = ["--run_name=lora", "--adapt_attention=True"]
    train(RECIPE, "small.yaml", [*options, *lora])
    place = tmp_path / "results/lora"
    adapted = ["--run_name=next", f"--start_from={place}"]
    with pytest.raises(ValueError, match="start_from: .* adapted decoder"):
        train(RECIPE, "small.yaml", [*options, *adapted])


def test_words_read_off_the_speech_are_a_start(
    tmp_path, decoder_folders, encoder_folders, monkeypatch
):
    # No more tokens than speech, whatever recordings there are.
    rows = [(name, who, f"A {name[1]}") for name, who, _ in said()]
    data = simple(tmp_path / "data", rows)
    options = [f"--data_folder={data}", "--split.valid=1", "--split.test=1"]
    options += options_for(tmp_path, decoder_folders, encoder_folders)
    ctc = ["--objective=ctc", "--test_splits=[]", "--run_name=aligned"]
    ctc += ["--steps=40", "--warmdown_steps=20", "--lr_projector=0.01"]

    def heard(*_):
        raise AssertionError("the LLM was run")

    with monkeypatch.context() as patch:
        patch.setattr(SpeechLLM, "forward", heard)
        patch.setattr(Decoder, "hidden", heard)
        first = train(RECIPE, "small.yaml", [*options, *ctc])
        losses = [entry["train_loss"] for entry in first.validation["history"]]
        assert losses[-1] < losses[0] / 2
        # Finished, it is not begun again.
        assert train(RECIPE, "small.yaml", [*options, *ctc]) == first
        with pytest.raises(AssertionError, match="the LLM was run"):
            plain = ["--run_name=plain", "--test_splits=[]"]
            train(RECIPE, "small.yaml", [*options, *plain])
    place = tmp_path / "results/aligned"
    start = ["--run_name=next", f"--start_from={place}", "--steps=0"]
    train(RECIPE, "small.yaml", [*options, *start, "--warmdown_steps=0"])
    before, after = (
        load_file(tmp_path / f"results/{name}/trained/projector.safetensors")
        for name in ("aligned", "next")
    )
    assert all(after[key].equal(before[key]) for key in before)
    for more in ("--adapt_attention=True", "--prune_layers=2"):
        with pytest.raises(ConfigError, match="trains a projector alone"):
            train(RECIPE, "small.yaml", [*options, *ctc, more])


def test_a_translation_is_the_target(
    tmp_path, decoder_folders, encoder_folders
):
    german = [f"Ein roter Hund {i}." for i in range(10)]
    data = simple(tmp_path / "data", translation=german)
    options = [f"--data_folder={data}", "--split.valid=1", "--split.test=1"]
    options += options_for(tmp_path, decoder_folders, encoder_folders)
    result = train(RECIPE, "small_translate.yaml", options)
    assert result.task == "AST en-de" and result.scores["test"].metric == "BLEU"
    rows = read_utterances(
        tmp_path / "results/small_translate/hypotheses-test.jsonl"
    )
    assert {row["reference"] for row in rows} <= set(german)
    told = "target_language: None: .*small_translate.yaml"
    with pytest.raises(PreparationError, match=told):
        train(
            RECIPE,
            "small.yaml",
            [*options, "--task=AST en-de", "--run_name=half"],
        )
    with pytest.raises(ConfigError, match="split.dev"):
        train(RECIPE, "small.yaml", [*options, "--split={dev: 3}"])


# -- what is refused -------------------------------------------------------------


def kaldi(folder, **files):
    """A Kaldi folder with two recordings, some of its files as given."""
    for index, name in enumerate("ab"):
        recording(folder / f"{name}.wav", 1.0, index)
    texts = {"wav.scp": "a a.wav\nb b.wav\n", "text": "a ONE\nb TWO\n"}
    texts |= {k.replace("wav_scp", "wav.scp"): v for k, v in files.items()}
    for name, text in texts.items():
        (folder / name).write_text(text)


def table(text):
    """Make a CSV beside one recording."""

    def make(folder):
        recording(folder / "a.wav", 1.0)
        (folder / "own.csv").write_bytes(text.encode("latin-1"))

    return make


def lines(*rows):
    """Make JSON lines beside one recording."""

    def make(folder):
        recording(folder / "a.wav", 1.0)
        (folder / "m.jsonl").write_text("\n".join(rows))

    return make


def kaldi_with(**files):
    return lambda folder: kaldi(folder, **files)


def stereo(folder):
    recording(folder / "a.wav", 1.0, channels=2)
    (folder / "own.csv").write_text("path,text\na.wav,ONE\n")


CUT = '{"audio_filepath": "a.wav", "text": "ONE", "offset": %s, "duration": %s}'
FAULTS = {
    "nothing": (lambda f: f.mkdir(exist_ok=True), "none of the four forms"),
    "no text": (
        lambda f: (kaldi(f), (f / "text").unlink()),
        "no text .there is.*has wav.scp and text",
    ),
    "a command": (
        kaldi_with(wav_scp="a touch HERE && cat a.wav |\nb b.wav\n"),
        r"a: a command, no file: 'touch HERE .* is not run: write.*wav.scp, line 1",
    ),
    "twice": (
        kaldi_with(text="a ONE\nb TWO\na THREE\n"),
        r"text: 1 keys stand there twice, as a \(text, line 1, and line 3\)",
    ),
    "no recording": (
        kaldi_with(text="a ONE\nb TWO\nc THREE\n"),
        "c: transcript without audio: it is not in wav.scp: text, line 3",
    ),
    "no transcript": (
        kaldi_with(text="a ONE\n"),
        "b: audio without transcript: .*wav.scp, line 2",
    ),
    "other recording": (
        kaldi_with(segments="a x 0 1\nb b 0 1\n"),
        "a: segment without recording: x not in wav.scp: segments, line 1",
    ),
    "short segment": (
        kaldi_with(segments="a a\nb b 0 1\n"),
        "a: no segment: 'a': write RECORDING START END: segments, line 1",
    ),
    "a command cut": (
        kaldi_with(
            segments="x a 0 1\ny b 0 1\n",
            text="x ONE\ny TWO\n",
            wav_scp="a a.wav\nb | cat b.wav\n",
        ),
        "y: a command, no file: .*wav.scp, line 2",
    ),
    "backwards": (
        kaldi_with(segments="a a 0.8 0.2\nb b 0 1\n"),
        "a: empty part: from 0.8 to 0.2 s: give a start.*segments, line 1",
    ),
    "no sample": (
        kaldi_with(segments="a a 0.5 0.50001\nb b 0 1\n"),
        "a: empty part: 0.5 to 0.50001 s holds no sample: .*give seconds",
    ),
    "beyond": (
        kaldi_with(segments="a a 0 1.4\nb b 0.2 2\n"),
        "1 bad .*b: part beyond its recording: 0.2 to 2 s of 1.00 s.*line 2",
    ),
    "no number": (
        lines(CUT % ('"soon"', 1)),
        "no number of seconds: .*'soon'.*m.jsonl, line 1",
    ),
    "not a number": (lines(CUT % ("NaN", 1)), "empty part"),
    "no JSON": (
        lines(CUT % (0, 1), "{oops"),
        "unreadable line: no JSON .*m.jsonl, line 2",
    ),
    "a list": (lines("[1]"), "a list: write one object a line"),
    "no audio named": (
        lines('{"text": "ONE"}'),
        "no audio named: give one of audio_filepath, file_name",
    ),
    "no column": (
        table("path,words\na.wav,ONE\n"),
        "no column for the text .there is path, words.: call it one of text",
    ),
    "columns": (
        table("path,text\na.wav,ONE, TWO\n"),
        "unreadable line: 3 columns, the head has 2 .quote.*own.csv, line 2",
    ),
    "quotes": (
        table('path,text\na.wav,"ONE\n'),
        "own.csv, line 2: no CSV .*check the quotes",
    ),
    "Latin-1": (table("path,text\na.wav,Wörter\n"), "is no UTF-8 at byte 17"),
    "absent": (
        table("path,text\nb.wav,ONE\n"),
        "b: absent audio: b.wav: no such file .in .*own.csv, line 2",
    ),
    "empty": (
        table("path,text\na.wav, \n"),
        "a: empty transcript: own.csv, line 2",
    ),
    "same": (
        table("path,text\na.wav,ONE\na.wav,TWO\n"),
        "a: duplicate id: 2 times: own.csv, line 2",
    ),
    "unknown split": (
        table("path,text,split\na.wav,ONE,trial\n"),
        "unknown split: 'trial': choose train.*own.csv, line 2",
    ),
    "broken": (
        lambda f: (
            table("path,text\na.wav,ONE\n")(f),
            (f / "a.wav").write_text("no"),
        ),
        "a: broken audio: .*a.wav.*own.csv, line 2",
    ),
    "stereo": (stereo, "2 channels.*mix_channels: True"),
    "two tables": (
        lambda f: (
            table("path,text\n")(f),
            shutil.copy(f / "own.csv", f / "x.csv"),
        ),
        "holds several tables, .*--train_data FILE",
    ),
    "no rows": (table("path,text\n"), "own.csv: holds no utterance"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_says_where_and_what_to_do(tmp_path, fault, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, told = FAULTS[fault]
    data = tmp_path / "data"
    data.mkdir()
    make(data)
    with pytest.raises(PreparationError, match=f"(?s){told}"):
        prepare(
            data,
            tmp_path / "out",
            ["train"],
            split={"valid": None, "test": None, "seed": 1},
        )
    assert not list(tmp_path.rglob("HERE"))
    assert not (tmp_path / "out/train.csv").exists()


@pytest.mark.parametrize(
    "split, told",
    [
        ({"valid": 3, "test": 2}, "split.valid: 3, split.test: 2: of 5 speak"),
        ({"valid": None, "test": 1}, "valid: no utterance: .*--split.valid 10"),
    ],
)
def test_a_draw_that_cannot_be(tmp_path, split, told):
    data = simple(tmp_path / "data")
    with pytest.raises(PreparationError, match=told):
        prepare(data, tmp_path / "out", split={**split, "seed": 1})


def test_bad_utterances_may_be_left_out(tmp_path):
    data = tmp_path / "data"
    kaldi(data, wav_scp="a a.wav\nb cat b.wav |\n", text="a ONE\nb TWO\n")
    none = {"valid": None, "test": None, "seed": 1}
    sets = prepare(data, tmp_path / "out", ["train"], split=none, skip_bad=True)
    assert list(sets["train"]) == ["a"]
    left = (tmp_path / "out/train-left-out.csv").read_text()
    assert "a command, no file" in left and "wav.scp, line 2" in left
