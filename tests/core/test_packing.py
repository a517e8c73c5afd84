"""A batch as one row without padding: the same loss and gradients."""

import pytest
import torch
from speech_llm_fixtures import make_features, make_model
from transformers import Lfm2Config, Lfm2ForCausalLM, Qwen2Config

from speechbrain_ext.healing import heal
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.packing import check_packing, in_one_row

TEXTS = ["we go", "the cat sat on the mat", "no"]


def losses(source, *, packed, seen, checkpointing=False):
    """Loss of each target token, and gradients, of a healed model's batch."""
    model = make_model(
        source, Block(1, 2), gradient_checkpointing=checkpointing
    )
    model.decoder.pack = in_one_row if packed else None
    torch.manual_seed(0)
    trainable = heal(model, Block(1, 2), "both", verbose=False)
    for _, p in trainable.named():
        p.data += 0.02 * torch.randn_like(p)
    # No dropout: which positions it meets is another matter.
    model.eval()
    layer = model.decoder.lm.model.layers[0]
    layer.mlp.register_forward_pre_hook(
        lambda _, args: seen.append(tuple(args[0].shape[:2]))
    )
    x_BSF, tokens_B = make_features([6, 1, 5])
    targets = [model.prompt.encode_target(text) for text in TEXTS]
    logits_NV, labels_N = model(x_BSF, tokens_B, targets)
    loss_N = torch.nn.functional.cross_entropy(
        logits_NV, labels_N, reduction="none"
    )
    loss_N.mean().backward()
    return labels_N, loss_N, {name: p.grad for name, p in trainable.named()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_same_loss_and_gradients(source, checkpointing):
    """Token by token, and nothing runs at padding."""
    options, seen = {"checkpointing": checkpointing}, []
    told = [losses(source, packed=False, seen=seen, **options)]
    ((rows, width),) = set(seen)
    seen.clear()
    told.append(losses(source, packed=True, seen=seen, **options))
    ((one, positions),) = set(seen)
    assert one == 1 and positions < rows * width
    (labels_N, loss_N, grads), (again_N, packed_N, packed_grads) = told
    assert torch.equal(labels_N, again_N)
    torch.testing.assert_close(loss_N, packed_N)
    assert grads.keys() == packed_grads.keys()
    for name in grads:
        torch.testing.assert_close(grads[name], packed_grads[name])


def test_the_setting_packs_and_decodes_as_before(source):
    """What is said does not hang on how losses are computed."""
    plain, packing = (
        Decoder.from_source(source, padding_free=free) for free in (False, True)
    )
    assert plain.pack is None and packing.pack is in_one_row
    model = make_model(source).eval()
    x_BSF, tokens_B = make_features([6, 1, 5])
    limits_B = torch.tensor([9, 9, 9])
    said = []
    for model.decoder in (plain, packing):
        said.append([a.ids for a in model.answer(x_BSF, tokens_B, limits_B)])
    assert said[0] == said[1]


SIZES = dict(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


@pytest.mark.parametrize("named", [True, False])
def test_a_decoder_that_carries_states_on_is_refused(named):
    """A convolution over positions reads the row before, named or found."""
    kinds = ["conv", "full_attention"]
    torch.manual_seed(0)
    lm = Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=kinds)).eval()
    if not named:
        for parameter in lm.parameters():
            parameter.data *= 3
        lm.config = Qwen2Config(**SIZES)
    with pytest.raises(ValueError, match="a row sees what stands before it"):
        check_packing(lm)
