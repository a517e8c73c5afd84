"""Steps that are left out, as their loss or gradients are no numbers."""

from __future__ import annotations

import math

import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


def tell(brain, step, what, value, batches) -> None:
    """Say that a step was left out, and whose utterance it was."""
    brain.modules.eval()
    with torch.no_grad():
        rows = [row for batch in batches for row in brain._losses_of(batch)]
    brain.modules.train()
    ids = [row["id"] for row in rows if not math.isfinite(row["loss"])]
    whose = f": so is that of {', '.join(ids)}" if ids else ""
    if not ids and brain.world_size == 1:
        whose = f": it had {', '.join(row['id'] for row in rows)}"
    # Another process may know more of it than the main one.
    logger.warning(
        "Step %d: the %s is %s. The step is left out%s.",
        step,
        what,
        value.item(),
        whose,
        main_process_only=not ids,
    )
    check(brain, value)


def check(brain, loss) -> None:
    """SpeechBrain's; its last word says which processes' it is."""
    try:
        brain.check_loss_isfinite(loss)
    except ValueError as error:
        fine = brain._gather(brain.joined.is_finite())
        told = f"not finite, {brain.nonfinite_count} times in a row"
        raise of_processes(error, fine, brain.optimizer_step, told) from error


def of_processes(error, fine, step, told):
    """An error that says which processes' loss or gradients are no numbers."""
    bad = [str(rank) for rank, is_fine in enumerate(fine) if not is_fine]
    if not bad:
        return error
    return ValueError(
        f"Step {step}: the loss of process {', '.join(bad)} of {len(fine)}, or "
        f"its gradients, is {told}"
    )
