"""What is to be computed, told from the heads of the audio files alone."""

import logging
import os

from speechbrain_ext.data.audio import audio_info, check_format
from speechbrain_ext.data.features.entries import is_current, is_same

logger = logging.getLogger(__name__)


def find_todo(encoder, items, entries, reading, root):
    """Utterances to be computed, and those that cannot be."""
    todo, bad, seen = [], {}, set()
    for utterance, path, *part in items:
        if utterance in seen:
            raise ValueError(f"{utterance}: given twice: ids must be unique")
        seen.add(utterance)
        start, stop = part or (None, None)
        file = os.path.abspath(path)
        planned = {
            "id": utterance,
            "file": file,
            "path": os.path.relpath(file, root) if root else file,
            "start": start,
            "stop": stop,
        }
        entry = entries.get(utterance)
        if entry and is_same(entry, planned) and is_current(entry, root):
            continue
        try:
            todo.append(_measure(encoder, planned, reading))
        except ValueError as error:
            bad[utterance] = str(error)
    return todo, bad


def _measure(encoder, planned, reading):
    """A planned utterance with its lengths and its file's state (dict)."""
    name = f"{planned['id']} ({planned['file']})"
    info = audio_info(planned["file"], name)
    check_format(info, name, encoder.sample_rate, **reading)
    stat = os.stat(planned["file"])
    last = info.frames if planned["stop"] is None else planned["stop"]
    samples = last - (planned["start"] or 0)
    samples = -(-samples * encoder.sample_rate // info.sample_rate)
    encoder.check_length(samples, name)
    planned.update(size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    planned["work"] = encoder.work_samples(samples)
    planned["tokens"] = encoder.frames(samples)
    return planned


def refuse_bad(bad, skip_bad):
    """Stop for utterances that cannot be used, or say what is left out."""
    if not bad:
        return
    told = "\n  ".join(list(bad.values())[:10])
    more = f"\n  ... and {len(bad) - 10} more" if len(bad) > 10 else ""
    if not skip_bad:
        raise ValueError(
            f"{len(bad)} utterances cannot be used:\n  {told}{more}\n"
            "mend them, or leave them out with skip_bad: True"
        )
    logger.warning("%d utterances left out:\n  %s%s", len(bad), told, more)


def in_batches(todo, batch_samples):
    """Like lengths together, longest first: what does not fit shows at once.

    Arguments
    ---------
    todo : list of dict
        From `find_todo`; key used: work.
    batch_samples : float
        Samples a batch, padding included.

    Returns
    -------
    list of list of dict
    """
    batches = []
    for planned in sorted(todo, key=lambda p: -p["work"]):
        longest = batches[-1][0]["work"] if batches else 0
        if not batches or (len(batches[-1]) + 1) * longest > batch_samples:
            batches.append([])
        batches[-1].append(planned)
    return batches
