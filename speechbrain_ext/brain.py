"""The one Brain of all recipes: training and healing.

Training counts optimiser steps, not epochs. The loss of a step is the mean
over all its target tokens, whichever process or accumulated batch they are
in, so that two processes and one with accumulation reach the same weights.

Authors
 * The speechbrain_ext authors, 2026
"""

import math
import time

import speechbrain as sb
import torch
from tqdm import tqdm

from speechbrain_ext.batches import (
    StepBatchSampler,
    targets_of,
    true_lengths,
)
from speechbrain_ext.checkpoints import (
    TrainableState,
    random_state,
    resume_random_state,
)
from speechbrain_ext.data_sets import groups_of
from speechbrain_ext.evaluation import EvaluationBrain


def step_factor(step, steps, warmup, warmdown):
    """Learning rate of a step, as a fraction of the peak.

    Linear warm-up, constant, linear warm-down (the paper's schedule).

    Arguments
    ---------
    step : int
        Steps already taken.
    steps : int
        Steps of the whole training.
    warmup, warmdown : int
        Steps of the two ramps.

    Returns
    -------
    float

    Example
    -------
    >>> [step_factor(s, 6, 2, 3) for s in range(6)]
    [0.5, 1.0, 1.0, 1.0, 0.6666666666666666, 0.3333333333333333]
    """
    up = (step + 1) / warmup if step < warmup else 1.0
    left = steps - step
    down = left / warmdown if left < warmdown else 1.0
    return min(up, down)


@sb.utils.checkpoints.register_checkpoint_hooks
class SpeechLLMBrain(EvaluationBrain):
    """Trains, heals and evaluates a speech LLM.

    Arguments
    ---------
    model : speechbrain_ext.model.SpeechLLM
        Baseline or pruned.
    trainable : speechbrain_ext.healing.TrainableSet
        What is trained; nothing for an unhealed model.
    hparams : dict
        Keys used: seed, steps, warmup_steps, warmdown_steps, lr_projector,
        lr_adapter, lr_bridge, batch_size, test_batch_size, valid_interval,
        checkpoint_interval, num_workers, max_new_tokens,
        max_tokens_per_second, and SpeechBrain's run options.
    run_opts : dict or None
        SpeechBrain's run options from the command line.
    checkpointer : speechbrain_ext.checkpoints.AtomicCheckpointer or None
        Where training goes on from.
    distillation : speechbrain_ext.healing.Distillation or None
        A teacher whose word is part of the training loss.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> from speechbrain_ext.healing import train_parts
    >>> model = tiny_speech_llm()
    >>> trainable = train_parts(model, projector=True, verbose=False)
    >>> hparams = {"steps": 3, "warmup_steps": 1, "warmdown_steps": 1,
    ...     "lr_projector": 0.1, "lr_adapter": 0.1, "lr_bridge": 0.1,
    ...     "adam_betas": [0.9, 0.999]}
    >>> SpeechLLMBrain(model, trainable, hparams).steps_to_take()
    3
    """

    def __init__(
        self,
        model,
        trainable,
        hparams,
        run_opts=None,
        checkpointer=None,
        distillation=None,
    ):
        super().__init__(model, hparams, run_opts, checkpointer)
        self.trainable = trainable
        self.distillation = distillation
        self.history = []
        self.train_seconds = 0.0
        self._loss_since = [0.0, 0]
        self._random_states = None

    def _wrap_distributed(self):
        """No wrapper: a step's few gradients are summed once, by hand.

        DistributedDataParallel averages over processes; with a different
        number of target tokens on each, the mean of means is not the mean.
        """

    def init_optimizers(self):
        """One Adam with a group, and a learning rate, for each part."""
        rates = {
            "projector": self.hparams.lr_projector,
            "adapter": self.hparams.lr_adapter,
            "bridge": self.hparams.lr_bridge,
        }
        groups = [
            {"params": self.trainable.parameters(part), "peak": rates[part]}
            for part in self.trainable.parts
        ]
        if not groups:  # an unhealed model: torch wants something to train
            return
        self.optimizer = torch.optim.Adam(
            groups, lr=0.0, betas=tuple(self.hparams.adam_betas)
        )
        self.optimizers_dict = {"optimizer": self.optimizer}
        if self.checkpointer is not None:
            # First the weights, whose loading tells what does not fit.
            self.checkpointer.add_recoverable(
                "trained", TrainableState(self.trainable)
            )
            self.checkpointer.add_recoverable("optimizer", self.optimizer)

    def compute_forward(self, batch, stage):
        """Logits, labels and (in distillation) the teacher's logits."""
        if self.distillation is None or stage != sb.Stage.TRAIN:
            return super().compute_forward(batch, stage)
        x_BSF, tokens_B = self.speech_of(batch)
        inputs = (x_BSF, tokens_B, targets_of(batch))
        return *self.model(*inputs), self.distillation.logits(*inputs)

    def compute_objectives(self, predictions, batch, stage):
        """Summed loss of the target tokens, the teacher's word in it."""
        if self.distillation is None or stage != sb.Stage.TRAIN:
            return super().compute_objectives(predictions, batch, stage)
        logits_NV, labels_N, teacher_NV = predictions
        return self.distillation.loss(logits_NV, teacher_NV, labels_N)

    def fit_step(self, batches):
        """One optimiser step over one or more accumulated batches.

        Arguments
        ---------
        batches : list of PaddedBatch
            This process's share of the step.

        Returns
        -------
        float
            Mean loss per target token, in nats, over all processes: the
            negative log-likelihood, unless there is a teacher.
        """
        tokens = sum(int(true_lengths(b.target_ids).sum()) for b in batches)
        tokens = self._sum_over_ranks(float(tokens))
        total = 0.0
        for batch in batches:
            batch = batch.to(self.device)
            with self.training_ctx:
                predictions = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(
                    predictions, batch, sb.Stage.TRAIN
                )
                loss = loss / tokens
            self.check_loss_isfinite(loss)
            self.scaler.scale(loss).backward()
            total += loss.item()
        self.optimizers_step()
        return self._sum_over_ranks(total)

    def optimizers_step(self):
        """Sum gradients over processes, clip all of them, step, clear."""
        factor = step_factor(
            self.optimizer_step,
            self.hparams.steps,
            self.hparams.warmup_steps,
            self.hparams.warmdown_steps,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        parameters = [parameter for _, parameter in self.trainable.named()]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.world_size > 1:
                torch.distributed.all_reduce(parameter.grad)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            parameters, self.hparams.max_grad_norm
        )
        # One step with NaN would spoil the weights for ever. (A scaler that
        # is at work looks for itself.)
        if self.scaler.is_enabled() or norm.isfinite():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1

    def fit(self, train_set, valid_set=None, progressbar=None):
        """Train up to `steps` optimiser steps, from the last checkpoint on.

        Arguments
        ---------
        train_set : DynamicItemDataset
            With id, target_ids, and sig or features.
        valid_set : DynamicItemDataset or None
            Scored by its negative log-likelihood every `valid_interval`
            steps and at the end.
        progressbar : bool or None
            Show one; None: as the run options say.
        """
        self.nonfinite_count = 0
        self.on_fit_start()
        steps = self.steps_to_take()
        if self.test_only or self.optimizer_step >= steps:
            return
        if self._random_states is not None:
            moment = self.hparams.seed + self.optimizer_step
            resume_random_state(self._random_states, self.rank, moment)
        bar = tqdm(
            total=steps,
            initial=self.optimizer_step,
            desc="Training",
            disable=self._quiet(progressbar),
            dynamic_ncols=True,
        )
        self.modules.train()
        for batches in self._steps(train_set, steps):
            began = time.monotonic()
            loss = self.fit_step(batches)
            self.train_seconds += time.monotonic() - began
            if math.isfinite(loss):
                self.nonfinite_count = 0
                self._loss_since[0] += loss
                self._loss_since[1] += 1
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}")
            self._after_step(steps, valid_set)
        bar.close()

    def end_training(self):
        """Let go of what only training needs: its memory is not inference's."""
        self.distillation = self.checkpointer = None
        self.optimizer, self.optimizers_dict = None, None
        for parameter in self.model.parameters():
            parameter.grad = None

    def steps_to_take(self):
        """Steps of this training, `--debug` and step limits regarded."""
        steps = self.hparams.steps if self.trainable.named() else 0
        if self.debug:
            steps = min(steps, self.debug_batches)
        if self.optimizer_step_limit is not None:
            steps = min(steps, int(self.optimizer_step_limit))
        return steps

    def _steps(self, train_set, steps):
        """The batches of each step that is still to be taken."""
        accumulation = self.grad_accumulation_factor
        sampler = StepBatchSampler(
            len(train_set),
            self.hparams.batch_size,
            steps,
            start=self.optimizer_step,
            accumulation=accumulation,
            rank=self.rank,
            world_size=self.world_size,
            seed=self.hparams.seed,
            groups=groups_of(train_set),
        )
        batches = iter(self._loader(train_set, sampler))
        for _ in range(self.optimizer_step, steps):
            yield [next(batches) for _ in range(accumulation)]

    def _after_step(self, steps, valid_set):
        """Validate and save where it is time to."""
        step = self.optimizer_step
        last = step == steps
        if last or step % self.hparams.valid_interval == 0:
            loss, count = self._loss_since
            entry = {
                "step": step,
                "train_loss": loss / count if count else None,
            }
            self._loss_since = [0.0, 0]
            if valid_set is not None:
                entry["valid_loss"] = self.validate(valid_set)
            self.history.append(entry)
            # On every process: only the main one writes, all wait for it.
            if hasattr(self.hparams, "train_logger"):
                self.hparams.train_logger.log_stats({}, entry)
            self.modules.train()
        if last or step % self.hparams.checkpoint_interval == 0:
            self.save_checkpoint()

    def save_checkpoint(self):
        """Save what is trained, the optimiser and where we are."""
        if self.checkpointer is None:
            return
        self._random_states = self._gather(random_state())
        self.checkpointer.save_and_keep_only(end_of_epoch=False, num_to_keep=1)

    @sb.utils.checkpoints.mark_as_saver
    def _save(self, path):
        torch.save(
            {
                "optimizer_step": self.optimizer_step,
                "history": self.history,
                "train_seconds": self.train_seconds,
                "loss_since": self._loss_since,
                "random_states": self._random_states,
            },
            path,
        )

    @sb.utils.checkpoints.mark_as_loader
    def _recover(self, path, end_of_epoch):
        del end_of_epoch
        state = torch.load(path, weights_only=False)
        self.optimizer_step = state["optimizer_step"]
        self.history = state["history"]
        self.train_seconds = state["train_seconds"]
        self._loss_since = state["loss_since"]
        self._random_states = state["random_states"]
