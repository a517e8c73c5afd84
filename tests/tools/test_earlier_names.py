"""What the README once showed is still there, and says where it went."""

import importlib
import subprocess
import sys

import pytest

import speechllm
from speechbrain_ext import layers
from speechllm.exported.model import ExportedSpeechLLM

NAMES = [
    ("speechbrain_ext.pruning", "Block", layers.Block),
    ("speechbrain_ext.pruning", "drop_layers", layers.drop_layers),
    ("speechbrain_ext.pruning", "load_pruned", layers.load_pruned),
    ("speechbrain_ext.redundancy", "measure", layers.measure),
    ("speechbrain_ext.inference", "SpeechLLM", ExportedSpeechLLM),
    ("speechllm.exported", "SpeechLLM", ExportedSpeechLLM),
]


@pytest.mark.parametrize("module, name, thing", NAMES)
def test_an_earlier_name_is_the_thing_with_a_warning(module, name, thing):
    if module != "speechllm.exported":
        sys.modules.pop(module, None)
    with pytest.warns(DeprecationWarning, match="now") as caught:
        found = getattr(importlib.import_module(module), name)
    assert found is thing
    assert any(str(one.message).startswith(module) for one in caught)


def test_other_names_are_not_there():
    for module in ("speechbrain_ext.inference", "speechllm.exported"):
        assert not hasattr(importlib.import_module(module), "Other")


def test_a_model_is_loaded_by_one_call(monkeypatch):
    calls = []
    monkeypatch.setattr(
        ExportedSpeechLLM,
        "from_pretrained",
        lambda source, **options: calls.append((source, options)) or "model",
    )
    assert speechllm.load("folder", device="cpu") == "model"
    assert calls == [("folder", {"device": "cpu"})]


def test_the_package_alone_loads_nothing_large():
    command = "import speechllm, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
