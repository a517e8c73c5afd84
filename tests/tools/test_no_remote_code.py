"""No code of a model's own is ever run, nor asked about."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch

from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import load_pruned
from speechbrain_ext.layers.weights import source_config
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.encoder_load import (
    load_config,
    load_extractor,
    load_model,
)
from speechbrain_ext.training.build import load_prompt
from speechbrain_ext.training.checkpoints import random_state, read_state
from speechbrain_ext.training.measure import _depth_only
from speechbrain_ext.training.settings import load_config as config_of
from speechllm.saved import check_saved

TOP = Path(__file__).parents[2]
PLACES = (
    "speechbrain_ext speechllm recipes benchmarks workflow upstream"
).split()
# Ours, or classes that cannot take their code from a model's folder.
OWN = {"ExportedSpeechLLM", "LoraConfig", "PeftModel", "GenerationConfig"}
LOADERS = {"from_pretrained", "from_config"}


def trusting(tree):
    """Lines that load something without refusing its code (list of int)."""
    calls = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            calls[node.func] = node
            # functools.partial(loader, ...)
            calls.update(dict.fromkeys(node.args[:1], node))
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr not in LOADERS:
            continue
        owner = node.value
        if isinstance(owner, ast.Name) and owner.id in OWN:
            continue
        # A class out of transformers' own table.
        if isinstance(owner, ast.Subscript):
            owner = owner.value
            if isinstance(owner, ast.Name) and owner.id.endswith("_MAPPING"):
                continue
        keywords = getattr(calls.get(node), "keywords", [])
        told = {k.arg: getattr(k.value, "value", None) for k in keywords}
        if told.get("trust_remote_code") is not False:
            found.append(node.lineno)
    return found


def test_every_loader_refuses_code():
    files = [p for place in PLACES for p in (TOP / place).rglob("*.py")]
    seen = 0
    for path in files:
        text = path.read_text()
        # Not the tests that travel to SpeechBrain, which write their models.
        if path.name.startswith("test_"):
            continue
        seen += text.count("trust_remote_code=False")
        lines = trusting(ast.parse(text))
        assert not lines, f"{path}: lines {lines}: trust_remote_code=False"
        assert "trust_remote_code=True" not in text
    assert seen > 8


@pytest.mark.parametrize(
    "text, lines",
    [
        ("AutoConfig.from_pretrained(x)", [1]),
        ("AutoConfig.from_pretrained(x, trust_remote_code=True)", [1]),
        ("AutoConfig.from_pretrained(x, trust_remote_code=None)", [1]),
        ("AutoConfig.from_pretrained(x, trust_remote_code=False)", []),
        ("load = AutoModel.from_config", [1]),
        ("partial(AutoModel.from_config, trust_remote_code=False)", []),
        ("partial(AutoModel.from_config)", [1]),
        ("loader.from_pretrained(x)", [1]),
        ("ExportedSpeechLLM.from_pretrained(x)", []),
        ("MODEL_MAPPING[x].from_pretrained(y)", []),
    ],
)
def test_the_search_itself(text, lines):
    assert trusting(ast.parse(text)) == lines


CODE = """
import pathlib
pathlib.Path({canary!r}).write_text(__name__)
from transformers import Qwen2Config as Config
from transformers import Qwen2ForCausalLM as Model
from transformers import PreTrainedTokenizerFast as Tokenizer
from transformers import Wav2Vec2FeatureExtractor as Extractor
"""
AUTO = {
    "AutoConfig": "evil.Config",
    "AutoModel": "evil.Model",
    "AutoModelForCausalLM": "evil.Model",
    "AutoFeatureExtractor": "evil.Extractor",
    "AutoTokenizer": [None, "evil.Tokenizer"],
}


@pytest.fixture(params=["known", "unknown"])
def trap(request, tmp_path, monkeypatch):
    """A function: a copy of a model that brings code; and the canary."""
    canary = tmp_path / "canary"
    asked = []
    # Who is asked answers yes.
    monkeypatch.setattr(
        "builtins.input", lambda words="": asked.append(words) or "y"
    )

    def make(source):
        folder = Path(shutil.copytree(source, tmp_path / "trap"))
        (folder / "evil.py").write_text(CODE.format(canary=str(canary)))
        names = ("config", "tokenizer_config", "preprocessor_config")
        for name in names:
            path = folder / f"{name}.json"
            if not path.is_file():
                continue
            content = {**json.loads(path.read_text()), "auto_map": AUTO}
            if request.param == "unknown":
                content.pop("feature_extractor_type", None)
                content["tokenizer_class"] = "Tokenizer"
                content["model_type"] = "evil"
            path.write_text(json.dumps(content))
        return str(folder)

    yield make
    assert asked == [] and not canary.exists()


def attempt(load, *arguments):
    """Load or be refused: both are right, as long as no code ran."""
    try:
        load(*arguments)
    except (OSError, ValueError, TypeError, KeyError) as error:
        assert str(error)


def test_a_backbone_that_brings_code(trap, decoder_folders):
    folder = trap(decoder_folders["qwen2"])
    backbone = {"source": folder, "revision": None}
    hparams = {
        "backbone": backbone,
        "prompt": "{speech} say: {target}",
        "chat_template": False,
    }
    attempt(source_config, folder)
    attempt(load_pruned, folder, Block(1, 1))
    attempt(Decoder.from_source, folder)
    attempt(load_prompt, hparams)
    attempt(_depth_only, backbone)
    attempt(config_of, {"backbone": backbone}, "backbone")


def test_a_kind_that_needs_code_is_told(tmp_path, decoder_folders):
    folder = Path(shutil.copytree(decoder_folders["qwen2"], tmp_path / "m"))
    content = json.loads((folder / "config.json").read_text())
    content = {**content, "model_type": "evil", "auto_map": AUTO}
    (folder / "config.json").write_text(json.dumps(content))
    for load in (source_config, load_pruned):
        with pytest.raises(ValueError, match="code of its own, which is never"):
            load(str(folder))


def test_a_saved_model_that_brings_code(trap, decoder_folders):
    source = decoder_folders["qwen2"]
    attempt(check_saved, load_pruned(source), trap(source))


def test_an_encoder_that_brings_code(trap, encoder_folders):
    source = encoder_folders["wavlm"]
    config = load_config(source, None, "wavlm")
    folder = trap(source)
    attempt(load_config, folder, None, "wavlm")
    attempt(load_model, folder, config, torch.float32, None)
    attempt(load_extractor, folder, config, None)


def test_no_pickle_may_name_code(tmp_path):
    """A checkpoint is one too: those of a run that somebody else sends."""
    texts = [
        p.read_text() for name in PLACES for p in TOP.glob(f"{name}/**/*.py")
    ]
    assert not any("weights_only=False" in text for text in texts)
    state = {"random_states": [random_state()], "history": [{"step": 1}]}
    torch.save(state, tmp_path / "brain.ckpt")
    found = read_state(tmp_path / "brain.ckpt")
    assert str(found) == str(state)
    torch.save({"history": print}, tmp_path / "brain.ckpt")
    with pytest.raises(ValueError, match="brain.ckpt: holds other things"):
        read_state(tmp_path / "brain.ckpt")
