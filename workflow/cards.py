"""Which GPUs a run may use, where no cluster hands them out."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import time


def visible_cards():
    """Numbers of the GPUs of this machine (list of str)."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [one for one in told.split(",") if one.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


@contextlib.contextmanager
def held_cards(count, folder, patience=1.0):
    """Hold some GPUs for a run until it ends, or is killed."""
    if not count or "SLURM_JOB_ID" in os.environ:
        yield {}
        return
    cards = visible_cards()
    if len(cards) < count:
        raise ValueError(
            f"cards: {count} wanted, this machine shows {len(cards)}: set "
            "cards: in the configuration, or CUDA_VISIBLE_DEVICES"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        while True:
            held = _take(cards, count, folder)
            if len(held) == count:
                break
            for _, stream in held:
                stream.close()
            time.sleep(patience)
        for _, stream in held:
            stack.enter_context(stream)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(card for card, _ in held)}


def _take(cards, count, folder):
    """Lock up to so many free cards; a closed file frees its card."""
    held = []
    for card in cards:
        if len(held) == count:
            break
        stream = open(folder / f"{card}.lock", "w", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            continue
        held.append((card, stream))
    return held
