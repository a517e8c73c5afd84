"""Try a model on something fixed, to compare it with another.

Each task is tried on one fixed sound: its logits, what it decodes with the
key-value cache, and the text. Its causal LM is tried on fixed token ids too,
so that it can be compared where no speech part is there.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import dataclass

import torch

from speechbrain_ext.inference.running import decoding, features_of
from speechbrain_ext.quiet import quiet_loading

SECONDS = 1.5
TOKENS = 16


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
    two_adapters : bool
        PEFT adds the baseline's and the healing adapter up in one type, and
        the run in two: where both are on one matrix, 16 bits round twice.
    """

    logits_NV: torch.Tensor
    tokens: list
    text: str
    lm_logits_QV: torch.Tensor
    lm_tokens: list
    dtype: torch.dtype
    two_adapters: bool = False


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
        settings.adapter and settings.baseline_adapter,
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
