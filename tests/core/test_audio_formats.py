"""Sound as the world has it: every format, whole, cut and damaged."""

import io

import av
import numpy as np
import pytest
import soundfile
import torch
from encoded import (
    MADE_OTHERWISE,
    SOUND_KINDS,
    cases,
    encoded,
    noise,
    write_encoded,
)

from speechbrain_ext.data import audio_file
from speechbrain_ext.data.audio import audio_blocks, audio_info, read_utterance
from speechbrain_ext.data.audio_damage import AudioError

EXACT = ("a.flac", "streamed.flac", "a.wav", "streamed.wav", "a.sph")
# Most seconds that a codec's frames and delay add.
FILLED = 0.13


def likeness(one, other):
    """Correlation of two waveforms, however one lags behind (float)."""
    size = 2 * max(len(one), len(other))
    spectra = np.fft.rfft(one, size) * np.conj(np.fft.rfft(other, size))
    most = np.fft.irfft(spectra).max()
    return most / np.sqrt((one**2).sum() * (other**2).sum())


@pytest.mark.parametrize("kind", SOUND_KINDS)
def test_every_format_is_read_to_its_end(kind, tmp_path):
    """Every format is read to its end."""
    path = tmp_path / kind
    rate = write_encoded(path, kind)
    wav_N = read_utterance(path, resample=True).numpy()
    expected = noise(4.0, 16000)
    assert 0 <= len(wav_N) / 16000 - 4.0 < FILLED
    assert likeness(wav_N, expected) > 0.95
    # The end is there, not only as much.
    assert likeness(wav_N[-9000:], expected[-9000:]) > 0.9
    info = audio_info(path)
    assert info.sample_rate == rate and info.channels == 1
    assert info.frames == len(read_utterance(path, rate))
    if kind in EXACT or kind == "flac.oga":
        assert info.frames == 64000
        assert np.abs(wav_N - noise(4.0, 16000)).max() < 1e-4


@pytest.mark.parametrize("kind", ["streamed.mp3", "streamed.flac", "a.webm"])
def test_an_estimate_is_no_length(kind):
    """An estimate is no length."""
    content, rate = encoded(kind)
    head = audio_info(io.BytesIO(content), decode=False)
    assert head.frames is None and head.sample_rate == rate
    assert audio_info(io.BytesIO(content)).frames >= 4 * rate


def test_a_streamed_mp3_is_of_the_kind_that_was_refused():
    """A streamed mp3 is of the kind that was refused."""
    content, _ = encoded("streamed.mp3")
    assert content.startswith(b"ID3") and b"Xing" not in content
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        assert sound.frames != len(sound.read())


CUTS = {
    "in half": lambda x: x[: len(x) // 2 + 1],
    "near its end": lambda x: x[: int(len(x) * 0.97) + 1],
}
DAMAGES = {
    "zeros": lambda x: x[: len(x) // 2] + bytes(1500) + x[len(x) // 2 + 1500 :],
    "noise": lambda x: (
        x[: len(x) // 2]
        + np.random.default_rng(1).bytes(1500)
        + x[len(x) // 2 + 1500 :]
    ),
    "less": lambda x: x[: len(x) // 2] + x[len(x) // 2 + 1500 :],
}


@pytest.mark.parametrize("change", [*CUTS, *DAMAGES])
@pytest.mark.parametrize("kind", SOUND_KINDS)
def test_what_is_cut_or_damaged_is_refused(kind, change, tmp_path):
    """What is cut or damaged is refused."""
    samples_alone = kind.endswith((".wav", ".sph"))
    if samples_alone and change in DAMAGES:
        pytest.skip("every value is a sample")
    if kind == "streamed.wav":
        pytest.skip("nothing tells its length")
    path = tmp_path / kind
    write_encoded(path, kind)
    spoiled = {**CUTS, **DAMAGES}[change](path.read_bytes())
    path.write_bytes(spoiled)
    with pytest.raises(AudioError, match=f"{kind}: (is|cannot be read)"):
        read_utterance(path, resample=True)
    with pytest.raises(AudioError, match=f"{kind}: (is|cannot be read)"):
        list(audio_blocks(path, resample=True))
    # The head of a FLAC file states its whole length: "full" checks it.
    if kind == "a.flac":
        assert audio_info(path).frames == 64000
    else:
        with pytest.raises(AudioError, match=kind):
            audio_info(path)


def test_tags_between_and_behind_are_no_damage():
    """Tags between and behind are no damage."""
    content, rate = encoded("headed.mp3", 1.0)
    one = audio_info(io.BytesIO(content)).frames
    tag = b"TAG" + bytes(125)
    assert audio_info(io.BytesIO(content + tag)).frames == one
    assert audio_info(io.BytesIO(content + b"\r\n\0")).frames == one
    # Two files in a row, the second with its tags.
    both = audio_info(io.BytesIO(content + tag + content)).frames
    assert 2 * one <= both < 2 * one + rate // 10


# What FFmpeg takes for the head of a FLAC frame, wherever it stands.
FALSE_HEAD = bytes.fromhex("fff8d634d0a291")


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 10000])
def test_what_looks_like_a_frame_of_a_flac_is_none(block, start, tmp_path):
    """A whole file is read, though its sound holds a frame's first bytes."""
    wav_N = np.random.default_rng(0).integers(-32768, 32767, 3 * 4096)
    sound = bytearray(wav_N.astype(">i2").tobytes())
    at = 2 * (4096 * block + 250)
    sound[at : at + len(FALSE_HEAD)] = FALSE_HEAD
    wav_N = np.frombuffer(bytes(sound), ">i2").astype("int16")
    path = tmp_path / "noise.flac"
    soundfile.write(path, wav_N, 16000)
    assert FALSE_HEAD in path.read_bytes()
    read_N = read_utterance(str(path), start=start)
    assert torch.equal(read_N, torch.tensor(wav_N[start:] / 32768).float())


def test_a_flac_in_a_row_is_told():
    """A flac in a row is told."""
    content, _ = encoded("a.flac", 1.0)
    with pytest.raises(AudioError, match="16000 samples announced, 32000"):
        read_utterance(io.BytesIO(content + content))


def test_an_impossible_length_is_not_believed():
    """An impossible length is not believed."""
    content = bytearray(encoded("a.flac", 1.0)[0])
    # The 36 bits of the sample count stand at the end of this word.
    content[21] |= 0x0F
    assert audio_info(io.BytesIO(content), decode=False).frames is None
    with pytest.raises(AudioError, match="is cut short"):
        read_utterance(io.BytesIO(content))


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.flac"])
def test_a_web_page_is_told_as_what_it_is(name, tmp_path):
    """A web page is told as what it is."""
    page = "<!DOCTYPE html>\n<html><body>404 not found</body></html>\n"
    (tmp_path / name).write_text(page * 50)
    with pytest.raises(AudioError, match=f"{name}.*begins with '<!DOCTYPE"):
        read_utterance(tmp_path / name)


def test_a_playlist_leads_nowhere(tmp_path):
    """A playlist leads nowhere."""
    write_encoded(tmp_path / "secret.aac", "a.aac")
    lines = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nsecret.aac\n"
    (tmp_path / "a.mp3").write_text(lines + "#EXT-X-ENDLIST\n")
    (tmp_path / "b.mp3").write_text("ffconcat version 1.0\nfile secret.aac\n")
    for name in ("a.mp3", "b.mp3"):
        with pytest.raises(AudioError, match=f"{name}: cannot be read"):
            read_utterance(tmp_path / name)


@pytest.mark.parametrize(
    "riff, data",
    [
        (0, 0),
        (36, 0),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x7FFFF024, 0x7FFFF000),
        (0x80000023, 0x7FFFFFFF),
    ],
)
def test_a_wav_from_a_pipe_is_read_to_its_end(riff, data):
    """A wav from a pipe is read to its end."""
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(1.0, 16000), 16000, format="WAV")
    content = bytearray(buffer.getvalue())
    content[4:8] = riff.to_bytes(4, "little")
    content[40:44] = data.to_bytes(4, "little")
    assert audio_info(io.BytesIO(content)).frames == 16000
    assert len(read_utterance(io.BytesIO(content))) == 16000


def test_titles_in_latin_1_are_no_fault():
    """Titles in latin 1 are no fault."""
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(1.0, 16000), 16000, format="WAV")
    title = b"INFOINAM" + (6).to_bytes(4, "little") + b"t\xe9l\xe9\xff\0"
    chunk = b"LIST" + len(title).to_bytes(4, "little") + title
    content = bytearray(buffer.getvalue() + chunk)
    content[4:8] = (len(content) - 8).to_bytes(4, "little")
    assert len(read_utterance(io.BytesIO(content))) == 16000


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT"])
def test_the_same_samples_as_libsndfile(subtype):
    """The same samples as libsndfile."""
    buffer = io.BytesIO()
    values = np.stack([noise(1.0, 16000), noise(1.0, 16000, 1)], 1)
    soundfile.write(buffer, values, 16000, format="WAV", subtype=subtype)
    buffer.seek(0)
    theirs, _ = soundfile.read(buffer, dtype="float32")
    ours = read_utterance(buffer, mix_channels=True)
    assert torch.equal(ours, torch.from_numpy(theirs).mean(1))


def test_a_part_is_found_by_jumping(tmp_path):
    """A part is found by jumping."""
    values = noise(90.0, 16000)
    for kind in ("flac", "wav"):
        path = tmp_path / f"a.{kind}"
        soundfile.write(path, values, 16000)
        whole_N = read_utterance(path)
        for start in (1, 4095, 500_000, 1_430_000):
            part_N = read_utterance(path, start=start, stop=start + 5000)
            assert torch.equal(part_N, whole_N[start : start + 5000])
        assert torch.equal(read_utterance(path, start=9), whole_N[9:])


@pytest.mark.parametrize("error", [MemoryError, KeyError, OSError, ValueError])
def test_any_librarys_error_names_the_file(error, tmp_path, monkeypatch):
    """Any librarys error names the file."""

    def fail(*_, **options):
        """Fail."""
        raise error("of some library")

    path = tmp_path / "a.flac"
    write_encoded(path, "a.flac")
    monkeypatch.setattr(audio_file.AudioFile, "_mono", fail)
    with pytest.raises(AudioError, match="a.flac: .*of some library"):
        read_utterance(path)
    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(AudioError, match="a.flac: .*of some library"):
        audio_info(path)


CASES = {
    "talk.wav": 15.2,
    "talk_streamed.flac": 15.2,
    "talk_vbr_streamed.mp3": 15.25,
    "talk_cbr_streamed.mp3": 15.25,
    "talk_twice.mp3": 30.5,
}


@pytest.mark.parametrize("name", CASES)
def test_files_that_failed(name):
    """Files that failed."""
    path = cases(name)
    if not path:
        pytest.skip("SPEECHLLM_CASES names no folder with them")
    wav_N = read_utterance(path, resample=True)
    assert len(wav_N) / 16000 == pytest.approx(CASES[name], abs=0.1)
    assert audio_info(path).seconds == pytest.approx(CASES[name], abs=0.1)
    talk_N = read_utterance(cases("talk.wav")).numpy()
    if name == "talk_twice.mp3":
        assert likeness(wav_N[244_000:].numpy(), talk_N) > 0.9
    else:
        assert likeness(wav_N.numpy(), talk_N) > 0.9


def test_the_table_is_of_every_kind():
    """The table is of every kind."""
    assert set(MADE_OTHERWISE) < set(SOUND_KINDS)


def test_a_call_that_a_library_does_not_know_is_no_damage(
    tmp_path, monkeypatch
):
    """A call that a library does not know is no damage."""
    path = tmp_path / "a.wav"
    write_encoded(path, "a.wav")
    monkeypatch.setattr(audio_file, "TITLES", {"of_another_release": True})
    with pytest.raises(TypeError, match="of_another_release"):
        read_utterance(str(path), resample=True)
