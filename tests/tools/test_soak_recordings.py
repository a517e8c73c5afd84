"""What the campaign of recordings and lists found: told in a line, or read."""

import os
import random
import resource
import shutil
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipe_scripts import RECIPES

from speechbrain_ext.data import own_forms
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.manifests import PreparationError, audio_seconds
from speechbrain_ext.data.parquet import open_parquet
from speechbrain_ext.data.sets import read_manifest
from speechllm.cli import common
from speechllm.exported.audio import as_sounds

FOUND = Path(__file__).parents[1] / "soak/found"
for _recipe in ("OwnData/ASR", "LibriSpeech/ASR", "Loquacious/ASR"):
    sys.path.append(str(RECIPES / _recipe / "SpeechLLM"))
sys.path.append(str(RECIPES / "CoVoST2/AST/SpeechLLM"))
import covost2_prepare  # noqa: E402
import librispeech_prepare  # noqa: E402
import loquacious_prepare  # noqa: E402
import own_prepare  # noqa: E402

NONE = {"valid": None, "test": None, "seed": 1}


def wave(file, seconds=0.2):
    """A short recording."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1).standard_normal(round(seconds * 16000))
    soundfile.write(file, 0.1 * noise, 16000)
    return file


class Late(BaseException):
    """No error that anything would take for one of a file's."""


@contextmanager
def within(seconds):
    """What takes longer is a hang."""

    def late(*_):
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def prepare(folder, given=None, form=None, **more):
    """Prepare recordings of one's own; gives the manifest's rows."""
    out = folder.parent / "out"
    more.setdefault("skip_bad", True)
    own_prepare.prepare_own(
        str(folder), str(out), ["train"], given or {}, NONE, form, **more
    )
    return read_manifest(str(out / "train.csv"), str(folder))


@pytest.fixture
def data(tmp_path):
    """A folder with one recording, for a list to be put there."""
    wave(tmp_path / "data/a.wav")
    return tmp_path / "data"


def take(name, data):
    """Put a file that was found there."""
    source = FOUND / name
    shutil.copytree(source, data, dirs_exist_ok=True) if source.is_dir() else (
        shutil.copy(source, data)
    )


@pytest.mark.parametrize(
    "name, why",
    [
        ("deep.jsonl", "no JSON .*write one object a line"),
        ("half_letter.jsonl", "no UTF-8.*give it another name or text"),
        ("endless_part.csv", "empty part.*give a start before the end"),
        ("empty_segment", "no segment.*write RECORDING START END"),
    ],
)
def test_a_list_that_was_found_is_told(name, why, data):
    take(name, data)
    with pytest.raises(PreparationError, match=f"(?s){why}"):
        prepare(data, skip_bad=False)


def test_a_text_too_long_for_a_manifest_is_told_in_short(data):
    for name, text in (("wav.scp", "a.wav"), ("text", "x" * 200_000)):
        (data / name).write_text(f"r1 {text}\n")
    with pytest.raises(PreparationError, match="endless text") as told:
        prepare(data, skip_bad=False)
    assert len(str(told.value)) < 2000


def test_a_column_without_a_readable_name_is_told():
    file = FOUND / "names_no_utf_8.parquet"
    with pytest.raises(AudioError, match="as Parquet.*fetch it"):
        open_parquet(str(file))


def test_what_a_head_claims_takes_no_memory(tmp_path):
    """A title of two gigabytes in a recording of some kilobytes."""
    file = wave(tmp_path / "a.wav")
    sound = file.read_bytes()
    title = b"INFOINAM" + (2**31 - 99).to_bytes(4, "little") + b"A title."
    chunk = b"LIST" + (2**32 - 999).to_bytes(4, "little") + title
    file.write_bytes(sound[:36] + chunk + sound[36:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(AudioError):
        audio_seconds(str(file), full=True)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < 2**19


@pytest.mark.parametrize("form", ["csv", "nemo"])
def test_a_pipe_is_not_waited_for(form, data):
    os.mkfifo(data / "list")
    with within(5), pytest.raises(PreparationError, match="list: is no file"):
        prepare(data, given={"train": "list"}, form=form)


def test_a_recording_outside_is_told(data, monkeypatch):
    wave(data.parent / "secret.wav")
    (data / "own.csv").write_text("path,text\na.wav,A\n../secret.wav,B\n")
    told = []
    monkeypatch.setattr(own_forms.logger, "warning", told.append)
    assert len(prepare(data)) == 2
    (line,) = [line for line in told if "outside" in line]
    assert "1 of 2 recordings lie outside" in line and "secret.wav" in line


def test_links_in_circles_are_walked_once(tmp_path):
    chapter = tmp_path / "LibriSpeech/dev/7/9"
    wave(chapter / "7-9-0000.flac")
    (chapter / "7-9.trans.txt").write_text("7-9-0000 A CAT\n")
    for link in "ab":
        (chapter / link).symlink_to("..")
    with within(20):
        librispeech_prepare.prepare_librispeech(
            str(tmp_path), str(tmp_path / "out"), ["dev"]
        )
    assert len(read_manifest(str(tmp_path / "out/dev.csv"))) == 1


def test_transcripts_in_a_pipe_and_a_name_of_bytes_are_told(tmp_path):
    chapter = tmp_path / "LibriSpeech/dev/7/9"
    wave(chapter / "7-9-0000.flac")
    odd = wave(chapter / "b.flac")
    (chapter / "7-9.trans.txt").write_text("7-9-0000 A CAT\n")
    os.mkfifo(chapter / "7-8.trans.txt")
    odd.rename(os.fsdecode(os.fsencode(chapter) + b"/\xff.flac"))
    with within(20), pytest.raises(PreparationError) as told:
        librispeech_prepare.prepare_librispeech(
            str(tmp_path), str(tmp_path / "out"), ["dev"]
        )
    assert "7-8.trans.txt: is no file: give a text file" in str(told.value)
    left = (tmp_path / "out/dev-left-out.csv").read_text("utf-8")
    assert "audio without transcript" in left and "\\udcff" in left


@pytest.mark.parametrize(
    "name, why",
    [
        ("text_as_bytes", "no text: a bytes in the column text"),
        ("wav_as_bytes", "the column wav holds binary.*[Ff]etch"),
    ],
)
def test_a_parquet_file_of_other_types_is_told(name, why, tmp_path):
    place = tmp_path / "data/small"
    place.mkdir(parents=True)
    take(f"{name}.parquet", place)
    with pytest.raises(PreparationError, match=f"(?s){why}"):
        loquacious_prepare.prepare_loquacious(
            str(tmp_path / "data"),
            str(tmp_path / "out"),
            ["small"],
            check_audio="none",
        )


def test_a_parquet_file_that_is_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "small").mkdir()
    os.mkfifo(tmp_path / "small/a.parquet")
    # Arrow would wait where no signal reaches it: a thread lets go of it.
    ends = threading.Timer(
        5, lambda: os.close(os.open(tmp_path / "small/a.parquet", os.O_RDWR))
    )
    ends.start()
    with pytest.raises(PreparationError, match="no such file: fetch it again"):
        loquacious_prepare.prepare_loquacious(
            str(tmp_path), str(tmp_path / "out"), ["small"]
        )
    ends.cancel()


def test_a_table_that_names_no_possible_file_is_told(tmp_path):
    (tmp_path / "clips").mkdir()
    shutil.copy(FOUND / "nul.tsv", tmp_path / "covost_v2.en_de.dev.tsv")
    with pytest.raises(PreparationError, match="absent clip"):
        covost2_prepare.prepare_covost2(
            tmp_path, str(tmp_path / "out"), "en", "de", ["dev"]
        )


def test_a_message_does_not_steer_the_terminal(data, capsys):
    take("steering.csv", data)
    assert common.guarded(lambda: prepare(data)) == common.FAILED
    said = capsys.readouterr().err
    assert "\\x1b[2j" in said and "\x1b" not in said and "\x07" not in said


def test_hours_of_silence_are_never_in_memory_at_once(tmp_path, monkeypatch):
    file = tmp_path / "a.flac"
    soundfile.write(file, np.zeros(200 * 16000), 16000)
    monkeypatch.setattr(
        "speechbrain_ext.data.audio.torch.cat",
        lambda parts, cat=__import__("torch").cat: longest(cat(parts)),
    )
    sizes = []

    def longest(wav_N):
        sizes.append(len(wav_N))
        return wav_N

    assert audio_seconds(str(file), full=True) == 200
    assert max(sizes) <= 61 * 16000


def test_what_is_no_file_is_called_so(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    ((sound,), _) = as_sounds([str(tmp_path / "a.wav")])
    with pytest.raises(AudioError, match="a.wav: a folder, pipe or device"):
        sound.check(16000)
    with pytest.raises(
        AudioError, match=r"a.wav: no such.*a folder, pipe or device"
    ):
        audio_seconds(str(tmp_path / "a.wav"))


# -- the campaign itself: what it must see ------------------------------------


def test_the_campaign_sees_hangs_crashes_memory_and_tracebacks(
    tmp_path, monkeypatch
):
    from soak import recordings_child
    from soak.campaign import Setting

    monkeypatch.setattr(recordings_child, "SECONDS", 2)
    os.mkfifo(tmp_path / "pipe")

    def act(random, folder):
        number = int(folder.name)
        if number == 1:
            open(tmp_path / "pipe").close()
        if number == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 3:
            np.ones(1_200_000_000 // 8)
        if number == 4:
            raise KeyError("x")
        return ""

    setting = Setting(True, 1, tmp_path / "s")
    wrong = [o.wrong for o in recordings_child.tried("k", 6, act, setting)]
    for number, word in enumerate(("", "hang", "SIGSEGV", "MB", "KeyError")):
        assert word in wrong[number] and bool(word) == bool(wrong[number])
    assert len(wrong) == 6 and not wrong[5]


def test_the_campaign_tries_every_kind_alike_from_one_seed(tmp_path):
    from soak import recordings
    from soak.recordings_child import again

    recordings.make_seeds()
    for kind, act in recordings.kinds().items():
        for name in "ab":
            folder = tmp_path / name / kind.replace(" ", "_")
            assert not again(kind, 7, act, 1, folder), kind
    random.seed()
