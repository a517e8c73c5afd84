"""What the Brains of all recipes share: steps, resuming, validation.

A recipe's train.py says what the loss is. Training counts optimiser steps,
not epochs. The loss of a step is the mean over all its target tokens,
whichever process or accumulated batch they are in, so that two processes and
one with accumulation reach the same weights.
"""

from __future__ import annotations

import math
import time

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_ext.data.batches import to_device, true_lengths
from speechbrain_ext.later import later
from speechbrain_ext.layers.residual import in_double, no_numbers, target_loss
from speechbrain_ext.runs.files import writing
from speechbrain_ext.training.checkpoints import (
    TrainableState,
    random_state,
    read_state,
    resume_random_state,
    save_newest,
)
from speechbrain_ext.training.evaluation import EvaluationBrain
from speechbrain_ext.training.processes import hears_signals
from speechbrain_ext.training.steps import JoinedSteps, sampler_of, step_factor

logger = get_logger(__name__)

# Where training stands, beside the weights and the optimiser.
STATE = (
    "optimizer_step",
    "history",
    "train_seconds",
    "loss_since",
    "random_states",
)


@sb.utils.checkpoints.register_checkpoint_hooks
class SpeechLLMBrain(EvaluationBrain):
    """Trains, heals and evaluates a speech LLM.

    A recipe's Brain brings the two methods that every SpeechBrain recipe has:
    `compute_forward`, a batch to logits at its target positions, their labels
    and what else its loss wants; and `compute_objectives`, these to the loss,
    summed over the target tokens.

    Arguments
    ---------
    model : speechbrain_ext.model.speech_llm.SpeechLLM
        Baseline or pruned.
    trainable : speechbrain_ext.healing.apply.TrainableSet
        What of it is trained.
    hparams : dict
        Keys used: those of `EvaluationBrain`, seed, batch_size,
        batch_seconds, length_pool, steps, warmup_steps, warmdown_steps,
        lr_projector, lr_adapter, lr_bridge, adam_betas, max_grad_norm,
        valid_interval, checkpoint_interval; keep and weight_decay where they
        are.
    run_opts, checkpointer
        As `EvaluationBrain` takes them.
    """

    def __init__(
        self, model, trainable, hparams, run_opts=None, checkpointer=None
    ):
        super().__init__(model, hparams, run_opts, checkpointer)
        self.trainable = trainable
        self.distillation = None  # a teacher, where healing wants one
        self.losses = None
        self.history = []
        self.train_seconds = 0.0
        self.loss_since = [0.0, 0]
        self.random_states = None
        self.asked = ()  # signals to stop
        self.joined = JoinedSteps()
        # A step, its loss and the norm of its gradients, still on the device.
        self._unread = self._norm = None
        # Adam then leaves out a step by itself, and nobody has to look first.
        self.fused = torch.device(self.device).type == "cuda"

    def _wrap_distributed(self):
        """No wrapper: a step's few gradients are summed once, by hand."""

    def init_optimizers(self):
        """One Adam, or AdamW, with a group and a rate for each part."""
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
        decay = getattr(self.hparams, "weight_decay", 0.0)
        self.optimizer = (torch.optim.AdamW if decay else torch.optim.Adam)(
            groups,
            lr=0.0,
            betas=tuple(self.hparams.adam_betas),
            weight_decay=decay,
            fused=self.fused or None,
        )
        # A checkpoint may come from another kind of device.
        self.optimizer.register_load_state_dict_pre_hook(self._keep_fused)
        self.optimizers_dict = {"optimizer": self.optimizer}
        if self.checkpointer is not None:
            # First the weights, whose loading tells what does not fit.
            self.checkpointer.add_recoverable(
                "trained", TrainableState(self.trainable)
            )
            self.checkpointer.add_recoverable("optimizer", self.optimizer)

    def _keep_fused(self, optimizer, state):
        """A checkpoint's optimiser, run as this process runs its own."""
        del optimizer
        groups = [
            {**group, "fused": self.fused or None}
            for group in state["param_groups"]
        ]
        return {**state, "param_groups": groups}

    def teacher_logits(self, inputs, stage):
        """A teacher's logits in training where there is one, or None."""
        if self.distillation is None or stage != sb.Stage.TRAIN:
            return None
        return self.distillation.logits(*inputs)

    def fit_step(self, batches):
        """One optimiser step over one or more accumulated batches.

        Gives its loss, which may not be computed yet: to read it is to wait.
        """
        tokens = sum(int(true_lengths(b.target_ids).sum()) for b in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            batch = to_device(batch, self.device)
            with self.training_ctx:
                predictions = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(
                    predictions, batch, sb.Stage.TRAIN
                )
                loss = loss / tokens
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.optimizers_step(total, tokens)
        return total

    def optimizers_step(self, loss, tokens):
        """Join gradients and loss of all processes, clip, step, clear."""
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
            gradients = [parameter.grad for parameter in parameters]
            self.joined.join(loss, gradients, tokens, bool(self.asked))
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            parameters, self.hparams.max_grad_norm
        )
        self._norm = norm
        self._step_unless(norm.isfinite().logical_not())
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1

    def _step_unless(self, bad):
        """Adam's step, unless gradients are no numbers.

        One step with NaN would spoil the weights for ever.
        """
        if self.scaler.is_enabled():  # looks for itself
            self.scaler.step(self.optimizer)
        elif self.fused:
            self.optimizer.grad_scale = None
            self.optimizer.found_inf = bad.float()
            self.optimizer.step()
        elif not bad:
            self.optimizer.step()

    def _read_loss(self, bar):
        """Note the loss of the step before: by now it should be there."""
        if self._unread is None:
            return
        (step, loss, norm, batches), self._unread = self._unread, None
        number, length = torch.stack([loss, norm.to(loss)]).tolist()
        bar.set_postfix(loss=f"{number:.3f}")
        if not math.isfinite(number):
            self._leave_out(step, "loss", loss, batches)
            return
        self.loss_since[0] += number
        self.loss_since[1] += 1
        # A scaler finds its scale by trying.
        tries = self.scaler.is_enabled() and self.scaler.get_scale() >= 1
        if tries or math.isfinite(length):
            self.nonfinite_count = 0
        else:
            self._leave_out(step, "gradients' norm", norm, batches)

    def _leave_out(self, step, what, value, batches):
        """Count a step that was left out, and say whose utterance it was."""
        told = later("training.left_out")
        if told is None:
            self.check_loss_isfinite(value)
        else:
            told.tell(self, step, what, value, batches)

    @hears_signals
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
        self.nonfinite_count, self._unread = 0, None
        self.on_fit_start()
        steps = self.steps_to_take()
        if not self.test_only and self._is_unvalidated(steps):
            self._after_step(steps, valid_set)
        if self.test_only or self.optimizer_step >= steps:
            return
        if self.random_states is not None:
            moment = self.hparams.seed + self.optimizer_step
            world = self.rank, self.world_size
            resume_random_state(self.random_states, *world, moment)
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
            self._read_loss(bar)
            self._unread = self.optimizer_step, loss, self._norm, batches
            if self._is_halt(steps):
                self._read_loss(bar)
            self.train_seconds += time.monotonic() - began
            bar.update()
            self._after_step(steps, valid_set)
            alone = self.world_size == 1
            if self.asked if alone else self.joined.is_stop():
                self._stop(bar)
        bar.close()

    def validate(self, dataset) -> float:
        """Mean negative log-likelihood per target token, in nats."""
        self.losses = self.utterance_losses(dataset)
        tokens = sum(row["tokens"] for row in self.losses)
        return math.fsum(row["loss"] for row in self.losses) / tokens

    @torch.no_grad()
    def utterance_losses(self, dataset) -> list[dict]:
        """Negative log-likelihood of each utterance's target."""
        self.modules.eval()
        rows = []
        for batch in self.shard(dataset):
            if self.asked:
                break
            rows += self._losses_of(batch)
        if any(self._gather(bool(self.asked))):
            self._stop()  # and validate after the next start
        rows = self._in_order(rows, dataset)
        bad = [row["id"] for row in rows if not math.isfinite(row["loss"])]
        if bad:
            logger.warning(no_numbers(bad, "the loss"))
        return rows

    def _losses_of(self, batch):
        """The rows of `utterance_losses` of one batch."""
        batch = to_device(batch, self.device)
        with self.evaluation_ctx:
            logits_NV, labels_N, *_ = self.compute_forward(
                batch, sb.Stage.VALID
            )
        losses_N = target_loss(logits_NV, labels_N, "none")
        tokens = true_lengths(batch.target_ids).tolist()
        losses_B = torch.stack(
            [in_double(own).sum() for own in losses_N.split(tokens)]
        )
        return [
            {"id": i, "loss": loss, "tokens": n}
            for i, loss, n in zip(batch.id, losses_B.tolist(), tokens)
        ]

    def end_training(self):
        """Let go of what only training needs: its memory is not inference's."""
        self.distillation = self.checkpointer = None
        self.optimizer, self.optimizers_dict = None, None
        for parameter in self.model.parameters():
            parameter.grad = None

    def use_best(self) -> int:
        """Take the best weights that were saved; gives their step."""
        kept = later("training.keep_best", "keep: best")
        step = kept.load_best(self.checkpointer, self.trainable)
        if step in (None, self.optimizer_step):
            return self.optimizer_step
        self.losses = None  # those of the last step's weights
        return step

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
        sampler = sampler_of(self, train_set, steps)
        batches = iter(self._loader(train_set, sampler))
        for _ in range(self.optimizer_step, steps):
            yield [next(batches) for _ in range(sampler.accumulation)]

    def _is_halt(self, steps):
        """Whether the losses so far are wanted before the next step."""
        often = self.hparams.valid_interval, self.hparams.checkpoint_interval
        step = self.optimizer_step
        return step == steps or not all(step % every for every in often)

    def _is_unvalidated(self, steps):
        """Whether a stop came before this step's validation was done."""
        step = self.optimizer_step
        due = step and (step == steps or not step % self.hparams.valid_interval)
        return due and step > max((e["step"] for e in self.history), default=0)

    def _stop(self, bar=None):
        """Save and leave: a signal asked for it (Stopped)."""
        self._read_loss(bar)
        self.save_checkpoint()
        stopped = later("training.stops").Stopped(
            *self.asked[:1], step=self.optimizer_step
        )
        if if_main_process():
            print(f"Stopped {stopped}.", flush=True)
        raise stopped

    def _after_step(self, steps, valid_set):
        """Validate and save where it is time to."""
        step = self.optimizer_step
        last = step == steps
        if last or step % self.hparams.valid_interval == 0:
            loss, count = self.loss_since
            entry = {
                "step": step,
                "train_loss": loss / count if count else None,
            }
            if valid_set is not None:
                entry["valid_loss"] = self.validate(valid_set)
            self.loss_since = [0.0, 0]
            self.history.append(entry)
            # On every process: only the main one writes, all wait for it.
            if hasattr(self.hparams, "train_logger"):
                told = {k: v for k, v in entry.items() if v is not None}
                diary = self.hparams.train_logger
                with writing(getattr(diary, "save_file", "train_logger")):
                    diary.log_stats({}, told)
            self.modules.train()
        best = getattr(self.hparams, "keep", "last") == "best"
        if best:
            kept = later("training.keep_best", "keep: best")
            best = kept.is_best(self.history, step)
        if last or best or step % self.hparams.checkpoint_interval == 0:
            self.save_checkpoint(best)

    def save_checkpoint(self, best=False):
        """Save what is trained, the optimiser and where we are."""
        if self.checkpointer is None:
            return
        self.random_states = self._gather(random_state())
        save_newest(self.checkpointer, self.history if best else [])

    @sb.utils.checkpoints.mark_as_saver
    def _save(self, path):
        torch.save({key: getattr(self, key) for key in STATE}, path)

    @sb.utils.checkpoints.mark_as_loader
    def _recover(self, path, end_of_epoch):
        del end_of_epoch
        state = read_state(path)
        for key in STATE:
            setattr(self, key, state[key])
