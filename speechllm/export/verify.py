"""Compare an export with what it was made from, before it is called done.

The export is loaded anew, as a whole and with transformers and PEFT alone
(and the bridges, where a task has some), and must do what the runs did: each
task on one fixed sound (its logits, what it decodes, the text), its causal LM
on fixed token ids too, where no speech part is there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from peft import PeftModel

from speechbrain_ext.healing.bridge import load_bridges
from speechbrain_ext.model.speech_llm import SpeechLLM
from speechllm.exported.format import (
    BACKBONE,
    BRIDGE,
    TASKS,
    ExportError,
    TaskSettings,
)
from speechllm.exported.model import ExportedSpeechLLM
from speechllm.exported.transcribe import decoding, features_of
from speechllm.saved import TOKENS, load_plain, probe_lm

SECONDS = 1.5
# Largest difference of two logits, as a share of the largest logit. The same
# weights on the same machine differ by nothing; a folded adapter by what the
# type of the weights can hold.
SAME = 1e-5
MERGED = {
    torch.float32: 2e-4,
    torch.float16: 0.02,
    torch.bfloat16: 0.1,
}


@dataclass
class Probe:
    """What a task does with the fixed sound and the fixed ids."""

    logits_NV: torch.Tensor
    tokens: list[int]
    text: str
    lm_logits_QV: torch.Tensor
    lm_tokens: list[int]
    dtype: torch.dtype
    two_adapters: bool = False


@torch.no_grad()
def probe(model: SpeechLLM, settings: TaskSettings) -> Probe:
    """Try a task."""
    decoder, rate = model.decoder, model.encoder.sample_rate
    generator = torch.Generator().manual_seed(0)
    time_N = torch.arange(int(SECONDS * rate)) / rate
    wav_N = 0.1 * torch.randn(len(time_N), generator=generator)
    wav_N += 0.3 * torch.sin(2 * torch.pi * 300 * time_N)
    with decoding(model, settings):
        x_BSF, tokens_B = features_of(model, settings, [wav_N])
        (said,) = model.answer(x_BSF, tokens_B, torch.tensor([TOKENS]))
        target = torch.tensor([*said.ids, decoder.tokenizer.eos_token_id])
        logits_NV, _ = model(x_BSF, tokens_B, [target])
    return Probe(
        logits_NV.float().cpu(),
        said.ids,
        said.text,
        *probe_lm(decoder.lm, decoder.stop_ids[0]),
        decoder.dtype,
        len(settings.adapters) == 2,
    )


def reload_probes(folder: str, device: str = "cpu") -> dict[str, Probe]:
    """Load an export anew and try each of its tasks."""
    loaded = ExportedSpeechLLM.from_pretrained(folder, device=device)
    settings, pad = loaded.settings, loaded.decoder.stop_ids[0]
    found = {n: probe(loaded.use(n), one) for n, one in settings.items()}
    # Two models need not fit.
    del loaded
    for name, one in found.items():
        lm = _load_task(folder, name, settings[name], one.dtype, device)
        one.lm_logits_QV, one.lm_tokens = probe_lm(lm, pad)
        del lm
    return found


def _load_task(folder, name, settings, dtype, device):
    """Backbone and adapters with nothing but transformers and PEFT."""
    lm = load_plain(os.path.join(folder, BACKBONE), dtype, device)
    task = os.path.join(folder, TASKS, name)
    if settings.bridge:
        load_bridges(lm, os.path.join(task, BRIDGE))
    for one in settings.adapters:
        path = os.path.join(task, one)
        if isinstance(lm, PeftModel):
            lm.load_adapter(path, one)
        else:
            lm = PeftModel.from_pretrained(lm, path, one)
    if settings.adapters:
        lm.base_model.set_adapter(settings.adapters)
    return lm.eval()


def compare_probes(
    ours: dict[str, Probe], theirs: dict[str, Probe], merged: bool
) -> dict[str, dict]:
    """Refuse an export that does not do what its runs do."""
    return {
        name: {
            **_compare_logits(name, ours[name], theirs[name], merged),
            **_compare_tokens(name, ours[name], theirs[name], merged),
        }
        for name in ours
    }


def _differs(name, where):
    return ExportError(
        f"The export's task {name} differs from the run it was made of: in "
        f"{where}. Nothing was kept."
    )


def _compare_logits(name, one, other, merged):
    allowed = MERGED[one.dtype] if merged else SAME
    rounded = MERGED[one.dtype] if one.two_adapters else SAME
    bounds = {"lm_logits_QV": max(allowed, rounded), "logits_NV": allowed}
    found = {}
    for what, bound in bounds.items():
        a, b = getattr(one, what), getattr(other, what)
        # Answers of other lengths are told of by their tokens.
        count = min(len(a), len(b))
        if what == "logits_NV":
            count = min(count, 1 + _agree(one.tokens, other.tokens))
        a, b = a[:count], b[:count]
        found[what] = float((a - b).abs().max() / a.abs().max())
        # Not "greater than": NaN must not pass.
        if not found[what] <= bound:
            raise _differs(
                name,
                f"its logits ({what}), by {found[what]:.2g} of the largest; "
                f"{bound:.2g} is rounding",
            )
    return found


def _compare_tokens(name, one, other, merged):
    found = {}
    for what in ("tokens", "lm_tokens"):
        a, b = getattr(one, what), getattr(other, what)
        if a == b:
            continue
        place = _agree(a, b)
        # transformers' generation gives no logits to judge a tie by.
        if what == "lm_tokens":
            near = merged or one.two_adapters
        else:
            near = merged and _is_tie(one, place)
        if not near:
            raise _differs(
                name,
                f"what it generates ({what}), from token {place} on: "
                f"{a[place : place + 5]} became {b[place : place + 5]}",
            )
        found[f"{what}_from"] = place
    if "tokens_from" not in found and one.text != other.text:
        raise _differs(
            name,
            f"its text, from the same tokens: {one.text!r:.80} became "
            f"{other.text!r:.80}",
        )
    return found


def _agree(a, b):
    """How many tokens two answers share at their beginning (int)."""
    return len(os.path.commonprefix([a, b]))


def _is_tie(one, place):
    """Whether the two best tokens there are a rounding apart."""
    best = one.logits_NV[place].topk(2).values
    largest = float(one.logits_NV.abs().max())
    return float(best[0] - best[1]) <= 2 * MERGED[one.dtype] * largest
