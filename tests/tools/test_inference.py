"""Audio of any kind in, the run's text out.

Authors
 * The speechbrain_ext authors, 2026
"""

import io

import numpy as np
import pytest
import soundfile
import torch
from exported import RATE, make_run, speech_like, write_wav

from speechbrain_ext.data.audio import (
    near_rate,
    read_utterance,
    resampled,
    resampler,
)
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.export.write import export_runs
from speechllm.exported import transcribe as running
from speechllm.exported.audio import Sound, pieces
from speechllm.exported.format import ExportError
from speechllm.exported.model import ExportedSpeechLLM, SpeechLLMInterface
from speechllm.exported.transcribe import stream_text


@pytest.fixture(scope="module")
def folders(tmp_path_factory, decoder_folders, encoder_folders):
    """Run and export by the kind of encoder."""
    top = tmp_path_factory.mktemp("exports")
    found = {}
    for kind, lm in (("wavlm", "qwen2"), ("whisper", "llama")):
        run = make_run(
            top / kind / "run",
            decoder_folders[lm],
            encoder_folders[kind],
            kind=kind,
        )
        export = str(top / kind / "export")
        export_runs([run], export, tell=lambda line: None)
        found[kind] = run, export
    return found


@pytest.fixture(scope="module")
def model(folders):
    """An exported model with a WavLM kind of encoder."""
    return ExportedSpeechLLM.from_pretrained(folders["wavlm"][1])


def text_of_run(run, wav_N):
    """What the run itself decodes, as its recipe would."""
    model = TrainedRun(run).load()
    wav_1N = torch.as_tensor(wav_N)[None]
    x_BSF, tokens_B = model.features(wav_1N, torch.tensor([wav_1N.shape[1]]))
    limit = max(8, int(np.ceil(wav_1N.shape[1] / RATE * 8)))
    return model.transcribe(x_BSF, tokens_B, torch.tensor([min(limit, 10)]))[0]


@pytest.mark.parametrize("kind", ["wavlm", "whisper"])
def test_the_runs_own_text(kind, folders):
    run, export = folders[kind]
    model = ExportedSpeechLLM.from_pretrained(export)
    for seed in range(3):
        wav_N = speech_like(1.3, seed)
        found = model.transcribe((wav_N, RATE))
        assert found.text == text_of_run(run, wav_N) != ""
        assert found.tokens >= 1 and found.seconds > 0
        assert found.audio_seconds == pytest.approx(1.3)


def test_every_way_to_give_audio(model, tmp_path):
    path = write_wav(tmp_path / "a.wav", subtype="FLOAT")
    wav_N = speech_like(1.0)
    text = model.transcribe(path).text
    ways = [
        tmp_path / "a.wav",
        (wav_N, RATE),
        (torch.tensor(wav_N), RATE),
        (torch.tensor(wav_N)[None], RATE),
        (np.stack([wav_N, wav_N], axis=1), RATE),
    ]
    assert {model.transcribe(way).text for way in ways} == {text}
    found = model.transcribe([path, (speech_like(0.7, 1), RATE)])
    assert [one.name for one in found] == [path, "waveform 1"]
    assert found[0].text == text


class Decoder:
    """As torchcodec's: Hugging Face's data sets of version 4 hold it."""

    sample_rate = RATE

    def __init__(self, data):
        self.data = data

    def get_all_samples(self):
        if self.data is None:
            raise RuntimeError("no stream found")
        return self


class Unseekable(io.BytesIO):
    """As standard input is, where it is a pipe."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation("seek")


def test_audio_as_other_libraries_hold_it(model, tmp_path):
    path = write_wav(tmp_path / "a.wav", subtype="FLOAT")
    wav_N, text = speech_like(1.0), model.transcribe(path).text
    content = (tmp_path / "a.wav").read_bytes()
    row = {"path": "a.wav", "array": wav_N, "sampling_rate": np.int64(RATE)}
    ways = [
        row,
        {"path": None, "bytes": content},
        {"path": path, "bytes": None},
        io.BytesIO(content),
        io.BufferedReader(io.BytesIO(content)),
        (wav_N, np.int32(RATE)),
        (wav_N, np.float64(RATE)),
        (wav_N, float(RATE)),
        (wav_N.astype(np.float64), torch.tensor(RATE)),
        (wav_N.tolist(), RATE),
        Decoder(torch.tensor(wav_N)[None]),
    ]
    for way in ways:
        assert model.transcribe(way).text == text
    with open(path, "rb") as stream:
        assert model.transcribe(stream).text == text
        assert model.transcribe([stream, row])[0].text == text
    assert [one.text for one in model.transcribe(ways)] == [text] * len(ways)
    assert model.transcribe(row).name == "a.wav"
    assert model.transcribe(Unseekable(content)).text == text


def test_one_bad_waveform_spoils_no_list(model):
    good = (speech_like(1.0), RATE)
    text = model.transcribe(good).text
    bad = {
        "has no samples": (np.zeros(0, np.float32), RATE),
        "give them as floats": (np.zeros(99, np.int16), RATE),
        "has shape": (torch.zeros(2, 2, 2), RATE),
        "a rate of nan": (good[0], float("nan")),
        "a rate of 0 Hz": (good[0], 0),
        "is no waveform": (["a", "b"], RATE),
        "open it with mode 'rb'": io.StringIO("text"),
        "no stream found": Decoder(None),
        "NaN": (np.full(9000, np.nan, np.float32), RATE),
        "cannot be read as audio": {"bytes": b"no audio", "path": "a.mp3"},
    }
    for way in ((np.zeros((0, 2)), RATE), (np.zeros((2, 0)), RATE)):
        (found,) = model.transcribe([way], on_error="return")
        assert "has no samples" in str(found)
    found = model.transcribe([good, *bad.values(), good], on_error="return")
    assert found[0].text == found[-1].text == text
    for words, error in zip(bad, found[1:-1], strict=True):
        assert isinstance(error, AudioError) and words in str(error)
    with pytest.raises(AudioError, match="waveform 1: has no samples"):
        model.transcribe([good, bad["has no samples"]])


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "ogg"])
def test_formats_rates_and_channels(form, model, tmp_path):
    rates = (16000, 44100, 8000) if form != "ogg" else (16000, 48000, 8000)
    for rate in rates:
        for channels in (1, 2):
            path = tmp_path / f"{rate}-{channels}.{form}"
            write_wav(path, 0.8, rate=rate, channels=channels)
            # The same as the recipes' reader gives, sample for sample.
            wav_N = read_utterance(path, resample=True, mix_channels=True)
            sound = Sound(str(path), source=str(path))
            sound.check(RATE)
            ours_N = torch.cat(list(sound.blocks(RATE)))
            assert torch.equal(ours_N, wav_N)
            text = model.transcribe(str(path)).text
            assert text == model.transcribe((wav_N, RATE)).text


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44101])
def test_blocks_resampled_are_the_whole_resampled(rate):
    near = near_rate(rate, RATE)
    wav_N = torch.tensor(speech_like(3.3, rate=near))
    whole_N = resampler(near, RATE)(wav_N)
    blocks = list(resampled(wav_N.split(near), near, RATE))
    assert len(blocks) == 4
    torch.testing.assert_close(torch.cat(blocks), whole_N, atol=2e-6, rtol=0)


def test_a_batch_does_not_change_a_text(model):
    audio = [(speech_like(0.4 + 0.3 * i, i), RATE) for i in range(7)]
    alone = [model.transcribe(one).text for one in audio]
    for size in (1, 3, 8):
        found = model.transcribe(audio, batch_size=size)
        assert [one.text for one in found] == alone
    backwards = model.transcribe(audio[::-1])
    assert [one.text for one in backwards] == alone[::-1]


@pytest.mark.parametrize("seconds", [3.01, 6.0, 9.7, 31.0])
def test_pieces_are_the_whole_and_cut_where_it_is_quiet(seconds):
    time_N = torch.arange(int(seconds * RATE)) / RATE
    # Half a second of noise, a quarter of a second of near silence.
    loud_N = (time_N % 0.75 < 0.5) + 0.01
    wav_N = torch.tensor(speech_like(seconds)) * loud_N
    found = list(pieces(wav_N.split(RATE), RATE, 3 * RATE))
    assert torch.equal(torch.cat([wav for _, wav in found]), wav_N)
    lengths = [len(wav) / RATE for _, wav in found]
    assert max(lengths) <= 3 and min(lengths) > 0.7
    starts = np.cumsum([0, *(len(wav) for _, wav in found)])[:-1]
    assert [start for start, _ in found] == starts.tolist()
    assert all(s / RATE % 0.75 > 0.5 for s in starts[1:])


def test_long_audio_is_its_pieces_put_together(model, tmp_path):
    path = write_wav(tmp_path / "long.flac", 14.0)
    whole = model.transcribe(path)
    # The run's longest utterance had 2.95 s.
    assert len(whole.pieces) >= 5
    assert all(p.end - p.start <= 3.0 for p in whole.pieces)
    assert whole.pieces[0].start == 0
    assert whole.audio_seconds == pytest.approx(14.0)
    ends = [piece.end for piece in whole.pieces[:-1]]
    assert ends == [piece.start for piece in whole.pieces[1:]]
    wav_N = torch.tensor(soundfile.read(path, dtype="float32")[0])
    parts = [
        model.transcribe((wav_N[int(p.start * RATE) : int(p.end * RATE)], RATE))
        for p in whole.pieces
    ]
    assert whole.text == " ".join(one.text for one in parts if one.text)
    shorter = model.transcribe(path, piece_seconds=1.0)
    assert len(shorter.pieces) >= 14


def test_whispers_window_is_kept(folders, tmp_path):
    model = ExportedSpeechLLM.from_pretrained(folders["whisper"][1])
    found = model.transcribe((speech_like(5.0), RATE))
    assert max(p.end - p.start for p in found.pieces) <= 2.0


def test_a_stream_is_the_text(model):
    audio = (speech_like(7.0), RATE)
    parts = list(model.stream(audio))
    assert "".join(parts) == model.transcribe(audio).text
    assert len(parts) > 6


def test_half_letters_wait():
    sequence = ["\ufffd", "\u00e9", "\u00e9 b", "\u00e9 b"]
    found = stream_text(range(4), lambda ids: sequence[len(ids) - 1])
    assert list(found) == ["\u00e9", " b"]


def test_what_cannot_be_transcribed(model, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "none.wav").write_bytes(b"")
    write_wav(tmp_path / "whole.flac", 3.0)
    cut = (tmp_path / "whole.flac").read_bytes()[:20000]
    (tmp_path / "cut.flac").write_bytes(cut)
    wav_N = speech_like(1.0)
    wav_N[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", wav_N, RATE, subtype="FLOAT")
    write_wav(tmp_path / "short.wav", 0.01)
    good = write_wav(tmp_path / "good.wav")
    names = ["absent", "text", "none", "nan", "short"]
    bad = [str(tmp_path / f"{name}.wav") for name in names]
    bad.append(str(tmp_path / "cut.flac"))
    for path in bad:
        with pytest.raises(ValueError) as caught:
            model.transcribe([good, path])
        assert path in str(caught.value)
    found = model.transcribe([bad[0], good, *bad[1:]], on_error="return")
    assert found[1].text == model.transcribe(good).text
    assert sum(isinstance(one, ValueError) for one in found) == len(bad)


def test_what_is_no_audio(model):
    with pytest.raises(TypeError, match="a int cannot be transcribed"):
        model.transcribe(5)
    with pytest.raises(TypeError, match="says nothing without its rate"):
        model.transcribe([speech_like(1.0)])
    with pytest.raises(AudioError, match="give them as floats"):
        model.transcribe((torch.zeros(100, dtype=torch.int16), RATE))
    with pytest.raises(TypeError, match="give array and sampling_rate"):
        model.transcribe({"sampling_rate": 16000})
    with pytest.raises(AudioError, match="rate of 16000.5 Hz"):
        model.transcribe((speech_like(1.0), 16000.5))
    with pytest.raises(AudioError, match="rate of 5 Hz"):
        model.transcribe((speech_like(1.0), 5))
    with pytest.raises(ValueError, match="task: 'x' is not in this model"):
        model.transcribe((speech_like(1.0), RATE), task="x")
    with pytest.raises(ValueError, match="has no translation"):
        model.translate((speech_like(1.0), RATE))
    with pytest.raises(ValueError, match="piece_seconds: 0.03: too short"):
        model.transcribe((speech_like(1.0), RATE), piece_seconds=0.03)


def test_another_type(folders):
    export = folders["wavlm"][1]
    model = ExportedSpeechLLM.from_pretrained(export, dtype=torch.bfloat16)
    assert model.decoder.dtype == torch.bfloat16
    assert model.settings["asr"].precision == "bf16"
    assert model.transcribe((speech_like(1.0), RATE)).tokens > 0
    with pytest.raises(ExportError, match="dtype: int3"):
        ExportedSpeechLLM.from_pretrained(export, dtype="int3")


def test_features_are_rounded_as_in_a_trainings_cache(model):
    from dataclasses import replace

    core, settings = model.use("asr"), model.settings["asr"]
    wavs = [torch.tensor(speech_like(1.0))]
    x_BSF, _ = running.features_of(core, settings, wavs)
    settings = replace(settings, features_dtype="float16")
    half_BSF, _ = running.features_of(core, settings, wavs)
    assert half_BSF.dtype == x_BSF.dtype
    assert torch.equal(half_BSF, x_BSF.half().float())
    assert not torch.equal(half_BSF, x_BSF)


def test_in_the_manner_of_speechbrain(model, folders, tmp_path):
    asr = SpeechLLMInterface.from_hparams(
        source=folders["wavlm"][1],
        savedir="unused",
        run_opts={"device": "cpu"},
    )
    paths = [write_wav(tmp_path / f"{i}.wav", 0.5 + i, i) for i in (0, 1)]
    texts = [one.text for one in model.transcribe(paths)]
    assert [asr.transcribe_file(path) for path in paths] == texts
    rows = [asr.load_audio(path).squeeze() for path in paths]
    wavs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows]) / wavs.shape[1]
    words, tokens = asr.transcribe_batch(wavs, lengths)
    assert words == texts
    assert asr(wavs, lengths)[1] == tokens
    assert not any(p.requires_grad for p in asr.mods.parameters())
