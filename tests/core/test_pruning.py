"""Pruning: what is left is the same model with fewer layers.

Authors
 * The speechbrain_ext authors, 2026
"""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from speech_llm_fixtures import LAYERS, make_decoder
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    Qwen2AudioConfig,
    WavLMConfig,
)

from speechbrain_ext.layers.plans import Plan
from speechbrain_ext.layers.removal import Block, Removal
from speechbrain_ext.layers.surgery import drop_layers, load_pruned
from speechbrain_ext.model.decoder import Decoder

REMOVED = [Block(1, 2), Block(0, 3), Block(0, 4), {1, 3}, {0, 2}]


@pytest.fixture
def whole(source):
    """Whole."""
    return AutoModelForCausalLM.from_pretrained(source).eval()


@pytest.fixture
def ids():
    """Ids."""
    torch.manual_seed(0)
    return torch.randint(5, 200, (2, 9))


def by_hand(model, ids, kept):
    """The kept layers one after the other, rotary and mask written out."""
    inner = model.model
    h = inner.embed_tokens(ids)
    positions = torch.arange(ids.shape[1])[None]
    rotary = inner.rotary_emb(h, positions)
    size = ids.shape[1]
    above = torch.ones(size, size, dtype=torch.bool).triu(1)
    mask = torch.zeros(1, 1, size, size).masked_fill(above, -1e9)
    for index in kept:
        h = inner.layers[index](
            h, attention_mask=mask, position_embeddings=rotary
        )
        h = h[0] if isinstance(h, tuple) else h
    return model.lm_head(inner.norm(h))


def same_logits(a, b, ids, atol=1e-6):
    """Same logits."""
    with torch.no_grad():
        torch.testing.assert_close(
            a(ids).logits, b(ids).logits, rtol=0, atol=atol
        )


@pytest.mark.parametrize("nothing", [None, (), set()])
def test_pruning_nothing_is_the_identity(whole, source, ids, nothing):
    """Pruning nothing is the identity."""
    same_logits(whole, drop_layers(whole, nothing), ids, atol=0)
    same_logits(whole, load_pruned(source, nothing).eval(), ids, atol=0)


@pytest.mark.parametrize("removed", REMOVED, ids=str)
@torch.no_grad()
def test_pruned_is_the_kept_layers_by_hand(whole, ids, removed):
    """Pruned is the kept layers by hand."""
    kept = Removal.of(removed, LAYERS).kept
    pruned = drop_layers(whole, removed)
    expected = by_hand(whole, ids, kept)
    torch.testing.assert_close(
        pruned(ids).logits, expected, rtol=1e-5, atol=1e-5
    )
    # The tool must be able to tell: other layers give other logits.
    other = by_hand(whole, ids, range(LAYERS))
    assert (other - expected).abs().max() > 0.1


def test_drop_leaves_the_original_untouched(whole, ids):
    """Drop leaves the original untouched."""
    with torch.no_grad():
        before = whole(ids).logits
    config = copy.deepcopy(whole.config.to_dict())
    pruned = drop_layers(whole, Block(1, 2))
    assert whole.config.to_dict() == config
    layers = whole.model.layers
    assert [m.self_attn.layer_idx for m in layers] == list(range(LAYERS))
    assert all(m.self_attn.config is whole.config for m in layers)
    with torch.no_grad():
        torch.testing.assert_close(whole(ids).logits, before, rtol=0, atol=0)
        whole.generate(ids, max_new_tokens=2, do_sample=False)
    # No weight is copied.
    assert pruned.lm_head.weight is whole.lm_head.weight
    kept = pruned.model.layers[1].mlp.up_proj.weight
    assert kept is whole.model.layers[3].mlp.up_proj.weight


def test_every_trace_of_the_depth_follows(whole):
    """Every trace of the depth follows."""
    pruned = drop_layers(whole, {1, 3})
    assert pruned.config.num_hidden_layers == 3
    assert [m.self_attn.layer_idx for m in pruned.model.layers] == [0, 1, 2]
    for module in pruned.modules():
        if hasattr(module, "config"):
            assert module.config is pruned.config
    types = getattr(pruned.config, "layer_types", None)
    assert types is None or len(types) == 3


def test_sliding_layers_keep_their_kind(tmp_path):
    """Sliding layers keep their kind."""
    source = make_decoder(
        "qwen2",
        tmp_path / "sliding",
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
    )
    whole = AutoModelForCausalLM.from_pretrained(source)
    full, slide = "full_attention", "sliding_attention"
    assert whole.config.layer_types == [full] * 2 + [slide] * 3
    torch.manual_seed(0)
    ids = torch.randint(5, 200, (2, 12))
    dropped = drop_layers(whole, {1, 2}).eval()
    assert dropped.config.layer_types == [full, slide, slide]
    same_logits(dropped, load_pruned(source, {1, 2}).eval(), ids)
    dropped.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.config.layer_types == [full, slide, slide]
    same_logits(dropped, again.eval(), ids)


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_reloaded(kind, tied, ids, tmp_path):
    """Saved and reloaded."""
    source = make_decoder(kind, tmp_path / "m", tie_word_embeddings=tied)
    pruned = load_pruned(source, Block(1, 2)).eval()
    assert (pruned.lm_head.weight is pruned.model.embed_tokens.weight) == tied
    pruned.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert again.config.num_hidden_layers == len(again.model.layers) == 3
    same_logits(pruned, again, ids, atol=0)
    dropped = drop_layers(
        AutoModelForCausalLM.from_pretrained(source), Block(1, 2)
    )
    dropped.save_pretrained(tmp_path / "dropped")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "dropped").eval()
    same_logits(pruned, again, ids, atol=0)


@pytest.mark.parametrize("removed", [Block(1, 2), {0, 3}], ids=str)
def test_cached_generation_equals_uncached(whole, source, ids, removed):
    """Cached generation equals uncached."""
    settings = dict(max_new_tokens=12, do_sample=False, eos_token_id=None)
    for pruned in (drop_layers(whole, removed), load_pruned(source, removed)):
        pruned.eval()
        cached = pruned.generate(ids, use_cache=True, **settings)
        uncached = pruned.generate(ids, use_cache=False, **settings)
        assert cached.shape == (2, 21)
        assert torch.equal(cached, uncached)


@pytest.mark.parametrize("removed", REMOVED, ids=str)
def test_loading_equals_dropping(whole, source, ids, removed):
    """Loading equals dropping."""
    loaded = load_pruned(source, removed).eval()
    dropped = drop_layers(whole, removed)
    assert loaded.config.num_hidden_layers == dropped.config.num_hidden_layers
    same_logits(loaded, dropped, ids, atol=0)


def reshard(source, folder, binary=False):
    """A copy with a file for each layer and one for the rest."""
    from safetensors.torch import save_file

    model = AutoModelForCausalLM.from_pretrained(source)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    end = "bin" if binary else "safetensors"
    stem = "pytorch_model" if binary else "model"
    parts, weight_map = {}, {}
    for name, value in state.items():
        layer = name.split(".")[2] if ".layers." in name else "rest"
        file = f"{stem}-{layer}.{end}"
        parts.setdefault(file, {})[name] = value
        weight_map[name] = file
    folder.mkdir()
    for file, part in parts.items():
        if binary:
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file, metadata={"format": "pt"})
    (folder / f"{stem}.{end}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_bytes((Path(source) / name).read_bytes())
    return str(folder)


@pytest.mark.parametrize("binary", [False, True])
def test_removed_shards_need_not_even_exist(
    whole, source, ids, binary, tmp_path
):
    """Removed shards need not even exist."""
    end = "bin" if binary else "safetensors"
    stem = "pytorch_model" if binary else "model"
    sharded = reshard(source, tmp_path / "sharded", binary)
    same_logits(whole, load_pruned(sharded).eval(), ids, atol=0)
    for layer in (1, 2):
        os.remove(f"{sharded}/{stem}-{layer}.{end}")
    loaded = load_pruned(sharded, Block(1, 2)).eval()
    same_logits(loaded, drop_layers(whole, Block(1, 2)), ids, atol=0)
    with pytest.raises(FileNotFoundError, match=f"{stem}-1.{end}.*again"):
        load_pruned(sharded, Block(2, 1))


def test_a_single_bin_file(whole, source, ids, tmp_path):
    """A single bin file."""
    state = whole.state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = (Path(source) / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(config)
    loaded = load_pruned(str(tmp_path), Block(0, 3)).eval()
    same_logits(loaded, drop_layers(whole, Block(0, 3)), ids, atol=0)


def test_removed_weights_are_never_read(source, monkeypatch):
    """Removed weights are never read."""
    import speechbrain_ext.layers.weights as weights

    read = []
    real_open = weights.safe_open

    class Recorder:
        """Counts whose values are taken from the file."""

        def __init__(self, slice_, name):
            self.slice, self.name = slice_, name

        def __getitem__(self, index):
            read.append(self.name)
            return self.slice[index]

        def __getattr__(self, name):
            return getattr(self.slice, name)

    class File:
        """File."""

        def __init__(self, *args, **kwargs):
            self.file = real_open(*args, **kwargs)

        def keys(self):
            """Keys."""
            return self.file.keys()

        def get_slice(self, name):
            """Get slice."""
            return Recorder(self.file.get_slice(name), name)

        def get_tensor(self, name):
            """Get tensor."""
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(weights, "safe_open", File)
    load_pruned(source, Block(1, 2))
    layers = {n.split(".")[2] for n in read if ".layers." in n}
    assert layers == {"0", "3", "4"}


def test_the_wanted_type_and_no_gradient_history(source):
    """The wanted type and no gradient history."""
    model = load_pruned(source, Block(1, 2), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config._name_or_path == source


def test_generation_settings_come_along(source):
    """Generation settings come along."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = load_pruned(source, Block(1, 2))
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("content", ["{", "[]", "not found"])
def test_broken_generation_settings_are_refused(source, content, tmp_path):
    """Broken generation settings are refused by name, not left out."""
    folder = shutil.copytree(source, tmp_path / "broken")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"broken: .*generation_config\.json"):
        load_pruned(str(folder), Block(1, 2))


@pytest.mark.parametrize(
    "removed, words",
    [
        (Block(3, 2), "must stay to receive"),
        (Block(0, 5), "must stay to receive"),
        ({4}, "must stay to receive"),
        (Block(4, 3), "5 layers, numbered 0 to 4"),
        ({-1}, "numbered 0 to 4"),
    ],
    ids=str,
)
def test_a_depth_without_receiver_is_refused(whole, source, removed, words):
    """A depth without receiver is refused."""
    with pytest.raises(ValueError, match=words):
        drop_layers(whole, removed)
    with pytest.raises(ValueError, match=words):
        load_pruned(source, removed)


def test_block():
    """Block."""
    assert (Block(2, 3).removed, Block(2, 3).receiving) == ((2, 3, 4), 5)
    for start, size in ((-1, 1), (0, 0)):
        with pytest.raises(ValueError, match="start counts"):
            Block(start, size)
    with pytest.raises(AttributeError):
        Block(1, 1).start = 2
    assert tuple(Block(2, 3)) == (2, 3, 4)


def test_whatever_says_which_layers_becomes_one_thing():
    """Whatever says which layers becomes one thing."""
    for removed in (Block(1, 2), [2, 1, 1], {1, 2}, (i for i in (1, 2))):
        assert Removal.of(removed, 5) == Removal((1, 2), 5)
    plan = Plan([1, 2], 5)
    assert Removal.of(plan, 5) is plan
    assert not Removal.of(None, 5) and Removal.of([], 5).kept == (0, 1, 2, 3, 4)
    assert Removal.of(Block(0, 2), 5).receiving == (0,)
    assert Removal.of({0, 1, 3}, 5).receiving == (0, 1)
    assert Removal.of({0, 1, 3}, 5).until(Block(0, 2)).layers == (0, 1)
    with pytest.raises(ValueError, match="were chosen of 5 layers"):
        Removal.of(plan, 6)


def test_what_is_no_causal_lm_is_refused(tmp_path, source):
    """What is no causal lm is refused."""
    with pytest.raises(TypeError, match="Llama or Qwen2 kind"):
        drop_layers(torch.nn.Linear(1, 1), Block(0, 1))
    # One of another kind; one of several models, of which one is a causal LM.
    for config in (WavLMConfig(num_hidden_layers=4), LlavaConfig()):
        config.save_pretrained(tmp_path)
        for load in (load_pruned, Decoder.from_source):
            with pytest.raises(TypeError, match="model, not a causal LM"):
                load(str(tmp_path), Block(0, 1))
    # A speech LLM is pruned as one, and is no plain decoder either.
    Qwen2AudioConfig().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="model, not a causal LM"):
        Decoder.from_source(str(tmp_path), Block(0, 1))


def test_missing_weights_are_told(source, tmp_path):
    """Missing weights are told."""
    config = (Path(source) / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load_pruned(str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(source)
    state = dict(model.state_dict())
    del state["model.layers.0.mlp.up_proj.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="layers.0.mlp.up_proj.*again"):
        load_pruned(str(tmp_path), Block(1, 1))
    state = dict(model.state_dict())
    state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises((ValueError, RuntimeError), match="up_proj"):
        load_pruned(str(tmp_path), Block(1, 1))
