"""Checkpoints that survive a kill at any moment, holding only what is trained."""

import contextlib
import math
import os
import random
import shutil

import numpy as np
import torch
from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    METAFNAME,
    Checkpoint,
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from speechbrain_ext.runs.files import WriteError, sync_folder, writing
from speechbrain_ext.runs.folders import sync

# A folder with this prefix is not taken for a checkpoint.
UNFINISHED = "unfinished"
# What the best checkpoint so far is known by.
VALID_LOSS = "valid_loss"
TORN = (
    "holds other things than a run's state, or is torn: move this checkpoint "
    "away and start the run again"
)


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, but a checkpoint is there whole or not.

    The parent writes the meta file first and the parameters after it into the
    final folder: a process killed in between leaves a folder that looks like
    a checkpoint and cannot be loaded. This one gives the folder its name when
    everything in it is on the disk.
    """

    def _new_checkpoint_dirpath(self):
        final = super()._new_checkpoint_dirpath()
        return final.with_name(final.name.replace(CKPT_PREFIX, UNFINISHED, 1))

    def save_checkpoint(self, *args, **kwargs):
        """As the parent's; the folder appears under its name at the end."""
        self._sweep()
        try:
            with writing(self.checkpoints_dir):
                written = super().save_checkpoint(*args, **kwargs)
                if written is not None:
                    written = self._publish(written)
        except WriteError:
            # Its room may be what is lacking.
            self._sweep()
            raise
        # Which checkpoints to delete is found on each process: all must see
        # the same folders.
        ddp_barrier()
        return written

    def _publish(self, written):
        """Give a checkpoint its name, now that everything is in it."""
        sync(written.path)
        name = written.path.name.replace(UNFINISHED, CKPT_PREFIX, 1)
        final = written.path.with_name(name)
        os.rename(written.path, final)
        # Before an earlier one is deleted.
        sync_folder(self.checkpoints_dir)
        files = {
            name: final / path.name for name, path in written.paramfiles.items()
        }
        return Checkpoint(final, written.meta, files)

    def recover_if_possible(self, *args, **kwargs):
        """As the parent's; first, what a killed process left is removed."""
        self._sweep()
        return super().recover_if_possible(*args, **kwargs)

    def keep_newest(self):
        """Keep the newest checkpoint and the best one, no others."""
        kept = [
            self.find_checkpoint(),
            self.find_checkpoint(min_key=VALID_LOSS),
        ]
        paths = [one.path for one in kept if one is not None]
        ddp_barrier()
        if if_main_process():
            for one in self.list_checkpoints():
                # Without its name first: half of one is no checkpoint.
                name = one.path.name.replace(CKPT_PREFIX, UNFINISHED, 1)
                if one.path not in paths:
                    with writing(self.checkpoints_dir):
                        one.path.rename(one.path.with_name(name))
        self._sweep()
        ddp_barrier()

    def _sweep(self):
        """Remove what is no checkpoint yet, or no longer."""
        if if_main_process():
            left = set(self.checkpoints_dir.glob(f"{UNFINISHED}+*"))
            # Half deleted ones have lost the file that tells of them.
            left |= {
                folder
                for folder in self.checkpoints_dir.glob(f"{CKPT_PREFIX}+*")
                if not (folder / METAFNAME).is_file()
            }
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)


@register_checkpoint_hooks
class TrainableState:
    """Saves and loads the trained parameters, and no frozen weight."""

    def __init__(self, trainable):
        self.trainable = trainable

    def state_dict(self):
        """Name to value of each trained parameter (dict)."""
        return {name: p.detach() for name, p in self.trainable.named()}

    @mark_as_saver
    def save(self, path):
        """Write the trained parameters to a file."""
        torch.save(self.state_dict(), path)

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Read them back; refuse those of another model."""
        del end_of_epoch
        load_trained(self.trainable, _saved(path), path)


def is_best(history, step):
    """Whether a step's validation loss is below all those before it."""
    *before, now = history or [{}]
    losses = [entry.get(VALID_LOSS, math.inf) for entry in before]
    least = min(filter(math.isfinite, losses), default=math.inf)
    return now.get("step") == step and now.get(VALID_LOSS, math.inf) < least


def save_newest(checkpointer, history=()):
    """Save a checkpoint and keep it and the best one, no others.

    Arguments
    ---------
    checkpointer : AtomicCheckpointer
        Where to.
    history : list of dict
        Where this is the best one: step and valid_loss, its own last.
    """
    meta = {k: history[-1][k] for k in ("step", VALID_LOSS)} if history else {}
    checkpointer.save_checkpoint(meta, end_of_epoch=False)
    checkpointer.keep_newest()


def load_best(checkpointer, trainable):
    """Take the trained weights of the checkpoint with the least loss.

    The optimiser and the step stay where they are: a run that is started
    again still goes on from its newest checkpoint.

    Arguments
    ---------
    checkpointer : AtomicCheckpointer or None
        With the recoverable "trained".
    trainable : speechbrain_ext.healing.apply.TrainableSet
        Changed in place.

    Returns
    -------
    int or None
        The checkpoint's step; None where none has a loss.
    """
    if checkpointer is None:
        return None
    best = checkpointer.find_checkpoint(min_key=VALID_LOSS)
    if best is None:
        return None
    path = best.paramfiles["trained"]
    load_trained(trainable, _saved(path), path)
    return best.meta["step"]


def load_trained(trainable, state, path):
    """Copy saved values into the trained parameters."""
    ours = dict(trainable.named())
    faults = [f"{name} is missing" for name in sorted(set(ours) - set(state))]
    faults += [
        f"{name} is not trained here" for name in sorted(set(state) - set(ours))
    ]
    shapes = {k: tuple(getattr(v, "shape", ())) for k, v in state.items()}
    faults += [
        f"{name} has shape {shapes[name]}, not {tuple(p.shape)}"
        for name, p in ours.items()
        if name in state and shapes[name] != p.shape
    ]
    if faults:
        raise ValueError(
            f"{path} is a checkpoint of another model: "
            f"{'; '.join(faults[:3])} ({len(faults)} differences). Give "
            "another run_name, or remove the run's folder."
        )
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(state[name])


def random_state():
    """The state of every random generator in use (dict)."""
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def read_state(path):
    """Plain values and NumPy's random state from a pickle; no code is run."""
    rebuild, (kind, *_), _ = np.empty(0, "uint32").__reduce__()
    parts = [rebuild, kind, np.dtype, type(np.dtype("uint32"))]
    # NumPy 1 had it elsewhere.
    parts.append((rebuild, "numpy.core.multiarray._reconstruct"))
    with torch.serialization.safe_globals(parts):
        return _saved(path)


def _saved(path):
    """What torch saved, by name; no code is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict):
            return state
    except OSError as error:
        # torch has such of its own, without a file's name, for torn ones.
        if error.filename:
            raise
    except MemoryError:
        raise
    except Exception as error:  # damaged pickles fail in many ways
        raise ValueError(f"{path}: {TORN}") from error
    raise ValueError(f"{path}: {TORN}")


def set_random_state(state):
    """Put the random generators back where `random_state` saw them."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextlib.contextmanager
def same_random_state():
    """Leave the random generators as they were before some work."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def resume_random_state(states, rank, world_size, seed):
    """Go on with the random numbers of a checkpoint, on any process."""
    if rank == 0 and world_size != len(states):
        print(
            f"Trained by {len(states)} processes so far, by {world_size} from "
            "here on: the end differs from that with as many as before."
        )
    if rank < len(states):
        set_random_state(states[rank])
        return
    words = np.random.SeedSequence([abs(seed), rank]).generate_state(3)
    torch.manual_seed(int(words[0]))
    random.seed(int(words[1]))
    np.random.seed(int(words[2]))
