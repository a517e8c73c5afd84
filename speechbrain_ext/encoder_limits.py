"""How much an encoder takes, told before anything is computed.

Authors
 * The speechbrain_ext authors, 2026
"""


def check_length(encoder, num_samples, name):
    """Refuse an utterance that cannot be encoded.

    Arguments
    ---------
    encoder : SpeechEncoder
        Tells how much it takes.
    num_samples : int
        The utterance's length.
    name : str
        Its id or file, for the message.

    Raises
    ------
    ValueError
        Shorter than one frame, or over the limit with ``long_audio="error"``.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> check_length(tiny_speech_llm().encoder, 16000, "a")
    """
    seconds = num_samples / encoder.sample_rate
    if num_samples < encoder.core.min_samples:
        raise ValueError(
            f"{name}: {num_samples} samples, shorter than the "
            f"{encoder.core.min_samples} that one frame of {encoder.name} "
            "needs: leave the utterance out"
        )
    too_long = encoder.max_samples and num_samples > encoder.max_samples
    if too_long and encoder.long_audio == "error":
        raise ValueError(
            f"{name}: {seconds:.2f} s, but {encoder.name} takes at most "
            f"{encoder.max_samples / encoder.sample_rate:.2f} s: leave the "
            "utterance out or set long_audio: chunk"
        )


def check_limits(encoder):
    """Refuse options of an encoder that mean nothing together.

    Arguments
    ---------
    encoder : SpeechEncoder
        Which.

    Raises
    ------
    ValueError
        If ``long_audio`` has no meaning, or ``max_seconds`` is no limit.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> check_limits(tiny_speech_llm().encoder)
    """
    if encoder.long_audio not in ("error", "chunk"):
        raise ValueError(
            f"long_audio: {encoder.long_audio!r}: choose error or chunk"
        )
    if encoder.long_audio == "chunk" and encoder.max_samples is None:
        raise ValueError(
            f"long_audio: chunk, but {encoder.name} ({encoder.kind}) has no "
            "limit of its own: set max_seconds"
        )
    limit, least = encoder.max_samples, encoder.core.min_samples
    if limit is not None and limit < least:
        raise ValueError(
            f"max_seconds: {limit / encoder.sample_rate}, shorter than one "
            f"frame: choose at least {least / encoder.sample_rate}"
        )
