"""CoVoST 2: what the prepare script refuses, the recipe, its scores."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import pretend_baseline
from encoded import write_encoded
from recipe_scripts import RECIPES, load_script, quick, run_command, train

from speechbrain_ext.data import audio_file
from speechbrain_ext.data import manifests as clips
from speechbrain_ext.data.audio import read_utterance
from speechbrain_ext.data.rows import read_manifest
from speechbrain_ext.data.sets import durations
from speechbrain_ext.runs.reading import read_utterances
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.training.settings import speechllm_rules
from speechllm.settings import load_hparams

ROOT = Path(__file__).parents[2]
RECIPE = RECIPES / "CoVoST2/AST/SpeechLLM"
PUBLISHED = ROOT / "tests/published_configs"
sys.path.insert(0, str(RECIPE))
from covost2_prepare import PreparationError, prepare_covost2  # noqa: E402

SECONDS = {}  # of the clips that were written, before they were encoded
GERMAN = ["Rot, eins!", 'Er sagt "zwei".', "Drei $5 Katzen", "Blau und Grün"]


def write_table(path, rows):
    """As CoVoST's own script does: nothing quoted, backslash escapes."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(
            stream, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"
        )
        writer.writerow(["path", "sentence", "translation", "client_id"])
        writer.writerows(rows)


def write_release(folder, language="en", pair="en_de", sizes=(8, 4, 4)):
    """A tiny Common Voice release with CoVoST's tables beside its clips.

    The clips are as Common Voice has them: MP3 out of a pipe, with a tag.
    """
    random = np.random.default_rng(4)
    folder = Path(folder)
    (folder / "clips").mkdir(parents=True)
    number = 100
    for split, size in zip(("train", "dev", "test"), sizes):
        rows = []
        for index in range(size):
            number += 1
            name = f"common_voice_{language}_{number}.mp3"
            seconds = random.uniform(0.4, 0.9)
            write_encoded(
                folder / "clips" / name, "streamed.mp3", seconds, number
            )
            SECONDS[name] = seconds
            speaker = f"client{index % 3}"
            german = GERMAN[index % len(GERMAN)]
            rows.append([name, "One red cat.", german, speaker])
        write_table(folder / f"covost_v2.{pair}.{split}.tsv", rows)
    return folder


@pytest.fixture
def release(tmp_path):
    """A release of one's own, to be damaged."""
    return write_release(tmp_path / "en")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound release; read only."""
    return write_release(tmp_path_factory.mktemp("cv") / "en")


def rewrite(release, change, split="dev"):
    """Let a function change the lines of a split's table."""
    table = release / f"covost_v2.en_de.{split}.tsv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")


def prepared(release, out, splits=("dev",), **options):
    """Prepare En-De; gives the rows of the dev manifest."""
    root = prepare_covost2(release, str(out), "en", "de", splits, **options)
    return read_manifest(out / f"en_de_{splits[0]}.csv", root)


def test_a_table_that_is_no_manifest_is_told(tmp_path):
    file = tmp_path / "dev.tsv"
    file.write_text("path\tsentence\nclip\tYES\n")
    with pytest.raises(
        ValueError, match="dev.tsv.*no column ID, duration, wav"
    ):
        read_manifest(str(file))


def test_manifest_keeps_case_punctuation_and_dollars(whole, tmp_path):
    rows = prepared(whole, tmp_path)
    assert [row["translation"] for row in rows.values()] == GERMAN
    assert {row["spk_id"] for row in rows.values()} == {
        "client0",
        "client1",
        "client2",
    }
    for row in rows.values():
        # Whole frames, the encoder's delay among them, and nothing less.
        more = row["duration"] - SECONDS[Path(row["wav"]).name]
        assert 0 < more < 0.08
        wav_N = read_utterance(row["wav"], resample=True)
        assert row["duration"] == len(wav_N) / 16000


@pytest.mark.parametrize("check_audio", ["header", "full"])
def test_common_voices_clips_are_read_to_their_end(
    whole, tmp_path, check_audio
):
    clip = next((whole / "clips").iterdir())
    assert clip.read_bytes().startswith(b"ID3")
    rows = prepared(whole, tmp_path, check_audio=check_audio)
    for row in rows.values():
        wav_N = read_utterance(row["wav"], resample=True)
        assert row["duration"] == pytest.approx(len(wav_N) / 16000, abs=1e-4)
    flac = prepared(whole, tmp_path / "o", flac_folder=str(tmp_path / "flac"))
    for key, row in flac.items():
        assert row["duration"] == pytest.approx(rows[key]["duration"], abs=1e-4)


def test_a_bad_clip_is_told_whatever_library_stumbles(
    release, tmp_path, monkeypatch
):
    bad = "common_voice_en_109.mp3"
    read = audio_file.AudioFile._mono

    def stumble(sound, frame):
        if bad in sound.name:
            raise MemoryError("negative dimensions")
        return read(sound, frame)

    monkeypatch.setattr(audio_file.AudioFile, "_mono", stumble)
    with pytest.raises(PreparationError, match=f"{bad}.*negative dim"):
        prepared(release, tmp_path)
    assert len(prepared(release, tmp_path, skip_bad=True)) == 3


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_end_at_line_feeds_alone(release, tmp_path, end):
    lines = [
        "\ufeffpath\tsentence\ttranslation\tclient_id",
        "",
        "common_voice_en_109.mp3\ta\tEins\u2028zwei\x85drei\x0cvier\tc1",
        "\t\t",
        "common_voice_en_110.mp3\ta\tFünf\rsechs\tc2",
        "",
    ]
    table = release / "covost_v2.en_de.dev.tsv"
    table.write_bytes(end.join(lines).encode())
    found = prepared(release, tmp_path)
    assert [row["translation"] for row in found.values()] == [
        "Eins zwei drei vier",
        "Fünf sechs",
    ]


def test_flac_is_made_once_and_goes_on(whole, tmp_path):
    flac = tmp_path / "flac"
    rows = prepared(whole, tmp_path, flac_folder=str(flac))
    files = sorted((flac / "clips").iterdir())
    assert len(files) == 4 and all(f.suffix == ".flac" for f in files)
    for row in rows.values():
        assert soundfile.info(row["wav"]).samplerate == 16000
    # Stopped half-way: one is missing, a part of another is left over.
    times = {f: f.stat().st_mtime_ns for f in files[1:]}
    files[0].unlink()
    (flac / "clips" / "x.flac.part").write_bytes(b"half")
    (tmp_path / "covost2_prepare.json").unlink()
    again = prepared(whole, tmp_path, flac_folder=str(flac))
    assert again == rows and files[0].is_file()
    assert times == {f: f.stat().st_mtime_ns for f in files[1:]}


def test_unchanged_data_are_not_read_again(release, tmp_path, monkeypatch):
    prepared(release, tmp_path)
    monkeypatch.setattr(clips, "audio_blocks", None)
    prepared(release, tmp_path)
    rewrite(release, lambda lines: lines[:-1])
    with pytest.raises(TypeError):
        prepared(release, tmp_path)


def absent(release):
    next((release / "clips").glob("*_109.mp3")).unlink()


def columns(release):
    rewrite(release, lambda x: [*x[:-1], x[-1].replace("und", "u\tnd")])


def empty(release):
    rewrite(release, lambda x: [*x[:-1], x[-1].replace(GERMAN[3], ' ""')])


def twice(release):
    rewrite(release, lambda x: [*x, x[-1]])


def in_two_splits(release):
    train = release / "covost_v2.en_de.train.tsv"
    line = train.read_text(encoding="utf-8").splitlines()[1]
    rewrite(release, lambda x: [*x, line])


def language(release):
    clip = release / "clips/common_voice_en_109.mp3"
    clip.rename(clip.with_name("common_voice_fr_109.mp3"))
    rewrite(release, lambda x: [y.replace("en_109", "fr_109") for y in x])


def broken(release):
    clip = release / "clips/common_voice_en_109.mp3"
    clip.write_bytes(b"no audio at all" * 50)


def cut_short(release):
    clip = release / "clips/common_voice_en_109.mp3"
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) // 2])


FAULTS = {
    absent: "1 absent clip",
    columns: "unequal columns: 5, the head has 4",
    empty: "1 empty translation",
    twice: "2 duplicate id",
    in_two_splits: "2 duplicate id",
    language: "other language.*source_language en",
    broken: "1 broken audio",
    cut_short: "cut short",
}


@pytest.mark.parametrize("damage", FAULTS, ids=lambda f: f.__name__)
def test_faults_are_named_or_left_out(release, tmp_path, damage):
    damage(release)
    splits = ("dev", "train") if damage is in_two_splits else ("dev",)
    with pytest.raises(PreparationError, match=FAULTS[damage]) as error:
        prepared(release, tmp_path, splits)
    assert "skip_bad" in str(error.value)
    rows = prepared(release, tmp_path, splits, skip_bad=True)
    assert len(rows) in (3, 4)
    left = tmp_path / "en_de_dev-left-out.csv"
    assert len(left.read_text().splitlines()) in (2, 3)


def test_tabs_and_quotes_are_read_as_they_were_written(
    release, tmp_path, caplog
):
    rows = [
        ["common_voice_en_109.mp3", "a\tb", "Tab\tund \\ Strich", "c1"],
        ["common_voice_en_110.mp3", "a", '"Ein ""Ja"" reicht."', "c2"],
        ["common_voice_en_111.mp3", "a", '"Ja."', "c3"],
    ]
    write_table(release / "covost_v2.en_de.dev.tsv", rows)
    found = prepared(release, tmp_path)
    assert [row["translation"] for row in found.values()] == [
        "Tab und \\ Strich",
        'Ein "Ja" reicht.',
        '"Ja."',
    ]


def test_wrong_folders_and_codes(release, tmp_path):
    def fails(match, source="en", target="de", folder=release, **options):
        with pytest.raises(PreparationError, match=match):
            prepare_covost2(
                str(folder), str(tmp_path / "o"), source, target, **options
            )

    fails("tables of en_de.*get_covost_splits.py", source="fr", target="en")
    fails("is no language code", target="german")
    fails("is the source language too", target="en")
    fails("no clips/ and no en/clips/", folder=tmp_path / "nowhere")
    fails("check_audio: some", check_audio="some")
    fails("run once without skip_prep", skip_prep=True)
    table = release / "covost_v2.en_de.dev.tsv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("client_id", "speaker"), encoding="utf-8")
    fails("no column client_id", splits=("dev",))
    table.write_bytes(b"path\tsentence\ttranslation\tclient_id\n\xff\xfe\n")
    fails("cannot be read as a table", splits=("dev",))


def test_too_long_counts_as_bad(whole, tmp_path):
    with pytest.raises(PreparationError, match="4 too long"):
        prepared(whole, tmp_path, longest_seconds=0.1)


# ---------------------------------------------------------------- the recipe


@pytest.fixture(scope="module")
def study(whole, tmp_path_factory, decoder_folders, encoder_folders):
    """A baseline, a table, and a run pruned by a table of another task."""
    top = tmp_path_factory.mktemp("study")
    sources = decoder_folders["qwen2"], encoder_folders["wavlm"]
    options = quick(top, *sources, data_folder=whole)
    yaml = "hparams/mini_en_de.yaml"
    train(RECIPE, "mini_en_de.yaml", options)
    said = run_command(RECIPE, "measure.py", yaml, "--input=speech", *options)
    content = json.loads(
        (top / "mini_en_de/redundancy-speech.json").read_text()
    )
    content["provenance"]["task"] = "ASR"
    (top / "asr.json").write_text(json.dumps(content))
    more = ["--prune_layers=2", f"--path_from={top / 'asr.json'}"]
    yaml = "hparams/mini_en_de_prune.yaml"
    run_command(RECIPE, "train.py", yaml, *options, *more)
    return top, said


def test_clips_of_other_lengths_are_not_trained_on_but_scored(
    study, whole, decoder_folders, encoder_folders, capsys
):
    top, _ = study
    sources = decoder_folders["qwen2"], encoder_folders["wavlm"]
    manifest = read_manifest(top / "manifests/en_de_train.csv")
    seconds = sorted(row["duration"] for row in manifest.values())
    # Bounds belong to what is taken.
    bounds = {"train_min_seconds": seconds[1], "train_max_seconds": seconds[4]}
    file = RECIPE / "hparams/mini_en_de.yaml"

    def datasets(name, **more):
        options = quick(top, *sources, data_folder=whole, run_name=name, **more)
        module = load_script(RECIPE, "train")
        return module.prepare_experiment([str(file), *options]).datasets

    every, some = datasets("every"), datasets("some", **bounds)
    told = capsys.readouterr().out
    assert f"train: 4 of {len(manifest)} utterances are trained on" in told
    assert "1 shorter than train_min_seconds" in told
    assert "3 longer than train_max_seconds" in told
    assert sorted(durations(some["train"])) == seconds[1:5]
    assert len(every["train"]) == len(manifest) == 8
    scored = [some["valid"], some["test"]["test"]]
    for one, other in zip([every["valid"], every["test"]["test"]], scored):
        assert one.data_ids == other.data_ids
    lengths = durations(scored[0]) + durations(scored[1])
    assert not seconds[1] < min(lengths) < max(lengths) < seconds[4]
    with pytest.raises(ValueError, match="none of 8 utterances is left, 8 sho"):
        datasets("none", train_min_seconds=1.0)


def test_french_speech_through_whisper(
    tmp_path, decoder_folders, encoder_folders
):
    release = write_release(tmp_path / "fr", "fr", "fr_en")
    sources = decoder_folders["llama"], encoder_folders["whisper"], "whisper"
    options = quick(tmp_path, *sources, data_folder=release)
    result = train(RECIPE, "mini_fr_en.yaml", options)
    assert result.task == "AST fr-en" and result.scores["test"].metric == "BLEU"
    # Whisper's window here is 2 s: longer speech is refused, or cut.
    name = "common_voice_fr_113.mp3"
    clip = release / "clips" / name
    noise = 0.1 * np.random.default_rng(1).standard_normal(3 * 48000)
    soundfile.write(str(clip), noise, 48000)
    longer = [*options, "--run_name=longer", "--cache_features=null"]
    with pytest.raises(ValueError, match="common_voice_fr_113 .3 s."):
        train(RECIPE, "mini_fr_en.yaml", longer)
    cut = ["--run_name=cut", "--long_audio=chunk", "--steps=0"]
    cut += ["--warmdown_steps=0", "--cache_features=null"]
    assert train(RECIPE, "mini_fr_en.yaml", [*options, *cut]).status == "done"


def test_recipe_trains_measures_prunes_and_says_whose_path(study):
    results, said = study
    whole = load_run(results / "mini_en_de")
    pruned = load_run(results / "mini_en_de_prune")
    assert whole.task == pruned.task == "AST en-de"
    assert "size  start  distance" in said
    assert pruned.removed == 2 and len(pruned.kept_layers) == 3
    assert pruned.path_from == "ASR speech"
    assert pruned.path["run"] == "mini_en_de"
    for one in (whole, pruned):
        score = one.scores["test"]
        assert score.metric == "BLEU" and score.signature.startswith("nrefs:1")
        assert "case:mixed" in score.signature
        assert score.others["chrF"]["signature"]
        assert score.interval[0] <= score.value <= score.interval[1]


def test_targets_keep_their_case(study):
    results, _ = study
    rows = read_utterances(results / "mini_en_de/hypotheses-test.jsonl")
    assert [row["reference"] for row in rows] == GERMAN


def test_bleu_is_that_of_sacrebleus_command_line(tmp_path):
    from speechbrain_ext.scores.score import score_translation

    rows = [
        {"id": str(i), "reference": text, "hypothesis": said}
        for i, (text, said) in enumerate(
            [
                ("Der Hund läuft heute nicht weg.", "Der Hund läuft weg."),
                ('Er sagte: "Das ist gut so."', 'er sagte: "Das ist so.'),
                ("Blau, Rot und Grün!", ""),
                ("Das kostet nur 3,5 % oder $5.", "Das kostet\n3,5 % oder ."),
            ]
        )
    ]
    score, rows = score_translation(rows)
    files = {}
    for key in ("reference", "hypothesis"):
        files[key] = tmp_path / key
        text = "".join(row[key] + "\n" for row in rows)
        files[key].write_text(text, encoding="utf-8")
    out = subprocess.run(
        [sys.executable, "-m", "sacrebleu", files["reference"]]
        + ["-i", files["hypothesis"], "-m", "bleu", "chrf", "-w", "6"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = {one["name"]: one for one in json.loads(out)}
    ours = {"BLEU": (score.value, score.signature)}
    chrf = score.others["chrF"]
    ours["chrF2"] = chrf["value"], chrf["signature"]
    for name, (value, signature) in ours.items():
        assert value == pytest.approx(theirs[name]["score"], abs=1e-6)
        assert signature == theirs[name]["signature"]
    assert 1 < score.value < 99


YAMLS = sorted(path.name for path in (RECIPE / "hparams").glob("*.yaml"))


@pytest.mark.parametrize("name", YAMLS)
def test_every_yaml_loads(name, tmp_path, decoder_folders, encoder_folders):
    french = "fr_en" in name
    if name.startswith("mini"):
        kind = "whisper" if french else "wavlm"
        sources = decoder_folders["qwen2"], encoder_folders[kind]
    else:
        kind = "whisper-large-v3" if french else "wavlm-large"
        sources = PUBLISHED / "qwen2.5-7b", PUBLISHED / kind
    overrides = {
        "data_folder": str(tmp_path),
        "results_folder": str(tmp_path / "results"),
        "backbone.source": str(sources[0]),
        "speech_encoder.source": str(sources[1]),
        "baseline": pretend_baseline(tmp_path) if "prune" in name else None,
    }
    hparams = load_hparams(
        str(RECIPE / "hparams" / name), overrides, [speechllm_rules]
    )
    assert hparams["task"] == ("AST fr-en" if french else "AST en-de")
    assert hparams["lowercase_targets"] is False
    assert hparams["score"].func.__name__ == "score_translation"
    language = hparams["target_language"]
    assert hparams["score"].keywords == {"language": language}
    assert (hparams["prune_layers"] > 0) == ("prune" in name)
    words = hparams["prompt"].lower()
    assert ("to english" in words) == french


def test_directions_differ_in_a_handful_of_lines():
    one, other = (
        (RECIPE / "hparams" / f"{pair}.yaml").read_text().splitlines()
        for pair in ("en_de", "fr_en")
    )
    plain = [set(x for x in y if x[:1] != "#") for y in (one, other)]
    assert len(plain[0] ^ plain[1]) <= 6
