"""What a later pull request brings is done without, or refused by name.

Authors
 * The speechbrain_ext authors, 2026
"""

import pytest
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig

from speechbrain_ext.later import later
from speechbrain_ext.layers import (
    Block,
    load_pruned,
    save_pruned,
    surgery,
    weights,
)
from speechbrain_ext.layers import pruned_config as configs
from speechbrain_ext.scores import score

ROWS = [{"id": "a", "reference": "cat dog", "hypothesis": "cat"}]


def none_of(module, wanted=""):
    """In the place of `later` where nothing came yet."""
    assert not wanted
    return later(f"{module}_of_no_slice")


def test_what_a_setting_wants_is_refused_by_name():
    """What a setting wants is refused by name."""
    assert later("layers.surgery") is surgery
    assert later("layers.no_such") is None
    with pytest.raises(
        ValueError, match=r"^keep: best: needs .*no_such, which"
    ):
        later("layers.no_such", "keep: best")


def test_other_families_are_refused_where_nothing_looks_into_them(monkeypatch):
    """Other families are refused where nothing looks into them."""
    monkeypatch.setattr(configs, "later", none_of)
    pruned = configs.pruned_config(LlamaConfig(num_hidden_layers=4), [1])
    assert pruned.num_hidden_layers == 3
    with pytest.raises(TypeError, match="gemma: only llama and qwen2"):
        configs.pruned_config(GemmaConfig(num_hidden_layers=4), [1])


def test_a_plain_decoder_is_loaded_and_saved(source, tmp_path, monkeypatch):
    """A plain decoder is loaded and saved."""
    for module in (configs, surgery, weights):
        monkeypatch.setattr(module, "later", none_of)
    lm = load_pruned(source, Block(1, 2), dtype="bfloat16")
    save_pruned(lm, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.num_hidden_layers == len(lm.model.layers)
    assert {*again.state_dict()} == {*lm.state_dict()}


def test_words_are_scored_without_an_interval(monkeypatch):
    """Words are scored without an interval."""
    monkeypatch.setattr(score, "later", none_of)
    found, _ = score.score_recognition(ROWS)
    assert found.value == 50.0 and found.interval is None
