"""A projector's training step and the encoder's memory, change by change.

Each change is switched on over those before it, and the results are compared
before anything is timed: the encoder's features in fp32, the decoder's loss.
"""

import contextlib
from unittest import mock

import torch
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from benchmarks.gpu_clock import kernels
from benchmarks.gpu_models import build
from benchmarks.models import noise
from speechbrain_ext.model import encoder_cores, encoder_fast
from speechbrain_ext.model.encoder_fast import FusedWavLMAttention
from speechbrain_ext.model.prompt import Sequence

# What each step adds to the one before it.
CHANGES = (
    "before: encoder in fp32, transformers' attention, masks given",
    "encoder in bfloat16",
    "fused attention in WavLM, rows in parts",
    "its convolutions channels last",
    "no mask where padding is on the right",
)


@contextlib.contextmanager
def state(model, level):
    """The model as it is with the first `level` changes."""
    attention = FusedWavLMAttention if level >= 2 else WavLMAttention
    for module in model.encoder.core.modules():
        if isinstance(module, WavLMAttention):
            module.__class__ = attention
    model.encoder.to(torch.bfloat16 if level >= 1 else torch.float32)
    most = dict.fromkeys(encoder_cores.MOST_BYTES, 2**62)
    with contextlib.ExitStack() as stack:
        for least, where, name, value in (
            (2, encoder_cores, "MOST_BYTES", most),
            (3, encoder_fast, "DEVICES", ()),
            (4, Sequence, "causal_inputs", Sequence.as_inputs),
        ):
            if level < least:
                stack.enter_context(mock.patch.object(where, name, value))
        yield


def difference(x, y):
    """Relative, in the Frobenius norm (float)."""
    return ((x.float() - y.float()).norm() / y.float().norm()).item()


def training_steps(name, tier, clock):
    """A step of batch 16, encoder included, with more and more changes."""
    model = build(name, 0, tier, clock.device)
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    batch, vocabulary = tier["training_batch"], model.decoder.lm.config
    wav_BN, lengths_B = noise(batch, tier["seconds"], 0.6, clock.device)
    targets = [
        torch.randint(vocabulary.vocab_size, (tier["tokens"] - i,))
        for i in range(min(batch, tier["tokens"] - 1))
    ]

    def features():
        return model.features(wav_BN, lengths_B)

    def loss():
        logits_NV, labels_N = model(*features(), targets)
        return torch.nn.functional.cross_entropy(logits_NV.float(), labels_N)

    def step():
        model.projector.zero_grad(set_to_none=True)
        loss().backward()

    found, gradients = {}, {}
    for level, change in enumerate(CHANGES):
        with state(model, level):
            step_s, peak = clock.seconds(step), clock.peak(step)
            gradients[level] = [p.grad for p in model.projector.parameters()]
            with torch.no_grad():
                decoder = model.sequence(*features(), targets)
                found[change] = {
                    "step_s": step_s,
                    "encoder_s": clock.seconds(features),
                    "encoder": kernels(clock.device, features),
                    "peak_gib": peak,
                    "loss": loss().item(),
                    "decoder_forward": kernels(
                        clock.device,
                        lambda: model.decoder.hidden(decoder),
                        ("flash", "fmha"),
                    ),
                }
    for level, change in enumerate(CHANGES):
        pairs = zip(gradients[level], gradients[0], strict=True)
        found[change]["gradient_difference"] = max(
            difference(*pair) for pair in pairs
        )
    if not clock.spent():
        found["with gradient checkpointing"] = checkpointed(model, step, clock)
    return found


def checkpointed(model, step, clock):
    """The last of `training_steps` once more, activations recomputed."""
    lm = model.decoder.lm
    lm.gradient_checkpointing_enable({"use_reentrant": False})
    lm.disable_input_require_grads()
    lm.train()
    with state(model, len(CHANGES) - 1):
        return {"step_s": clock.seconds(step), "peak_gib": clock.peak(step)}


@torch.no_grad()
def encoder_memory(tier, clock):
    """The encoder on long utterances: memory and time, checked in fp32."""
    model = build(tier["trained"][-1], 0, tier, clock.device)
    batch, device = tier["training_batch"], clock.device
    wav_BN, lengths_B = noise(batch, tier["long_seconds"], 0.6, device)
    found, features = {}, {}
    for title, level, dtype in (
        ("before, float32", 0, torch.float32),
        ("after, float32", 3, torch.float32),
        ("before, bfloat16", 1, torch.bfloat16),
        ("after, bfloat16", 3, torch.bfloat16),
    ):
        with state(model, level):
            model.encoder.to(dtype)
            clock.empty()
            held = 0
            if device.type == "cuda":
                held = torch.cuda.memory_allocated() / 2**30

            def encode():
                return model.encoder(wav_BN, lengths_B)[0]

            features[title] = encode().cpu()
            peak = clock.peak(encode)
            found[title] = {
                "peak_gib": None if peak is None else peak - held,
                "seconds": clock.seconds(encode),
                "difference": difference(
                    features[title], features["before, float32"]
                ),
            }
    # The convolutions are in TF32 by torch's default on either side.
    assert found["after, float32"]["difference"] < 1e-4, found
    return found
