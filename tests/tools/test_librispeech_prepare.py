"""The manifests of LibriSpeech, and what their making refuses."""

import csv
import importlib.util
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from encoded import write_encoded
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_ext.data.manifests import Manifests, Split, Utterance

RECIPE = Path(__file__).parents[2] / "recipes/LibriSpeech/ASR/SpeechLLM"
SPEC = importlib.util.spec_from_file_location(
    "librispeech_prepare", RECIPE / "librispeech_prepare.py"
)
PREPARE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(PREPARE)
prepare, Refused = PREPARE.prepare_librispeech, PREPARE.PreparationError


def add(root, split, speaker, words, rate=16000, samples=None):
    """Write one chapter of LibriSpeech, an utterance for each text."""
    folder = root / split / str(speaker) / "7"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, text in enumerate(words):
        name = f"{speaker}-7-{index:04d}"
        noise = np.random.default_rng(index).normal(size=8000 + 16 * index)
        audio = 0.1 * noise if samples is None else samples
        soundfile.write(folder / f"{name}.flac", audio, rate)
        lines.append(f"{name} {text}\n")
    (folder / f"{speaker}-7.trans.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def corpus(tmp_path):
    """A data folder with two splits in LibriSpeech/."""
    root = tmp_path / "data" / "LibriSpeech"
    add(root, "dev-clean", 84, ["ONE TWO", "THREE"])
    add(root, "dev-clean", 90, ["FOUR"])
    add(root, "ood", 91, ["FIVE,  SIX"])
    return root


def rows(folder, name):
    """A table's rows."""
    with open(folder / f"{name}.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("given", ["data", "data/LibriSpeech"])
def test_manifests_load(corpus, tmp_path, given):
    out = tmp_path / "out"
    root = prepare(str(tmp_path / given), str(out), ["dev-clean", "ood"])
    data = DynamicItemDataset.from_csv(
        out / "dev-clean.csv",
        replacements={"data_root": root},
        output_keys=["id", "duration", "wav", "spk_id", "wrd"],
    )
    items = list(data)
    assert [i["id"] for i in items] == ["84-7-0000", "84-7-0001", "90-7-0000"]
    assert [i["duration"] for i in items] == [0.5, 8016 / 16000, 0.5]
    assert all(os.path.isfile(i["wav"]) for i in items)
    assert [i["spk_id"] for i in items] == ["84", "84", "90"]
    assert [i["wrd"] for i in items] == ["ONE TWO", "THREE", "FOUR"]
    assert rows(out, "ood")[0]["wrd"] == "FIVE, SIX"
    assert rows(out, "ood")[0]["wav"] == "$data_root/ood/91/7/91-7-0000.flac"
    assert not list(out.glob("*.part"))


def test_kept_when_unchanged_and_redone_when_not(corpus, tmp_path):
    out = tmp_path / "out"

    def times(**settings):
        prepare(str(corpus), str(out), ["dev-clean", "ood"], **settings)
        names = ["dev-clean.csv", "ood.csv"]
        return [os.stat(out / name).st_ino for name in names]

    first = times()
    assert times() == first
    text = corpus / "ood" / "91" / "7" / "91-7.trans.txt"
    text.write_text("91-7-0000 SEVEN AND EIGHT\n")
    second = times()
    assert second[0] == first[0] and second[1] != first[1]
    assert rows(out, "ood")[0]["wrd"] == "SEVEN AND EIGHT"
    third = times(check_audio="full")
    assert third[0] != second[0] and third[1] != second[1]
    (out / "dev-clean.csv").unlink()
    assert times(check_audio="full")[1] == third[1]


def test_missing_and_empty_folders(corpus, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(Refused, match="no such folder.*dev-clean.*openslr"):
        prepare(str(tmp_path / "nowhere"), out, ["dev-clean"])
    with pytest.raises(Refused, match="test-clean.*dev-clean, ood.*openslr"):
        prepare(str(corpus), out, ["dev-clean", "test-clean"])
    (corpus / "test-clean").mkdir()
    with pytest.raises(Refused, match="no .flac file in test-clean"):
        prepare(str(corpus), out, ["dev-clean", "test-clean"])
    with pytest.raises(Refused, match="splits"):
        prepare(str(corpus), out, [])
    with pytest.raises(Refused, match="check_audio: half"):
        prepare(str(corpus), out, ["ood"], check_audio="half")
    assert not (tmp_path / "out" / "dev-clean.csv").exists()


def test_skip_prep(corpus, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(Refused, match="no ood.csv"):
        prepare(str(corpus), out, ["ood"], skip_prep=True)
    prepare(str(corpus), out, ["ood"])
    assert prepare(str(corpus), out, ["ood"], skip_prep=True) == str(corpus)


def nothing_at_all(folder):
    (folder / "91-7-0000.flac").write_bytes(b"")


def no_samples(folder):
    soundfile.write(folder / "91-7-0000.flac", np.zeros(0), 16000)


def other_rate(folder):
    soundfile.write(folder / "91-7-0000.flac", np.zeros(800), 8000)


def stereo(folder):
    soundfile.write(folder / "91-7-0000.flac", np.zeros((800, 2)), 16000)


def no_audio(folder):
    (folder / "91-7-0000.flac").unlink()


def no_text(folder):
    (folder / "91-7.trans.txt").write_text("91-7-0001 MORE\n")


def empty_text(folder):
    (folder / "91-7.trans.txt").write_text("91-7-0000 \n91-7-0001 MORE\n")


def two_texts(folder):
    text = folder / "91-7.trans.txt"
    text.write_text(text.read_text() + "91-7-0000 AGAIN\n")


def two_audios(folder):
    (folder / "more").mkdir()
    data = (folder / "91-7-0000.flac").read_bytes()
    (folder / "more" / "91-7-0000.flac").write_bytes(data)


def dangling(folder):
    (folder / "91-7-0000.flac").unlink()
    (folder / "91-7-0000.flac").symlink_to(folder / "nowhere")


def dollar(folder):
    text = "91-7-0000 IT COST $FIVE\n91-7-0001 MORE\n"
    (folder / "91-7.trans.txt").write_text(text)


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (nothing_at_all, "broken audio"),
        (no_samples, "broken audio"),
        (other_rate, "broken audio: .*sample rate 8000"),
        (stereo, "broken audio: .*2 channels"),
        (no_audio, "transcript without audio"),
        (no_text, "audio without transcript"),
        (empty_text, "empty transcript"),
        (two_texts, "duplicate id"),
        (two_audios, "duplicate id"),
        (dangling, "broken audio: .*no such"),
        (dollar, r"a \$"),
    ],
)
def test_bad_utterance_is_told_or_left_out(tmp_path, spoil, reason):
    folder = add(tmp_path / "data", "ood", 91, ["BAD", "GOOD"])
    spoil(folder)
    data, out = str(tmp_path / "data"), tmp_path / "out"
    with pytest.raises(Refused, match=f"1 bad.*\n.*91-7-0000: ({reason})"):
        prepare(data, str(out), ["ood"])
    assert not (out / "ood.csv").exists()
    prepare(data, str(out), ["ood"], skip_bad=True)
    assert [row["ID"] for row in rows(out, "ood")] == ["91-7-0001"]
    (left,) = rows(out, "ood-left-out")
    assert left["ID"] == "91-7-0000" and left["fault"]


def test_mended_data_has_no_list_of_left_out(tmp_path):
    folder = add(tmp_path / "data", "ood", 91, ["BAD", "GOOD"])
    stereo(folder)
    data, out = str(tmp_path / "data"), tmp_path / "out"
    prepare(data, str(out), ["ood"], skip_bad=True)
    add(tmp_path / "data", "ood", 91, ["BAD", "GOOD"])
    prepare(data, str(out), ["ood"], skip_bad=True)
    assert len(rows(out, "ood")) == 2
    assert not (out / "ood-left-out.csv").exists()


def test_full_check_alone_finds_nan_and_broken_audio(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    folder = add(data, "ood", 91, ["NAN", "CUT", "GOOD"])
    samples = np.full(8000, np.nan, dtype=np.float32)
    soundfile.write(
        folder / "91-7-0000.flac", samples, 16000, "FLOAT", format="WAV"
    )
    cut = folder / "91-7-0001.flac"
    cut.write_bytes(cut.read_bytes()[:4000])
    good = add(data, "dev-clean", 84, ["FINE"])
    prepare(str(data), str(out), ["ood"])
    splits = ["ood", "dev-clean"]
    with pytest.raises(Refused, match="2 bad.*\n.*NaN.*\n.*91-7-0001"):
        prepare(str(data), str(out), splits, check_audio="full")
    assert len(rows(out, "dev-clean")) == 1 and good.exists()
    prepare(str(data), str(out), splits, skip_bad=True, check_audio="full")
    assert [row["ID"] for row in rows(out, "ood")] == ["91-7-0002"]


def test_first_ten_faults_are_named_and_all_counted(tmp_path):
    add(tmp_path / "data", "ood", 91, ["X"] * 13, rate=8000)
    with pytest.raises(Refused, match="13 bad(.*\n){11}.*and 3 more") as error:
        prepare(str(tmp_path / "data"), str(tmp_path / "out"), ["ood"])
    assert str(error.value).count("sample rate") == 10
    assert "skip_bad" in str(error.value)


def test_an_id_in_two_splits(corpus, tmp_path):
    out = tmp_path / "out"
    prepare(str(corpus), str(out), ["dev-clean"], skip_bad=True)
    assert len(rows(out, "dev-clean")) == 3
    add(corpus, "ood", 84, ["ONE", "TWO"])
    with pytest.raises(Refused, match="4 bad(.*\n)+.*duplicate id: 2 times"):
        prepare(str(corpus), str(out), ["dev-clean", "ood"])
    prepare(str(corpus), str(out), ["dev-clean", "ood"], skip_bad=True)
    assert [row["ID"] for row in rows(out, "dev-clean")] == ["90-7-0000"]


def test_a_transcript_ends_at_a_line_feed_alone(tmp_path):
    folder = add(tmp_path / "data", "ood", 91, ["A", "B"])
    text = "\ufeff91-7-0000 ONE\x85TWO\u2028THREE\x0cFOUR\rFIVE\r\n"
    text += "91-7-0001 SIX\n"
    (folder / "91-7.trans.txt").write_bytes(text.encode())
    prepare(str(tmp_path / "data"), str(tmp_path / "out"), ["ood"])
    found = [row["wrd"] for row in rows(tmp_path / "out", "ood")]
    assert found == ["ONE TWO THREE FOUR FIVE", "SIX"]


@pytest.mark.parametrize("check_audio", ["header", "full"])
def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path, check_audio):
    folder = add(tmp_path / "data", "ood", 91, ["A", "B"])
    write_encoded(folder / "91-7-0000.flac", "streamed.flac", 1.5)
    data, out = str(tmp_path / "data"), tmp_path / "out"
    prepare(data, str(out), ["ood"], check_audio=check_audio)
    assert [row["duration"] for row in rows(out, "ood")] == ["1.5", "0.501"]
    cut = folder / "91-7-0000.flac"
    cut.write_bytes(cut.read_bytes()[:20000])
    options = {"check_audio": check_audio, "skip_bad": True}
    prepare(data, str(out), ["ood"], **options)
    assert [row["ID"] for row in rows(out, "ood")] == ["91-7-0001"]


def test_a_folder_that_cannot_be_is_told_first(corpus, tmp_path, monkeypatch):
    """Not after hours of decoding."""
    monkeypatch.setattr(PREPARE, "measure", lambda *_: pytest.fail("read"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        prepare(str(corpus), str(tmp_path / "file" / "out"), ["ood"])


def test_real_recordings(tmp_path):
    real = os.environ.get("SPEECHLLM_REAL")
    if not real:
        pytest.skip("SPEECHLLM_REAL names no folder of real recordings")
    splits = ["train-clean-100", "test-other", "dev-clean", "test-clean"]
    prepare(real, str(tmp_path), splits, check_audio="full")
    counts = [len(rows(tmp_path, split)) for split in splits]
    assert counts == [120, 40, 2, 1]
    seconds = sum(float(r["duration"]) for r in rows(tmp_path, splits[0]))
    assert 20 * 60 < seconds < 30 * 60


def test_two_runs_may_write_the_same_manifests_at_once(tmp_path):
    """Runs of a study start together, each looks through the data itself."""
    split = Split("dev", [Utterance("a", "1", {"wav": "b"}, 2.0)], "")
    started = threading.Barrier(4)

    def write():
        started.wait()
        for _ in range(100):
            Manifests(tmp_path, "any", ["wav"], "mend").write([split])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write) for _ in range(4)]:
            done.result()
    assert sorted(os.listdir(tmp_path)) == ["any_prepare.json", "dev.csv"]
    assert (tmp_path / "dev.csv").read_text().split() == [
        "ID,duration,wav",
        "a,2.0,b",
    ]
