"""Clips of any format: their lengths, and their conversion.

Authors
 * The speechbrain_ext authors, 2026
"""

import os
import uuid

import soundfile

from speechbrain_ext.audio import (
    AudioError,
    audio_info,
    check_format,
    read_utterance,
)
from speechbrain_ext.preparation.utterances import (
    PreparationError,
    in_parallel,
)

SAMPLE_RATE = 16000


def clip_of(one, root):
    """Where an utterance's clip is.

    Arguments
    ---------
    one : Utterance
        With a row.
    root : str
        What ``$data_root`` stands for.

    Returns
    -------
    str

    Example
    -------
    >>> from speechbrain_ext.preparation import Utterance
    >>> clip_of(Utterance("a", row={"wav": "$data_root/clips/a.mp3"}), "/d")
    '/d/clips/a.mp3'
    """
    return one.row["wav"].replace("$data_root", root, 1)


def read_clips(splits, root, flac_folder, longest, check_audio, threads):
    """Read or convert the clips of the splits: durations, broken ones.

    Arguments
    ---------
    splits : list of Split
        Changed in place.
    root : str
        What ``$data_root`` stands for.
    flac_folder : str or None
        Convert to FLAC at 16 kHz there.
    longest : float or None
        Most seconds of an utterance.
    check_audio : str
        "full" decodes each clip, "header" those whose head does not state
        their exact length (all MP3 files).
    threads : int
        How many at a time.

    Example
    -------
    >>> from speechbrain_ext.preparation import Split, Utterance
    >>> one = Utterance("a", row={"wav": "$data_root/clips/a.mp3"})
    >>> read_clips([Split("dev", [one])], "nowhere", None, None, "full", 1)
    >>> one.fault
    'broken clip'
    """

    def read(one):
        try:
            one.duration = _seconds(one, root, flac_folder, check_audio)
        except AudioError as error:
            one.refuse("broken clip", str(error))
            return
        if longest is not None and one.duration > longest:
            why = f"{one.duration:.1f} s, longest_seconds is {longest}"
            one.refuse("too long", why)

    what = "converting clips" if flac_folder else "reading clips"
    good = [one for split in splits for one in split.good]
    in_parallel(read, good, threads, what)


def _changed(clip):
    """When a clip was last written (float)."""
    try:
        return os.path.getmtime(clip)
    except OSError as error:
        raise AudioError(f"{clip}: cannot be opened ({error})") from error


def _seconds(one, root, flac_folder, check_audio):
    """The length of an utterance's clip (float), converted where asked."""
    clip = clip_of(one, root)
    if flac_folder:
        return _convert(clip, one, flac_folder)
    if check_audio == "full":
        samples = read_utterance(clip, SAMPLE_RATE, resample=True)
        return len(samples) / SAMPLE_RATE
    info = audio_info(clip)
    check_format(info, clip, SAMPLE_RATE, resample=True)
    return info.seconds


def _convert(clip, one, flac_folder):
    """Make one clip a FLAC file at 16 kHz, unless it is there already.

    Arguments
    ---------
    clip : str
        The file that was fetched.
    one : Utterance
        Its ``wav`` is changed to the new file.
    flac_folder : str
        Where to.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    speechbrain_ext.audio.AudioError
        If the clip is broken.
    PreparationError
        If the new file cannot be written.
    """
    place = f"clips/{one.name}.flac"
    one.row["wav"] = f"$data_root/{place}"
    file = os.path.join(flac_folder, place)
    fresh = os.path.isfile(file)
    if fresh and os.path.getmtime(file) >= _changed(clip):
        return audio_info(file).seconds
    samples = read_utterance(clip, SAMPLE_RATE, resample=True)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    # Another run may be at the same clip.
    part = f"{file}.{uuid.uuid4().hex}.part"
    try:
        soundfile.write(
            part, samples.numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16"
        )
    except (soundfile.LibsndfileError, OSError) as error:
        raise PreparationError(
            f"flac_folder: {file} cannot be written ({error}): free space or "
            "give another folder; what is converted is kept"
        ) from error
    # Under its own name only when it is whole.
    os.replace(part, file)
    return len(samples) / SAMPLE_RATE
