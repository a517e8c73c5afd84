"""Learn from the unpruned model too: its whole distribution at each target.

The teacher is the whole baseline with its own projector; its logits are
computed at target positions alone, from the same features as the pupil's.
"""

import torch

from speechbrain_ext.layers.residual import target_loss


class Distillation:
    """A teacher, and how much of the loss is its word.

    Arguments
    ---------
    teacher : speechbrain_ext.model.speech_llm.SpeechLLM
        The unpruned baseline; is put into eval mode and never changed.
    weight : float
        Share w of the loss, 0 to 1.
    temperature : float
        t; what logits are divided by.
    """

    def __init__(self, teacher, weight=0.5, temperature=1.0):
        self.teacher = teacher.requires_grad_(False).eval()
        self.weight = weight
        self.temperature = temperature

    @torch.no_grad()
    def logits(self, x_BSF, tokens_B, targets) -> torch.Tensor:
        """The teacher's logits ``[N, V]``; takes what `SpeechLLM` takes."""
        return self.teacher(x_BSF, tokens_B, targets)[0]

    def loss(self, logits_NV, teacher_NV, labels_N) -> torch.Tensor:
        """``(1 - w) NLL + w t^2 KL(teacher || pupil)``, over target tokens.

        Both distributions are softened by t; its square keeps the gradients'
        size.
        """
        functional, t = torch.nn.functional, self.temperature
        nll = target_loss(logits_NV, labels_N)
        apart = functional.kl_div(
            functional.log_softmax(logits_NV.float() / t, dim=-1),
            functional.log_softmax(teacher_NV.float() / t, dim=-1),
            reduction="sum",
            log_target=True,
        )
        return (1 - self.weight) * nll + self.weight * t * t * apart
