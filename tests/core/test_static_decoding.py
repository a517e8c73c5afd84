"""Decoding in fixed buffers: the same text as in a growing cache.

Authors
 * The speechbrain_ext authors, 2026
"""

import sys

import pytest
import torch
from speech_llm_fixtures import make_decoder, make_features, make_model

from speechbrain_ext.healing import Lora, heal
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.model import static_decoding as fused_kernels
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.decoding import STRETCH, first_best
from speechbrain_ext.model.few_rows import (
    FEW_ROWS,
    LARGE_VOCABULARY,
    NARROW,
    head,
)
from speechbrain_ext.model.static_decoding import StaticDecoding, check_static

SPEECH = [4, 9, 1, 6, 2, 7, 3, 5]
LIMITS = torch.tensor([25, 3, 18, 0, 25, 1, 14, 6])


def left(model, sizes=SPEECH, seed=3):
    """Rows of mixed lengths, to decode."""
    x_BSF, tokens_B = make_features(sizes, seed=seed)
    with torch.no_grad():
        return model.sequence(x_BSF, tokens_B, side="left")


def both(model, static, *args, limits=LIMITS, **kwargs):
    """Answers of the plain way and in fixed buffers."""
    sequence = left(model, *args, **kwargs)
    model.decoder.static = None
    plain = model.decoder.greedy(sequence, limits)
    model.decoder.static = static
    return plain, model.decoder.greedy(sequence, limits)


def test_the_same_text_again_and_again(source):
    """The same text again and again."""
    model = make_model(source, Block(1, 2)).eval()
    static = StaticDecoding()
    plain, fixed = both(model, static)
    assert plain == fixed and max(map(len, plain)) > 10
    buffers = static._steps
    # What the first batch left in the buffers is not seen by the second.
    other, fixed = both(model, static, sizes=[1, 2, 1, 3, 2, 1, 4, 2], seed=9)
    assert other == fixed != plain
    assert static._steps is buffers
    plain, fixed = both(model, static, sizes=[5, 2], limits=LIMITS[:2])
    assert plain == fixed
    assert static._steps is not buffers


def test_stops_end_the_batch(source):
    """Stops end the batch."""
    model = make_model(source).eval()
    free, _ = both(model, StaticDecoding())
    model.decoder.lm.generation_config.eos_token_id = [free[0][7], free[4][2]]
    plain, fixed = both(model, StaticDecoding())
    assert plain == fixed and sum(map(len, plain)) < sum(map(len, free))


def test_an_adapter_needs_new_buffers(source):
    """An adapter needs new buffers."""
    removed = Block(1, 2)
    model = make_model(source, removed).eval()
    static = StaticDecoding()
    both(model, static)
    buffers = static._steps
    heal(model, removed, "decoder", Lora(rank=2, dropout=0.0), verbose=False)
    for name, parameter in model.decoder.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.5
    plain, fixed = both(model.eval(), static)
    assert plain == fixed
    assert static._steps is not buffers


def test_sliding_windows_are_refused(tmp_path):
    """Sliding windows are refused."""
    source = make_decoder(
        "qwen2",
        tmp_path / "m",
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
    )
    with pytest.raises(ValueError, match="set decode_static: False"):
        Decoder.from_source(source, decode_static=True)


def test_the_option_reaches_the_decoder(source):
    """The option reaches the decoder."""
    assert Decoder.from_source(source).static is None
    assert Decoder.from_source(source, decode_static=True).static is not None


@pytest.mark.parametrize("size", [3, STRETCH, STRETCH + 1, 5 * STRETCH])
def test_first_best_across_stretches(size):
    """First best across stretches."""
    logits = torch.randn(4, size)
    for place in {0, size // 2, size - 1}:
        twins = logits.clone()
        twins[:, place:] = twins.max() + 1
        assert first_best(twins).tolist() == [place] * 4
    assert first_best(logits).tolist() == logits.argmax(dim=1).tolist()


@pytest.mark.parametrize("vocabulary", [50, LARGE_VOCABULARY])
@pytest.mark.parametrize("width", [6, NARROW + 1])
def test_the_head_of_few_rows_is_the_head(vocabulary, width):
    """The head of few rows is the head."""
    layer = torch.nn.Linear(width, vocabulary, bias=False)
    with_bias = torch.nn.Linear(width, vocabulary)
    calls = []
    hooked = torch.nn.Linear(width, vocabulary, bias=False)
    hooked.register_forward_hook(lambda *args: calls.append(1))
    for rows in (1, 2, FEW_ROWS, FEW_ROWS + 1):
        h_BD = torch.randn(rows, width)
        for lm_head in (layer, with_bias, hooked):
            logits_BV = head(lm_head, h_BD)
            expected_BV = lm_head(h_BD)
            torch.testing.assert_close(
                logits_BV, expected_BV, rtol=1e-4, atol=1e-5
            )
            assert logits_BV.is_contiguous()
    assert len(calls) == 8


def test_answers_do_not_depend_on_the_order_of_products(source, monkeypatch):
    """Answers do not depend on the order of products."""
    model = make_model(source).eval()
    sequence = left(model)
    said = model.decoder.greedy(sequence, LIMITS)
    monkeypatch.setattr("speechbrain_ext.model.few_rows.LARGE_VOCABULARY", 1)
    products, vocabulary = [], model.decoder.lm.lm_head.out_features
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor,
        "__matmul__",
        lambda a, b: (
            # Of the head alone: a family may rotate by a product, too.
            (len(a) == vocabulary and products.append(len(b.T)))
            or product(a, b)
        ),
    )
    assert model.decoder.greedy(sequence, LIMITS) == said
    # Rows leave the batch of eight; the last one is multiplied as two.
    assert {2, 3} & set(products) and max(products) <= FEW_ROWS


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masks_are_added_in_any_attention(source, attention):
    """Masks are added in any attention."""
    model = make_model(source).eval()
    model.decoder.lm.set_attn_implementation(attention)
    plain, fixed = both(model, StaticDecoding())
    assert plain == fixed and max(map(len, plain)) > 10


def test_other_attention_is_refused(source):
    """Other attention is refused."""
    lm = make_model(source).decoder.lm
    lm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attention: sdpa"):
        check_static(lm)


def test_fused_pieces_are_the_same_and_leave_no_trace(source, monkeypatch):
    """Fused pieces are the same and leave no trace."""
    monkeypatch.setattr(fused_kernels, "BACKEND", "aot_eager")
    model = make_model(source, Block(1, 2)).eval()
    lm = model.decoder.lm
    before = {name: vars(m).copy() for name, m in lm.named_modules()}
    rotation = sys.modules[type(lm).__module__].apply_rotary_pos_emb
    sequence = left(model)
    expected = lm(**sequence.as_inputs()).logits
    with fused_kernels.fused(lm):
        norms = [
            "forward" in vars(m)
            for m in lm.modules()
            if type(m).__name__.endswith(("RMSNorm", "MLP"))
        ]
        assert all(norms) and len(norms) == 3 * len(lm.model.layers) + 1
        found = sys.modules[type(lm).__module__].apply_rotary_pos_emb
        assert found is not rotation
        logits = lm(**sequence.as_inputs()).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert sys.modules[type(lm).__module__].apply_rotary_pos_emb is rotation
    after = {name: vars(m).copy() for name, m in lm.named_modules()}
    assert before.keys() == after.keys()
    assert all(before[n].keys() == after[n].keys() for n in before)


def test_what_others_have_changed_is_not_fused(source, monkeypatch):
    """What others have changed is not fused."""
    monkeypatch.setattr(fused_kernels, "BACKEND", "aot_eager")
    model = make_model(source, Block(1, 2)).eval()
    first, second, *_ = model.decoder.lm.model.layers
    first.mlp.up_proj = torch.nn.Sequential(first.mlp.up_proj)
    first.input_layernorm.register_forward_hook(lambda *args: None)
    second.mlp.act_fn.register_forward_pre_hook(lambda *args: None)
    lm = model.decoder.lm
    with fused_kernels.fused(lm):
        changed = {n for n, m in lm.named_modules() if "forward" in vars(m)}
    kept = {"model.layers.0.mlp", "model.layers.1.mlp"}
    assert not changed & {*kept, "model.layers.0.input_layernorm"}
    assert "model.layers.1.input_layernorm" in changed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sizes", [SPEECH, [5], [3, 3]])
def test_a_recorded_graph_says_the_same(source, sizes):
    """A recorded graph says the same."""
    model = make_model(source).eval().to("cuda")
    x_BSF, tokens_B = make_features(sizes)
    limits = torch.full((len(sizes),), 25)
    static = StaticDecoding()
    with torch.no_grad():
        sequence = model.sequence(x_BSF.cuda(), tokens_B.cuda(), side="left")
    plain = model.decoder.greedy(sequence, limits)
    model.decoder.static = static
    for _ in range(2):
        assert model.decoder.greedy(sequence, limits) == plain
    assert static._steps.graph is not None
