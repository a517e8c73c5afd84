"""How often a training step makes the host wait for the device.

Waits are counted without a GPU: on torch's "meta" device there is no value to
read, so that whatever reads one is seen. The peer is SpeechBrain's own Brain
around the same model.
"""

import contextlib
from unittest import mock

from benchmarks.common import counted, script, tiers

import speechbrain as sb  # isort: skip
import torch
from speechbrain.dataio.batch import PaddedBatch

from benchmarks.models import random_speech_llm, training_batch
from speechbrain_ext.data.batches import targets_of, true_lengths
from speechbrain_ext.healing.apply import train_parts
from speechbrain_ext.training.brain import SpeechLLMBrain

SIZES = tiers(
    layers=(4, 1),
    width=(256, 32),
    vocabulary=(2000, 300),
    features=(64, 8),
    rows=(4, 2),
    speech=(60, 9),
    prompt=(10, 3),
    target=(20, 4),
)
HPARAMS = dict(
    steps=10,
    warmup_steps=0,
    warmdown_steps=0,
    lr_projector=1e-3,
    lr_adapter=1e-3,
    lr_bridge=1e-3,
    adam_betas=[0.9, 0.999],
    max_grad_norm=1.0,
    noprogressbar=True,
)


class SummedLoss:
    """What both Brains compute: a batch's summed loss."""

    def compute_forward(self, batch, stage):
        """The loss itself."""
        batch = batch.to(self.device)
        x_BSF, tokens_B = batch.features.data, true_lengths(batch.features)
        given = x_BSF, tokens_B, targets_of(batch)
        logits_NV, labels_N = self.modules.model(*given)
        return torch.nn.functional.cross_entropy(
            logits_NV, labels_N, reduction="sum"
        )

    def compute_objectives(self, predictions, batch, stage):
        """The loss."""
        return predictions


class Ours(SummedLoss, SpeechLLMBrain):
    """The recipes' Brain."""

    def take(self, batch):
        """One step."""
        return self.fit_step([batch])


class Peer(SummedLoss, sb.Brain):
    """SpeechBrain's, with the mean over the batch's tokens."""

    def compute_objectives(self, predictions, batch, stage):
        """The mean loss."""
        return predictions / true_lengths(batch.target_ids).sum()

    def take(self, batch):
        """One step."""
        return self.fit_batch(batch)


def brain_of(side, sizes, device="cpu"):
    """A Brain about to take a step, and its batch."""
    model = random_speech_llm(sizes).to(device)
    trainable = train_parts(model, True, verbose=False)
    options = {"device": device}
    if side == "ours":
        brain = Ours(model, trainable, HPARAMS, options)
        brain.init_optimizers()
    else:
        brain = Peer({"model": model}, None, HPARAMS, options)
        adam = torch.optim.Adam(model.projector.parameters(), lr=1e-3)
        brain.optimizer, brain.optimizers_dict = adam, {"adam": adam}
    brain.nonfinite_count = 0
    x_BSF, tokens_B, targets = training_batch(sizes)
    rows = zip(x_BSF, tokens_B.tolist(), targets)
    rows = [
        {"id": str(i), "features": x_SF[:n], "target_ids": target}
        for i, (x_SF, n, target) in enumerate(rows)
    ]
    return brain, PaddedBatch(rows)


def check(sizes):
    """The same loss and the same step."""
    found = []
    for side in ("ours", "peer"):
        brain, batch = brain_of(side, sizes)
        loss = brain.take(batch)
        model = brain.modules.model
        found.append([loss.detach().cpu(), *model.projector.parameters()])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@contextlib.contextmanager
def reading():
    """Count what is read back from the device "meta" (a list)."""
    reads = []

    def noted(name, value):
        """A method of tensors that counts, and gives some value."""
        plain = getattr(torch.Tensor, name)

        def method(tensor, *args, **options):
            if not tensor.is_meta:
                return plain(tensor, *args, **options)
            reads.append(name)
            return value(tensor)

        return mock.patch.object(torch.Tensor, name, method)

    values = {
        "item": lambda x: 1,
        "tolist": lambda x: torch.ones(x.shape, dtype=torch.long).tolist(),
        "cpu": lambda x: torch.ones(x.shape, dtype=x.dtype),
        "__bool__": lambda x: True,
        "__int__": lambda x: 1,
        "__float__": lambda x: 1.0,
    }
    with contextlib.ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(noted(name, value))
        yield reads


def waits(side, sizes):
    """Times that a step reads something back (float)."""
    brain, batch = brain_of(side, sizes, "meta")
    if side == "ours":
        # Adam's own check on a GPU; it has no step for this device.
        brain._step_unless = lambda bad: None
    with reading() as reads:
        brain.take(batch)
    return float(len(reads))


def rows(sizes, tier):
    """Waits, counted."""
    yield counted(
        "times that a training step waits for the device; peer: SpeechBrain's "
        "Brain",
        *(waits(side, sizes) for side in ("ours", "peer")),
        "at most 0.25",
        f"{sizes['layers']} layers, {sizes['width']} wide, {sizes['rows']} "
        "rows, the projector trained; counted on torch's meta device, not "
        "timed on a GPU. What is left is transformers' look at the positions",
    )


if __name__ == "__main__":
    script("host", SIZES, check, rows)
