"""The weights with the least validation loss, in the place of the last."""

import math

from speechbrain_ext.training.checkpoints import VALID_LOSS, load_trained, saved


def is_best(history, step):
    """Whether a step's validation loss is below all those before it."""
    *before, now = history or [{}]
    losses = [entry.get(VALID_LOSS, math.inf) for entry in before]
    least = min(filter(math.isfinite, losses), default=math.inf)
    return now.get("step") == step and now.get(VALID_LOSS, math.inf) < least


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
    load_trained(trainable, saved(path), path)
    return best.meta["step"]
