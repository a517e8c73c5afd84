"""How a task's audio goes through its model, as in its recipe's evaluation.

Authors
 * The speechbrain_ext authors, 2026
"""

import contextlib

import torch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def decoding(model, settings):
    """Eval mode, no gradients, and the precision that was evaluated with.

    Arguments
    ---------
    model : speechbrain_ext.model.SpeechLLM
        The task's.
    settings : speechbrain_ext.export.layout.TaskSettings
        The task's.
    """
    dtype = AUTOCAST.get(settings.precision)
    model.eval()
    with (
        torch.no_grad(),
        torch.autocast(
            model.decoder.device.type, dtype=dtype, enabled=dtype is not None
        ),
    ):
        yield


def features_of(model, settings, wavs):
    """Features of some waveforms, as the task's projector knows them.

    Arguments
    ---------
    model : speechbrain_ext.model.SpeechLLM
        The task's.
    settings : speechbrain_ext.export.layout.TaskSettings
        The task's.
    wavs : list of torch.Tensor
        ``[N]`` each, at the encoder's rate.

    Returns
    -------
    x_BSF : torch.Tensor
    tokens_B : torch.Tensor
    """
    wav_BN = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    lengths_B = torch.tensor([len(wav) for wav in wavs])
    x_BSF, tokens_B = model.features(wav_BN.to(model.decoder.device), lengths_B)
    if settings.features_dtype:
        # A training that kept its features on disk kept them in this type.
        half = getattr(torch, settings.features_dtype)
        x_BSF = x_BSF.to(half).to(x_BSF.dtype)
    return x_BSF, tokens_B


def limits_of(settings, seconds):
    """Most tokens that each answer may have (int64, ``[B]``).

    Arguments
    ---------
    settings : speechbrain_ext.export.layout.TaskSettings
        The task's.
    seconds : list of float
        Length of each audio.

    Returns
    -------
    torch.Tensor
    """
    limits = torch.tensor(seconds, dtype=torch.float64)
    limits = (limits * settings.max_tokens_per_second).ceil().long()
    return limits.clamp(min=min(8, settings.max_new_tokens)).clamp(
        max=settings.max_new_tokens
    )
