"""Checkpoints as the world has them: other names, other files, bad files."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from speech_llm_fixtures import LAYERS, make_decoder
from transformers import AutoModelForCausalLM

from speechbrain_ext.layers import places
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import drop_layers, load_pruned
from speechbrain_ext.model.encoder_load import load_config, load_model

WEIGHTS = "model.safetensors"


def changed(source, folder, change):
    """A copy of a model with other tensors (str)."""
    shutil.copytree(source, folder)
    state = change(load_file(folder / WEIGHTS))
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    return str(folder)


def from_base(state):
    """As a checkpoint of the base model has them."""
    return {k.removeprefix("model."): v for k, v in state.items()}


@pytest.mark.parametrize("removed", [None, Block(2, 1), {0, 3}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_saved_from_the_base_model(removed, dtype, decoder_folders, tmp_path):
    """Saved from the base model."""
    source = decoder_folders["qwen2"]
    base = changed(source, tmp_path / "base", from_base)
    assert "layers.2.mlp.up_proj.weight" in load_file(f"{base}/{WEIGHTS}")
    whole = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
    loaded = load_pruned(base, removed, dtype=dtype).eval()
    ids = torch.arange(5, 17)[None]
    expected = drop_layers(whole, removed)(ids).logits
    assert torch.equal(loaded(ids).logits, expected)
    if removed:
        assert not torch.equal(whole(ids).logits, expected)


def test_another_prefix_is_told(source, tmp_path):
    """Another prefix is told."""

    def wrapped(state):
        """Wrapped."""
        return {f"module.{k}": v for k, v in state.items()}

    folder = changed(source, tmp_path / "m", wrapped)
    with pytest.raises(ValueError, match="module.model.layers.* too much"):
        load_pruned(folder, Block(1, 1))


def test_a_head_that_is_not_there(tmp_path):
    """A head that is not there."""
    source = make_decoder("llama", tmp_path / "m", tie_word_embeddings=False)

    def headless(state):
        """Headless."""
        del state["lm_head.weight"]
        return from_base(state)

    folder = changed(source, tmp_path / "base", headless)
    with pytest.raises(ValueError, match="lm_head.* without its head"):
        load_pruned(folder, Block(1, 1))


@pytest.mark.parametrize(
    "name",
    [
        f"model.layers.{LAYERS}.mlp.up_proj.weight",
        "model.layers.0.mlp.experts.up_proj.weight",
        "layers.4.odd",
    ],
)
def test_layer_tensors_too_many(name, source, tmp_path):
    """Layer tensors too many."""

    def more(state):
        """More."""
        return {**state, name: torch.zeros(2, 2)}

    folder = changed(source, tmp_path / "m", more)
    with pytest.raises(ValueError, match="too much"):
        load_pruned(folder, Block(1, 2))


def test_what_a_class_ignores_may_be_there(source, tmp_path):
    """Old Llama checkpoints carry rotary tables, in every layer."""

    def old(state):
        """Old."""
        name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
        more = {name.format(i): torch.ones(4) for i in range(LAYERS)}
        return {**state, **more}

    folder = changed(source, tmp_path / "m", old)
    assert len(load_pruned(folder, Block(1, 2)).model.layers) == 3


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_wrong_layer_is_seen(dtype, source, monkeypatch):
    """Whatever goes wrong on the way, the layers are compared in the end."""
    honest = places.renumber

    def shifted(name, new_index, *layer):
        """Layers 0 and 3 change places."""
        places = dict(new_index)
        places[0], places[3] = places[3], places[0]
        return honest(name, places, *layer)

    monkeypatch.setattr(places, "renumber", shifted)
    with pytest.raises(ValueError, match="layer 0 is not layer 0 of"):
        load_pruned(source, Block(1, 2), dtype=dtype)


class Canary:
    """Leaves a file behind where a pickle may run code."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def legacy(source, tmp_path):
    """A folder without weights, and the model's tensors."""
    folder = tmp_path / "m"
    folder.mkdir()
    shutil.copy(f"{source}/config.json", folder)
    return folder, load_file(f"{source}/{WEIGHTS}")


@pytest.mark.parametrize("zipped", [True, False])
@torch.no_grad()
def test_a_bin_file_of_any_age(zipped, source, legacy):
    """A bin file of any age."""
    folder, state = legacy
    path = folder / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    ids = torch.arange(5, 17)[None]
    expected = load_pruned(source, Block(1, 2)).eval()(ids).logits
    found = load_pruned(str(folder), Block(1, 2)).eval()(ids).logits
    assert torch.equal(expected, found)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_file_runs_no_code(zipped, legacy):
    """A bin file runs no code."""
    folder, state = legacy
    state["more"] = Canary(folder / "ran")
    path = folder / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="calls .*mkdir.*safetensors") as seen:
        load_pruned(str(folder), Block(1, 2))
    assert str(path) in str(seen.value) and "weights_only" not in str(seen)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_an_encoder_runs_no_code(zipped, encoder_folders, tmp_path):
    """An encoder runs no code."""
    source = encoder_folders["wavlm"]
    folder = Path(shutil.copytree(source, tmp_path / "m"))
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    state["more"] = Canary(folder / "ran")
    path = folder / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    config = load_config(str(folder), None, "wavlm")
    with pytest.raises(ValueError, match="calls .*mkdir") as seen:
        load_model(str(folder), config, torch.float32, None)
    assert "weights_only" not in str(seen.value)
    assert not (folder / "ran").exists()
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged or cut short"):
        load_model(str(folder), config, torch.float32, None)


def test_a_bin_file_that_is_none(legacy):
    """A bin file that is none."""
    folder, state = legacy
    path = Path(folder / "pytorch_model.bin")
    torch.save({"epoch": 3, "state_dict": state}, path)
    with pytest.raises(ValueError, match="more than named tensors"):
        load_pruned(str(folder))
    torch.save(state, path)
    whole = path.read_bytes()
    for spoiled in (whole[: len(whole) // 2], b"", b"<html>", b"version "):
        path.write_bytes(spoiled)
        with pytest.raises(ValueError, match="damaged or cut short"):
            load_pruned(str(folder))
