"""Where a projector may start from: words read off the projected speech.

The answer's loss reaches the projector through the whole LLM, and for a
thousand steps does not tell it which speech holds which word. Here the LLM is
not run: projected speech is to lie near the input embeddings of what is said,
in its order, by CTC (Graves et al. 2006). A step costs a fraction, and from
what it learns the answer's loss goes on (``start_from``). Not in the paper.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from speechbrain_ext.data.batches import targets_of, to_device
from speechbrain_ext.training.brain import SpeechLLMBrain

# How sharply distances tell tokens apart, in the embeddings' mean square. What
# was learned for SmolLM2-135M, 20 to 60, does no better.
SHARPNESS = 40.0


def token_log_probs(p_BSD: torch.Tensor, e_CD: torch.Tensor) -> torch.Tensor:
    """Which token each projected frame is, by its distance to embeddings.

    Arguments
    ---------
    p_BSD : torch.Tensor
        Projected speech, ``[B, S, D]``.
    e_CD : torch.Tensor
        Input embeddings of C tokens, ``[C, D]``.

    Returns
    -------
    torch.Tensor
        Log-probabilities ``[B, S, 1 + C]``, float32: first of the blank, which
        stands at the embeddings' mean and is as frequent as all tokens.
    """
    e_CD = torch.cat([e_CD.mean(0, keepdim=True), e_CD]).float()
    squares_C = e_CD.square().sum(-1)
    # The squared distance, without the square of p: it is the same for all.
    with torch.autocast(p_BSD.device.type, enabled=False):
        near_BSC = p_BSD.float() @ e_CD.T - squares_C / 2
    logits_BSC = SHARPNESS / squares_C[1:].mean() * near_BSC
    # Without it, silence would be dear beside thousands of tokens.
    logits_BSC[..., 0] += math.log(len(e_CD) - 1)
    return F.log_softmax(logits_BSC, dim=-1)


class AlignmentBrain(SpeechLLMBrain):
    """Trains a projector by CTC on the LLM's own embeddings, without the LLM.

    Classes are the tokens of training's and validation's texts; others of
    another set are left out of its loss. An utterance with more tokens than
    speech teaches nothing. Arguments are `SpeechLLMBrain`'s.
    """

    def fit(self, train_set, valid_set=None, progressbar=None):
        """Train, as `SpeechLLMBrain.fit` does."""
        tokens = sorted(_tokens_of(train_set) | _tokens_of(valid_set))
        self.number = {token: i for i, token in enumerate(tokens, 1)}
        self.tokens_C = torch.tensor(tokens, device=self.device)
        super().fit(train_set, valid_set, progressbar)

    def compute_forward(self, batch, stage):
        """Log-probabilities of each frame ``[B, S, 1 + C]``, and frames."""
        del stage
        x_BSF, frames_B = self.speech_of(batch)
        dtype = next(self.model.projector.parameters()).dtype
        p_BSD = self.model.projector(x_BSF.to(dtype))
        e_CD = self.model.decoder.embed(self.tokens_C)
        return token_log_probs(p_BSD, e_CD), frames_B

    def compute_objectives(self, predictions, batch, stage):
        """Summed CTC loss, in nats."""
        del stage
        return self._losses(predictions, self._targets(batch)).sum()

    def _targets(self, batch):
        """Classes of each utterance's tokens, without the end token."""
        return [
            [self.number[i] for i in ids[:-1].tolist() if i in self.number]
            for ids in targets_of(batch)
        ]

    def _losses(self, predictions, targets):
        """CTC loss of each utterance ``[B]``; 0 where it does not fit."""
        log_probs_BSC, frames_B = predictions
        return F.ctc_loss(
            log_probs_BSC.transpose(0, 1),
            torch.tensor(sum(targets, []), device=self.device),
            frames_B.cpu(),
            torch.tensor(list(map(len, targets))),
            reduction="none",
            zero_infinity=True,
        )

    def _losses_of(self, batch):
        """The rows of `utterance_losses` of one batch."""
        batch = to_device(batch, self.device)
        with self.evaluation_ctx:
            predictions = self.compute_forward(batch, None)
        targets = self._targets(batch)
        losses = self._losses(predictions, targets).tolist()
        return [
            {"id": i, "loss": loss, "tokens": len(ids)}
            for i, loss, ids in zip(batch.id, losses, targets)
        ]


def _tokens_of(dataset):
    """All tokens of a set's texts, without the end token (set)."""
    if dataset is None:
        return set()
    with dataset.output_keys_as(["target_ids"]):
        rows = [dataset[i]["target_ids"][:-1] for i in range(len(dataset))]
    return {token for row in rows for token in row.tolist()}
