"""What the pretraining of all mini models shares: the loop, the folders."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from typing import Any

import torch
from safetensors.torch import load_file

from speechbrain_ext.runs.folders import whole_folder


def save(model, processor, folder: str) -> None:
    """Write a model in half precision; a killed save leaves the old one."""
    with whole_folder(folder) as new:
        # A copy, because the training goes on in full precision.
        copy.deepcopy(model).half().save_pretrained(new)
        processor.save_pretrained(new)


def load_weights(model, folder: str) -> None:
    """Fill a model with the weights that ``save`` wrote."""
    model.load_state_dict(
        load_file(os.path.join(folder, "model.safetensors")), strict=False
    )


class Training:
    """Steps of AdamW under a cosine, logged, measured and saved."""

    # Steps over which the rate grows, at most.
    WARMUP = 100

    def __init__(self, output, steps, save_every, stopped_at=None):
        self.output, self.steps, self.save_every = output, steps, save_every
        self.last = stopped_at or steps

    def next_loss(self) -> torch.Tensor:
        """The loss of the next batch."""
        raise NotImplementedError

    def figures(self) -> dict:
        """What is measured before a save."""
        raise NotImplementedError

    def saved(self) -> tuple[Any, Any]:
        """The parts of a folder: a model and its processor."""
        raise NotImplementedError

    def optimise(self, parameters, learning_rate, beta, weight_decay) -> None:
        """Take the parameters that are to be trained."""
        self.parameters = [p for p in parameters if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=learning_rate,
            betas=(0.9, beta),
            weight_decay=weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, self._rate
        )

    def _rate(self, step):
        """Linear over the first steps, half a cosine to a fiftieth."""
        progress = min(1.0, step / self.steps)
        cosine = 0.51 + 0.49 * math.cos(math.pi * progress)
        return cosine * min(1.0, (step + 1) / min(self.WARMUP, self.steps / 5))

    def run(self) -> list[dict]:
        """Train, log and save; the log."""
        log, losses, start = [], [], time.time()
        for step in range(1, self.last + 1):
            losses.append(self.step())
            if step % 50 == 0 or step == self.last:
                entry = {
                    "step": step,
                    "loss": round(sum(losses) / len(losses), 4),
                    "seconds": round(time.time() - start),
                }
                losses = []
                if step % self.save_every == 0 or step == self.last:
                    entry |= self.figures()
                    save(*self.saved(), self.output)
                print(json.dumps(entry), flush=True)
                log.append(entry)
        return log

    def step(self) -> float:
        """One optimiser step; its loss."""
        loss = self.next_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        return loss.item()
