"""Compare an export with what it was made from, before it is called done.

Each task is tried on one fixed sound: its logits, what it decodes with the
key-value cache, and the text. The backbone and the adapter are also loaded
with transformers and PEFT alone and tried on fixed token ids.

Authors
 * The speechbrain_ext authors, 2026
"""

import os
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from speechbrain_ext.export.layout import (
    ADAPTER,
    BACKBONE,
    TASKS,
    ExportError,
)
from speechbrain_ext.inference.running import decoding, features_of
from speechbrain_ext.quiet import quiet_loading

SECONDS = 1.5
TOKENS = 16
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
    """What a task does with the fixed sound and the fixed ids.

    Arguments
    ---------
    logits_NV : torch.Tensor
        At each token that it says, float32.
    tokens : list of int
        Decoded with the cache; the end token left out.
    text : str
        The same in words.
    lm_logits_QV : torch.Tensor
        Of the causal LM with its adapter on the fixed ids.
    lm_tokens : list of int
        What transformers' own generation adds to them, with the cache.
    dtype : torch.dtype
        Of the weights.
    """

    logits_NV: torch.Tensor
    tokens: list
    text: str
    lm_logits_QV: torch.Tensor
    lm_tokens: list
    dtype: torch.dtype


@torch.no_grad()
def probe(model, settings):
    """Try a task.

    Arguments
    ---------
    model : speechbrain_ext.model.SpeechLLM
        With its adapter switched on.
    settings : speechbrain_ext.export.layout.TaskSettings
        The task's.

    Returns
    -------
    Probe
    """
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
    )


@torch.no_grad()
def probe_lm(lm, stop_ids):
    """Logits of a causal LM on fixed ids, and what it generates from them.

    Arguments
    ---------
    lm : torch.nn.Module
        The causal LM, or a PEFT model around one.
    stop_ids : list of int
        One of them stands for padding.

    Returns
    -------
    logits_QV : torch.Tensor
        float32, on the CPU.
    tokens : list of int
        With the cache, greedily.
    """
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


def reload_probes(folder, device="cpu"):
    """Load an export anew and try each of its tasks.

    Arguments
    ---------
    folder : str
        The export.
    device : str
        Where to run it.

    Returns
    -------
    dict
        Task name to `Probe`.
    """
    from speechbrain_ext.inference import SpeechLLM

    loaded = SpeechLLM.from_pretrained(folder, device=device)
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
    """Backbone and adapter with nothing but transformers and PEFT.

    Arguments
    ---------
    folder : str
        The export.
    name : str
        The task.
    settings : speechbrain_ext.export.layout.TaskSettings
        The task's.
    dtype : torch.dtype
        Type of the weights.
    device : str
        Where to.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ExportError
        If transformers misses a weight, or finds one too many.
    """
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
    if not settings.adapter:
        return lm
    adapter = os.path.join(folder, TASKS, name, ADAPTER)
    return PeftModel.from_pretrained(lm, adapter).eval()


def compare_probes(ours, theirs, merged):
    """Refuse an export that does not do what its runs do.

    Arguments
    ---------
    ours, theirs : dict
        Task name to `Probe`: of the runs, and of the export.
    merged : bool
        An adapter was folded into the backbone: rounding is allowed for.

    Returns
    -------
    dict
        Task name to the largest differences of logits found, as a share of
        the largest logit.

    Raises
    ------
    ExportError
        Saying which task differs, in what, and by how much.
    """
    return {
        name: _compare(name, ours[name], theirs[name], merged) for name in ours
    }


def _compare(name, one, other, merged):
    allowed = MERGED[one.dtype] if merged else SAME
    where = f"The export's task {name} differs from the run it was made of"
    found = {}
    for what in ("lm_logits_QV", "logits_NV"):
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
        near = what == "lm_tokens" or _is_tie(one.logits_NV, place, allowed)
        if not (merged and near):
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
    return float(best[0] - best[1]) <= 2 * allowed * float(logits_NV.abs().max())
