"""The fixtures of all tests: tests/core's own, and the LibriSpeech recipe."""

import json
import sys
from pathlib import Path

import pytest

# tests/core travels to SpeechBrain, with all that its tests stand on.
sys.path.insert(0, str(Path(__file__).parent / "core"))

from speech_llm_fixtures import *  # noqa: E402, F403

RECIPE = Path(__file__).parent.parent / "recipes" / "LibriSpeech/ASR/SpeechLLM"


@pytest.fixture(scope="session")
def recipe():
    """The LibriSpeech recipe's train.py, as a module."""
    sys.path.insert(0, str(RECIPE))
    try:
        import train
    finally:
        sys.path.remove(str(RECIPE))
    return train


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory):
    """A finished study in which the paper is right; nobody writes into it."""
    from mini_study import a_whole_study

    folder = tmp_path_factory.mktemp("whole")
    a_whole_study(folder)
    return folder


def write_settings(folder, decoder, encoder, kind="wavlm"):
    """A variant of the LibriSpeech recipe for the tiny models (str)."""
    lines = f"""\
    base: {RECIPE}/hparams/train.yaml
    backbone:
        name: tiny
        source: {decoder}
        revision: main
        dtype: float32
        family: Qwen2
    speech_encoder:
        name: tiny-{kind}
        source: {encoder}
        revision: main
        kind: {kind}
        dtype: float32
        output_norm: False
    run_name: base
    train_splits: [train-clean-100]
    valid_splits: [dev-clean]
    test_splits: [test-clean, test-other]
    downsampling: 3
    prompt: "{{speech}}\\nsay: {{target}}"
    precision: fp32
    num_workers: 0
    batch_size: 4
    test_batch_size: 4
    steps: 8
    warmup_steps: 1
    warmdown_steps: 4
    lr_projector: 0.01
    lr_adapter: 0.01
    lr_bridge: 0.01
    valid_interval: 4
    checkpoint_interval: 2
    max_new_tokens: 12
    """
    file = Path(folder) / "tiny.yaml"
    text = "\n".join(line[4:] for line in lines.splitlines())
    file.write_text(text + "\n")
    return str(file)


def pretend_baseline(folder, layers=2):
    """Just what says of a folder that a whole run was finished there (str)."""
    (Path(folder) / "trained").mkdir(parents=True, exist_ok=True)
    system = {"layers": layers, "kept_layers": list(range(layers))}
    (Path(folder) / "trained/system.json").write_text(json.dumps(system))
    (Path(folder) / "result.json").write_text('{"status": "done"}')
    return str(folder)


@pytest.fixture
def settings(tmp_path, decoder_folders, encoder_folders):
    """The tiny variant's file, for a run in a folder of its own."""
    return write_settings(
        tmp_path, decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
