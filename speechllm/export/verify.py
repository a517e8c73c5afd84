"""Compare an export with what it was made from, before it is called done.

The export is loaded anew, as a whole and with transformers and PEFT alone
(and the bridges, where a task has some), and must do what the runs did.
"""

import os
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from speechbrain_ext.healing.bridge import load_bridges
from speechbrain_ext.quiet import quiet_loading
from speechllm.exported.format import (
    ADAPTER,
    BACKBONE,
    BASELINE_ADAPTER,
    BRIDGE,
    TASKS,
    ExportError,
)
from speechllm.exported.transcribe import decoding, features_of

# ----------------------------------------------------------------------------
# Try a model on something fixed, to compare it with another.
#
# Each task is tried on one fixed sound: its logits, what it decodes with the
# key-value cache, and the text. Its causal LM is tried on fixed token ids too,
# so that it can be compared where no speech part is there.

SECONDS = 1.5
TOKENS = 16


@dataclass
class Probe:
    """What a task does with the fixed sound and the fixed ids."""

    logits_NV: torch.Tensor
    tokens: list
    text: str
    lm_logits_QV: torch.Tensor
    lm_tokens: list
    dtype: torch.dtype
    two_adapters: bool = False


@torch.no_grad()
def probe(model, settings):
    """Try a task."""
    decoder = model.decoder
    rate = model.encoder.sample_rate
    generator = torch.Generator().manual_seed(0)
    time_N = torch.arange(int(SECONDS * rate)) / rate
    wav_N = 0.1 * torch.randn(len(time_N), generator=generator)
    wav_N += 0.3 * torch.sin(2 * torch.pi * 300 * time_N)
    with decoding(model, settings):
        x_BSF, tokens_B = features_of(model, settings, [wav_N])
        sequence = model.sequence(x_BSF, tokens_B, side="left")
        tokens = decoder.greedy(sequence, torch.tensor([TOKENS]))[0]
        said = torch.tensor([*tokens, decoder.tokenizer.eos_token_id])
        logits_NV, _ = model(x_BSF, tokens_B, [said])
    lm_logits_QV, lm_tokens = probe_lm(decoder.lm, decoder.stop_ids)
    return Probe(
        logits_NV.float().cpu(),
        tokens,
        model.prompt.decode(tokens),
        lm_logits_QV,
        lm_tokens,
        decoder.dtype,
        settings.adapter and settings.baseline_adapter,
    )


@torch.no_grad()
def probe_lm(lm, stop_ids):
    """Logits of a causal LM on fixed ids, and what it generates from them."""
    weight = lm.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(weight), (1, 12), generator=generator)
    ids = ids.to(weight.device)
    mask = torch.ones_like(ids)
    logits_QV = lm(input_ids=ids, attention_mask=mask).logits[0]
    with quiet_loading():
        tokens = lm.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=stop_ids[0],
        )[0, ids.shape[1] :]
    return logits_QV.float().cpu(), tokens.tolist()


# Largest difference of two logits, as a share of the largest logit. The same
# weights on the same machine differ by nothing; a folded adapter by what the
# type of the weights can hold.
SAME = 1e-5
MERGED = {
    torch.float32: 2e-4,
    torch.float16: 0.02,
    torch.bfloat16: 0.1,
}


def reload_probes(folder, device="cpu"):
    """Load an export anew and try each of its tasks."""
    from speechllm.exported.model import ExportedSpeechLLM

    loaded = ExportedSpeechLLM.from_pretrained(folder, device=device)
    found = {}
    for name, settings in loaded.settings.items():
        found[name] = probe(loaded.use(name), settings)
        stops, dtype = loaded.decoder.stop_ids, loaded.decoder.dtype
    settings = loaded.settings
    del loaded
    for name, one in found.items():
        lm = load_plain(folder, name, settings[name], dtype, device)
        one.lm_logits_QV, one.lm_tokens = probe_lm(lm, stops)
        del lm
    return found


def load_plain(folder, name, settings, dtype, device="cpu"):
    """Backbone and adapter with nothing but transformers and PEFT."""
    backbone = os.path.join(folder, BACKBONE)
    with quiet_loading():
        lm, report = AutoModelForCausalLM.from_pretrained(
            backbone,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
        )
    wrong = [*report["missing_keys"], *report["unexpected_keys"]]
    wrong += report["mismatched_keys"]
    if wrong:
        raise ExportError(
            f"{backbone}: transformers finds weights missing, of another "
            f"shape or too many, first {wrong[0]}"
        )
    lm = lm.to(device).eval()
    if settings.bridge:
        load_bridges(lm, os.path.join(folder, TASKS, name, BRIDGE))
    wanted = {
        ADAPTER: settings.adapter,
        BASELINE_ADAPTER: settings.baseline_adapter,
    }
    adapters = [one for one, there in wanted.items() if there]
    for one in adapters:
        path = os.path.join(folder, TASKS, name, one)
        if isinstance(lm, PeftModel):
            lm.load_adapter(path, one)
        else:
            lm = PeftModel.from_pretrained(lm, path, one)
    if adapters:
        lm.base_model.set_adapter(adapters)
    return lm.eval()


def compare_probes(ours, theirs, merged):
    """Refuse an export that does not do what its runs do."""
    return {
        name: _compare(name, ours[name], theirs[name], merged) for name in ours
    }


def _compare(name, one, other, merged):
    allowed = MERGED[one.dtype] if merged else SAME
    where = f"The export's task {name} differs from the run it was made of"
    found = {}
    rounded = MERGED[one.dtype] if one.two_adapters else SAME
    bounds = {"lm_logits_QV": max(allowed, rounded), "logits_NV": allowed}
    for what, allowed in bounds.items():
        a, b = getattr(one, what), getattr(other, what)
        # Answers of other lengths are told of below, in words.
        count = min(len(a), len(b))
        if what == "logits_NV":
            count = min(count, 1 + _agree(one.tokens, other.tokens))
        a, b = a[:count], b[:count]
        found[what] = float((a - b).abs().max() / a.abs().max())
        # Not "greater than": NaN must not pass.
        if not found[what] <= allowed:
            raise ExportError(
                f"{where}: in its logits ({what}), by {found[what]:.2g} of "
                f"the largest; {allowed:.2g} is rounding. Nothing was kept."
            )
    for what in ("tokens", "lm_tokens"):
        a, b = getattr(one, what), getattr(other, what)
        if a == b:
            continue
        place = _agree(a, b)
        # transformers' generation gives no logits to judge a tie by.
        if what == "lm_tokens":
            near = merged or one.two_adapters
        else:
            near = merged and _is_tie(one.logits_NV, place, allowed)
        if not near:
            raise ExportError(
                f"{where}: in what it generates ({what}), from token {place} "
                f"on: {a[place : place + 5]} became {b[place : place + 5]}. "
                "Nothing was kept."
            )
        found[f"{what}_from"] = place
    return found


def _agree(a, b):
    """How many tokens two answers share at their beginning (int)."""
    pairs = enumerate(zip(a, b))
    differing = (place for place, (x, y) in pairs if x != y)
    return next(differing, min(len(a), len(b)))


def _is_tie(logits_NV, place, allowed):
    """Whether the two best tokens there are a rounding apart."""
    best = logits_NV[place].topk(2).values
    return float(best[0] - best[1]) <= 2 * allowed * float(
        logits_NV.abs().max()
    )
