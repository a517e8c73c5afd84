"""A pruned causal LM is saved with its tokenizer, and an empty one refused."""

import os

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from speechbrain_ext.layers import Block, drop_layers, load_pruned, save_pruned
from speechbrain_ext.layers.weights import load_tokenizer
from speechbrain_ext.model.decoder import Decoder


def test_a_pruned_model_is_saved_with_the_tokenizer_of_its_source(
    decoder_folders, tmp_path
):
    """What was saved is loaded whole: layers, and the tokens of a text."""
    source = decoder_folders["qwen2"]
    whole = AutoTokenizer.from_pretrained(source)
    wanted = whole("some text")["input_ids"]
    assert wanted
    loaded = load_pruned(source, Block(1, 2))
    dropped = drop_layers(AutoModelForCausalLM.from_pretrained(source), [1])
    for name, lm in (("loaded", loaded), ("dropped", dropped)):
        folder = str(tmp_path / name)
        save_pruned(lm, folder)
        found = AutoTokenizer.from_pretrained(folder)
        assert found("some text")["input_ids"] == wanted
        again = AutoModelForCausalLM.from_pretrained(folder)
        assert again.config.num_hidden_layers == lm.config.num_hidden_layers


def test_a_tokenizer_that_is_given_is_the_one_saved(decoder_folders, tmp_path):
    """Where the source is not known, its tokenizer has to be given."""
    source = decoder_folders["qwen2"]
    lm = load_pruned(source, Block(1, 2))
    lm.config._name_or_path = lm.name_or_path = ""
    with pytest.raises(ValueError, match="give its tokenizer"):
        save_pruned(lm, str(tmp_path / "a"))
    assert not os.path.exists(tmp_path / "a")
    save_pruned(lm, str(tmp_path / "a"), AutoTokenizer.from_pretrained(source))
    assert load_tokenizer(str(tmp_path / "a"))("some text")["input_ids"]


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_folder_without_a_tokenizer_is_refused(
    kind, decoder_folders, tmp_path
):
    """transformers gives an empty one of Qwen2 without a word."""
    lm = load_pruned(decoder_folders[kind], Block(1, 2))
    lm.save_pretrained(tmp_path)
    if kind == "qwen2":
        assert (
            AutoTokenizer.from_pretrained(tmp_path)("text")["input_ids"] == []
        )
    for load in (load_tokenizer, Decoder.from_source):
        with pytest.raises(ValueError, match="has no tokenizer: copy"):
            load(str(tmp_path))
    lm.config._name_or_path = lm.name_or_path = str(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer: copy"):
        save_pruned(lm, str(tmp_path / "again"))
    assert not os.path.exists(tmp_path / "again")
