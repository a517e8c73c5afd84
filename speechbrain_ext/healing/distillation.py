"""Learn from the unpruned model too: its whole distribution at each target.

The teacher is the whole baseline with its own projector; its logits are
computed at target positions alone, from the same features as the pupil's.

Authors
 * The speechbrain_ext authors, 2026
"""

import torch


class Distillation:
    """A teacher, and how much of the loss is its word.

    Arguments
    ---------
    teacher : speechbrain_ext.model.SpeechLLM
        The unpruned baseline; is put into eval mode and never changed.
    weight : float
        Share w of the loss, 0 to 1.
    temperature : float
        t; what logits are divided by.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> distillation = Distillation(tiny_speech_llm(), 0.5, 2.0)
    >>> logits_NV, labels_N = torch.zeros(2, 4), torch.tensor([0, 3])
    >>> loss = distillation.loss(logits_NV, logits_NV, labels_N)
    >>> round(loss.item(), 4)  # two halves of log(4)
    1.3863
    """

    def __init__(self, teacher, weight=0.5, temperature=1.0):
        self.teacher = teacher.requires_grad_(False).eval()
        self.weight = weight
        self.temperature = temperature

    @torch.no_grad()
    def logits(self, x_BSF, tokens_B, targets):
        """The teacher's logits at the target positions.

        Arguments
        ---------
        x_BSF, tokens_B, targets
            As `speechbrain_ext.model.SpeechLLM.forward` takes them.

        Returns
        -------
        torch.Tensor
            Shape ``[N, V]``.
        """
        return self.teacher(x_BSF, tokens_B, targets)[0]

    def loss(self, logits_NV, teacher_NV, labels_N):
        """Labels' and teacher's word together, summed over target tokens.

        ``(1 - w) NLL + w t^2 KL(teacher || pupil)``, both distributions
        softened by t; the square keeps the gradients' size.

        Arguments
        ---------
        logits_NV, teacher_NV : torch.Tensor
            The pupil's and the teacher's logits.
        labels_N : torch.Tensor
            The ids to predict.

        Returns
        -------
        torch.Tensor
            A scalar, in nats.
        """
        functional, t = torch.nn.functional, self.temperature
        logits_NV, teacher_NV = logits_NV.float(), teacher_NV.float()
        nll = functional.cross_entropy(logits_NV, labels_N, reduction="sum")
        apart = functional.kl_div(
            functional.log_softmax(logits_NV / t, dim=-1),
            functional.log_softmax(teacher_NV / t, dim=-1),
            reduction="sum",
            log_target=True,
        )
        return (1 - self.weight) * nll + self.weight * t * t * apart
