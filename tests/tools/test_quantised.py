"""8-bit weights: which they are, what they spare, what they say."""

import sys

import pytest
import soundfile
import torch
from exported import RATE, make_run, speech_like

from benchmarks import quantised as comparison
from speechllm.cli import main
from speechllm.export.write import export_runs
from speechllm.exported.model import ExportedSpeechLLM
from speechllm.multitask import memory_of


@pytest.fixture(scope="module")
def export(tmp_path_factory, decoder_folders, encoder_folders):
    """An exported system with an adapter."""
    top = tmp_path_factory.mktemp("int8")
    run = make_run(
        top / "run", decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
    export_runs([run], str(top / "model"), tell=lambda line: None)
    return str(top / "model")


def test_without_torchao_it_says_what_to_install(export, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    words = ["transcribe", "a.wav", "--model", export, "--dtype", "int8"]
    assert main(words) == 1
    assert "pip install torchao" in capsys.readouterr().err


def test_the_layers_matrices_alone_are_in_8_bits(export):
    pytest.importorskip("torchao")
    whole = ExportedSpeechLLM.from_pretrained(export, device="cpu")
    small = ExportedSpeechLLM.from_pretrained(export, "int8", device="cpu")
    plain = {
        name: type(one.data) is torch.Tensor
        for name, one in small.decoder.named_parameters()
    }
    packed = [name for name, is_plain in plain.items() if not is_plain]
    # Seven matrices in each of three layers; no adapter, norm or embedding.
    assert len(packed) == 21
    assert all(name.endswith("weight") for name in packed)
    assert not any("lora" in name or "embed" in name for name in packed)
    usual, spared = (memory_of(one.tasks) for one in (whole, small))
    assert spared["backbone"] < usual["backbone"]
    assert spared["tasks"] == usual["tasks"]
    wav_N = torch.as_tensor(speech_like(1.0))
    targets = [torch.tensor([5, 6, 7])]
    logits = []
    for one in (whole, small):
        model = one.use("asr")
        with torch.no_grad():
            x_BSF, tokens_B = model.features_of([wav_N])
            logits.append(model(x_BSF, tokens_B, targets)[0])
    off = (logits[0] - logits[1]).abs().max() / logits[0].abs().max()
    assert 0 < off < 0.1
    assert small.transcribe((wav_N.numpy(), RATE)).tokens >= 1


def test_speakers_take_turns_and_errors_are_counted(export, tmp_path):
    pytest.importorskip("torchao")
    for speaker in ("1", "2"):
        folder = tmp_path / "set" / speaker / "10"
        folder.mkdir(parents=True)
        lines = []
        for place in range(3):
            name = f"{speaker}-10-000{place}"
            wav_N = speech_like(0.6, seed=place)
            soundfile.write(str(folder / f"{name}.flac"), wav_N, RATE)
            lines.append(f"{name} RED BLUE\n")
        (folder / f"{speaker}-10.trans.txt").write_text("".join(lines))
    rows = comparison.read_set(str(tmp_path / "set"), 4)
    assert [row["speaker"] for row in rows] == ["1", "2", "1", "2"]
    output = tmp_path / "found.json"
    comparison.main(
        [export, "--set", str(tmp_path / "set"), "--output", str(output)]
    )
    found = comparison.compare(export, rows)
    assert found["words"] == 8 and found["speakers"] == 2
    assert found["llm_bytes_int8"] < found["llm_bytes"]
    assert output.is_file() and 0 < found["p_value"] <= 1
    with pytest.raises(FileNotFoundError, match="trans.txt"):
        comparison.read_set(str(tmp_path / "run"), 4)
