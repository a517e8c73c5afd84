"""A causal LM called in parts is the causal LM; its cache is used."""

import inspect

import pytest
import torch
from conftest import make_features, make_model
from families import tiny_config, tiny_lm
from transformers import Cache

from speechbrain_ext.layers.families import (
    check_calls,
    rounding_of,
)
from speechbrain_ext.layers.lm_calls import (
    cache_argument,
    last_states,
    logits_of,
)
from speechbrain_ext.layers.pruned_config import pruned_config
from speechbrain_ext.layers.residual import on_stream
from speechbrain_ext.model.decoder import Decoder

SPEECH = [4, 9, 1]
LIMITS = torch.full((len(SPEECH),), 12)


@pytest.fixture
def model(source):
    model = make_model(source).eval()
    model.decoder.lm.generation_config.eos_token_id = None
    return model


def said(model, static=False):
    with torch.no_grad():
        rows = model.sequence(*make_features(SPEECH), side="left")
    decoder = model.decoder
    if static:
        decoder = Decoder(decoder.lm, decoder.tokenizer, decode_static=True)
    return decoder.greedy(rows, LIMITS)


def place_of(cache):
    return 0 if cache is None else int(cache.place)


def rename_cache(lm, name, annotation=Cache | None):
    """Give the cache's argument another name; the old one is swallowed."""
    own = cache_argument(lm.model)
    forward, calls = lm.model.forward, []

    def renamed(*args, **kwargs):
        cache = kwargs.pop(name, None)
        for unknown in ("past_key_values", "cache"):
            kwargs.pop(unknown, None)
        output = forward(*args, **kwargs, **{own: cache})
        width = output.last_hidden_state.shape[1]
        # Fixed buffers know their place, and no length.
        length = getattr(cache, "get_seq_length", None)
        calls.append((width, length() if length else place_of(cache)))
        return output

    first = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None)
        for n in ("input_ids", "inputs_embeds", "attention_mask")
    ]
    if name:
        first.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation
            )
        )
    rest = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
    renamed.__signature__ = inspect.Signature([*first, rest])
    lm.model.forward = renamed
    return calls


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["past_key_values", "cache", "kv_of_layers"])
def test_the_cache_is_used_under_any_name(model, name, static):
    expected = said(model)
    calls = rename_cache(model.decoder.lm, name)
    assert said(model, static) == expected
    width, first = calls[0]
    assert width == first > 1 and len(calls) == int(LIMITS.max())
    for number, (width, length) in enumerate(calls[1:], start=1):
        assert width == 1
        # Buffers are moved on behind the forward.
        assert length == first + number - static


def test_a_forward_without_a_cache_is_refused(model):
    rename_cache(model.decoder.lm, None)
    with pytest.raises(TypeError, match="takes no key-value cache"):
        said(model)
    with pytest.raises(TypeError, match="takes no key-value cache"):
        check_calls(model.decoder.lm)


def spoil_cache(lm, spoil):
    """Do something to the cache before each forward."""
    forward, name = lm.model.forward, cache_argument(lm.model)

    def spoilt(cache=None, **kwargs):
        return forward(**kwargs, **{name: spoil(cache)})

    lm.model.forward = spoilt


def test_a_cache_that_is_swallowed_is_refused(model):
    spoil_cache(model.decoder.lm, lambda cache: None)
    with pytest.raises(TypeError, match="does not put what it reads into"):
        check_calls(model.decoder.lm)


def test_what_a_cache_holds_is_compared(model):
    """Not its length alone."""

    def forget(cache):
        if cache is not None and cache.get_seq_length():
            for layer in cache.layers:
                layer.keys.zero_()
        return cache

    spoil_cache(model.decoder.lm, forget)
    with pytest.raises(TypeError, match="token by token"):
        check_calls(model.decoder.lm)


@pytest.mark.parametrize("family", ["granite", "cohere", "gemma2", "llama"])
def test_logits_are_the_models_own(family):
    lm = tiny_lm(tiny_config(family))
    ids = torch.arange(3, 12)[None]
    whole = lm(input_ids=ids, use_cache=False).logits[0]
    h_BQD = last_states(lm, input_ids=ids)
    torch.testing.assert_close(logits_of(lm, h_BQD[0]), whole)
    # Some positions, or none, and with a gradient.
    h_ND = h_BQD[0, 2:5].detach().requires_grad_()
    logits_of(lm, h_ND).sum().backward()
    assert h_ND.grad.abs().sum() > 0
    assert logits_of(lm, h_BQD[0, :0]).shape == (0, whole.shape[-1])


def test_embeddings_that_a_model_scales_by_itself_are_refused():
    """FalconH1 scales token embeddings, and not those it is given."""
    lm = tiny_lm(tiny_config("falcon_h1"))
    with pytest.raises(TypeError, match="their embeddings differently"):
        check_calls(lm)


def test_such_a_decoder_is_refused_when_it_is_loaded(tmp_path, source):
    folder = str(tmp_path / "falcon")
    tiny_lm(tiny_config("falcon_h1")).save_pretrained(folder)
    with pytest.raises(TypeError, match="docs/families.md"):
        Decoder.from_source(folder)


def test_a_pruned_configuration_describes_the_kept_layers():
    config = tiny_config("qwen3_moe", mlp_only_layers=[1, 4])
    assert pruned_config(config, {0, 2}).mlp_only_layers == [0, 2]
    config = tiny_config("qwen3_moe", mlp_only_layers=[], decoder_sparse_step=2)
    pruned = pruned_config(config, {0})
    assert pruned.mlp_only_layers == [1, 3]
    assert pruned.decoder_sparse_step == 1
    config = tiny_config("deepseek_v3", first_k_dense_replace=2)
    assert pruned_config(config, {1, 3}).first_k_dense_replace == 1
    assert pruned_config(config, {3}).first_k_dense_replace == 2
    assert config.first_k_dense_replace == 2


def test_layers_that_depend_on_their_index_are_refused():
    config = tiny_config("diffllama")
    with pytest.raises(TypeError, match="layer 3 would be .*lambda_init"):
        pruned_config(config, {1, 2})
    assert pruned_config(config, None).num_hidden_layers == 6


def test_the_stream_is_seen_and_changed_at_every_layer(source):
    """Against the states that transformers hands out; nothing stays on."""
    lm = make_model(source).eval().decoder.lm
    ids, seen = torch.arange(5, 12)[None], []

    def see(index, h_BQD, options):
        seen.append((index, h_BQD))
        assert (options is None) == (index == len(lm.model.layers))
        return 2 * h_BQD if index == 1 else None

    with torch.no_grad(), on_stream(lm, see):
        output = lm(input_ids=ids, output_hidden_states=True)
    assert [index for index, _ in seen] == list(range(6))
    # What enters layer 1 was changed after it was seen.
    states = output.hidden_states
    assert torch.equal(2 * seen[1][1], 2 * states[1])
    for index in (0, 2, 3, 4):
        assert torch.equal(seen[index][1], states[index])
    assert torch.equal(lm.model.norm(seen[5][1]), states[5])
    with torch.no_grad():
        plain = lm(input_ids=ids)
    assert not torch.equal(plain.logits, output.logits) and len(seen) == 6


def test_a_card_may_round_as_tf32():
    """A sound float32 model was refused on a GPU, where TF32 was allowed."""
    assert rounding_of(torch.zeros(1)) == (1e-3, True)
    assert rounding_of(torch.zeros(1).bfloat16()) == (0.05, False)
    assert rounding_of(torch.empty(1, device="meta")) == (0.05, False)
