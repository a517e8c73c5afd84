"""Text that appears while it is decoded.

Authors
 * The speechbrain_ext authors, 2026
"""

import os

from speechbrain_ext.greedy import Steps
from speechbrain_ext.inference.running import (
    decoding,
    features_of,
    limits_of,
)

# What a tokenizer writes for the first bytes of a letter.
HALF_LETTER = "\ufffd"


def stream_tokens(use, settings, wav_N):
    """Token ids of one piece of audio, as they are decoded.

    Arguments
    ---------
    use : callable
        Gives the task's model, its adapter switched on. Called anew for each
        token: between two, the caller may have used another task.
    settings : speechbrain_ext.export.layout.TaskSettings
        The task's.
    wav_N : torch.Tensor
        The audio, at the encoder's rate.

    Yields
    ------
    int
    """
    model = use()
    seconds = len(wav_N) / model.encoder.sample_rate
    with decoding(model, settings):
        x_BSF, tokens_B = features_of(model, settings, [wav_N])
        sequence = model.sequence(x_BSF, tokens_B, side="left")
    steps = Steps(model.decoder.lm, sequence)
    stops = set(model.decoder.stop_ids)
    for _ in range(int(limits_of(settings, [seconds])[0])):
        # Not around the yield: the caller's code is none of this precision's.
        with decoding(use(), settings):
            token_B = steps.next_token()
            steps.feed(token_B)
        if int(token_B) in stops:
            return
        yield int(token_B)


def stream_text(ids, decode):
    """Text of token ids, as far as it is certain, bit by bit.

    Arguments
    ---------
    ids : iterable of int
        As they come.
    decode : callable
        Ids to text.

    Yields
    ------
    str
        All joined, they are the text of all ids.

    Example
    -------
    >>> list(stream_text([1, 2], lambda ids: "ab "[: len(ids)]))
    ['a', 'b']
    """
    known, told = [], ""
    for token in ids:
        known.append(token)
        text = decode(known)
        if text.startswith(told) and not text.endswith(HALF_LETTER):
            if text != told:
                yield text[len(told) :]
            told = text
    text = decode(known)
    if text != told:
        yield text[len(os.path.commonprefix([text, told])) :]
