"""Show that tasks on one backbone say what they say on a backbone each.

Authors
 * The speechbrain_ext authors, 2026
"""

import torch

from speechbrain_ext.audio import read_utterance
from speechbrain_ext.batches import by_duration


def limits(settings, seconds):
    """Most tokens of each answer, as the run itself was evaluated.

    Arguments
    ---------
    settings : dict
        The run's.
    seconds : list of float
        Length of each utterance.

    Returns
    -------
    torch.Tensor
        int64 ``[B]``.
    """
    by_length = torch.tensor(seconds, dtype=torch.float64)
    by_length = (by_length * settings["max_tokens_per_second"]).ceil().long()
    return by_length.clamp(min=8, max=settings["max_new_tokens"])


def in_batches(rows, batch_size):
    """Rows with ``duration`` in batches of like length (list of lists)."""
    seconds = [row["duration"] for row in rows]
    return [
        [rows[i] for i in members]
        for members in by_duration(seconds, batch_size)
    ]


def read_wavs(rows):
    """Samples ``[N]`` of each row's audio (list of torch.Tensor)."""
    return [read_utterance(r["wav"], resample=r["resample"]) for r in rows]


@torch.no_grad()
def outputs(model, settings, rows):
    """What a system makes of a batch.

    Arguments
    ---------
    model : speechbrain_ext.model.SpeechLLM
        A system of its own, or a task that was switched to.
    settings : dict
        Its run's.
    rows : list of dict
        With wav (a file), resample, target (text), duration.

    Returns
    -------
    logits_NV : torch.Tensor
        At the target positions.
    texts : list of str
        Decoded.
    """
    wavs = read_wavs(rows)
    wav_BN = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    lengths_B = torch.tensor([len(wav) for wav in wavs])
    device = model.decoder.device
    x_BSF, tokens_B = model.features(wav_BN.to(device), lengths_B)
    targets = [model.prompt.encode_target(row["target"]) for row in rows]
    logits_NV, _ = model(x_BSF, tokens_B, targets)
    most_B = limits(settings, [row["duration"] for row in rows])
    return logits_NV, model.transcribe(x_BSF, tokens_B, most_B)


def compare_with_separate(tasks, name, rows, batch_size=8):
    """One task's outputs against those of the system loaded by itself.

    Arguments
    ---------
    tasks : speechbrain_ext.multitask.MultiTask
        With this task and others.
    name : str
        The task.
    rows : list of dict
        As in `outputs`.
    batch_size : int
        Utterances of a batch.

    Returns
    -------
    dict
        utterances; same_logits (every bit of every batch); largest_difference
        of a logit; same_texts (how many).
    """
    run = tasks.runs[name]
    batches = in_batches(rows, batch_size)
    model = tasks.use(name)
    ours = [outputs(model, run.settings, batch) for batch in batches]
    alone = run.load(str(tasks.device))
    same, largest, texts = True, 0.0, 0
    for batch, (logits_NV, said) in zip(batches, ours):
        theirs_NV, theirs = outputs(alone, run.settings, batch)
        same = same and torch.equal(logits_NV, theirs_NV)
        off = (logits_NV - theirs_NV).abs().max().item()
        largest = max(largest, off)
        texts += sum(a == b for a, b in zip(said, theirs))
    return {
        "utterances": len(rows),
        "same_logits": same,
        "largest_difference": largest,
        "same_texts": texts,
    }
