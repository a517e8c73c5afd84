"""What training and evaluation share: a batch's loss, and scoring whole sets.

Authors
 * The speechbrain_ext authors, 2026
"""

import math

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import if_main_process
from tqdm import tqdm

from speechbrain_ext.batches import by_duration, targets_of, true_lengths


class EvaluationBrain(sb.Brain):
    """Evaluates a speech LLM, each process its share of a set.

    Arguments
    ---------
    model : speechbrain_ext.model.SpeechLLM
        Baseline or pruned.
    hparams : dict
        Keys used: test_batch_size, max_new_tokens, max_tokens_per_second,
        num_workers, and SpeechBrain's run options.
    run_opts : dict or None
        SpeechBrain's run options from the command line.
    checkpointer : speechbrain_ext.checkpoints.AtomicCheckpointer or None
        Where training goes on from.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> hparams = {"test_batch_size": 2, "num_workers": 0,
    ...     "max_new_tokens": 4, "max_tokens_per_second": 12}
    >>> brain = EvaluationBrain(model, hparams)
    >>> next(brain.modules.parameters()).requires_grad in (True, False)
    True
    """

    def __init__(self, model, hparams, run_opts=None, checkpointer=None):
        super().__init__(
            modules={"model": model},
            hparams=hparams,
            run_opts=run_opts,
            checkpointer=checkpointer,
        )
        self.model = model
        self.losses = None
        world = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if world else 0
        self.world_size = torch.distributed.get_world_size() if world else 1

    def speech_of(self, batch):
        """Features and speech tokens of a batch, cached or computed.

        Arguments
        ---------
        batch : PaddedBatch
            With `features` (cached) or `sig` (waveforms).

        Returns
        -------
        x_BSF : torch.Tensor
        tokens_B : torch.Tensor
        """
        if hasattr(batch, "features"):
            return batch.features.data, true_lengths(batch.features)
        return self.model.features(batch.sig.data, true_lengths(batch.sig))

    def compute_forward(self, batch, stage):
        """Logits and labels at the batch's target positions."""
        x_BSF, tokens_B = self.speech_of(batch)
        return self.model(x_BSF, tokens_B, targets_of(batch))

    def compute_objectives(self, predictions, batch, stage):
        """Summed negative log-likelihood of the targets (paper, 2.1)."""
        logits_NV, labels_N = predictions
        return torch.nn.functional.cross_entropy(
            logits_NV.float(), labels_N, reduction="sum"
        )

    def validate(self, dataset):
        """Mean negative log-likelihood per target token, in nats.

        What it is the mean of stays in ``self.losses``.

        Arguments
        ---------
        dataset : DynamicItemDataset
            Sharded over the processes.

        Returns
        -------
        float
        """
        self.losses = self.utterance_losses(dataset)
        tokens = sum(row["tokens"] for row in self.losses)
        return math.fsum(row["loss"] for row in self.losses) / tokens

    @torch.no_grad()
    def utterance_losses(self, dataset):
        """Negative log-likelihood of each utterance's target.

        Arguments
        ---------
        dataset : DynamicItemDataset
            Sharded over the processes.

        Returns
        -------
        list of dict
            id, loss (nats, summed over the target's tokens) and tokens; in
            the data set's order, on every process.
        """
        self.modules.eval()
        rows = []
        for batch in self.shard(dataset):
            batch = batch.to(self.device)
            with self.evaluation_ctx:
                logits_NV, labels_N = self.compute_forward(
                    batch, sb.Stage.VALID
                )
            losses_N = torch.nn.functional.cross_entropy(
                logits_NV.float(), labels_N, reduction="none"
            )
            tokens = true_lengths(batch.target_ids).tolist()
            rows += [
                {"id": i, "loss": own.double().sum().item(), "tokens": n}
                for i, own, n in zip(batch.id, losses_N.split(tokens), tokens)
            ]
        return self._in_order(rows, dataset)

    @torch.no_grad()
    def decode(self, dataset, name="", progressbar=None):
        """Greedy answers for a whole set, sharded over the processes.

        Arguments
        ---------
        dataset : DynamicItemDataset
            With id, duration, target (text), and sig or features.
        name : str
            Shown at the progress bar.
        progressbar : bool or None
            Show one; None: as the run options say.

        Returns
        -------
        list of dict
            id, reference, hypothesis, duration, and hit_limit: whether the
            answer ran into its token limit; in the data set's order, on
            every process.
        """
        self.modules.eval()
        rows = []
        for batch in tqdm(
            self.shard(dataset),
            desc=f"Decoding {name}",
            disable=self._quiet(progressbar),
            dynamic_ncols=True,
        ):
            batch = batch.to(self.device)
            with self.evaluation_ctx:
                x_BSF, tokens_B = self.speech_of(batch)
                answers = self.model.answers(
                    x_BSF, tokens_B, self.limits(batch)
                )
            rows += [
                dict(
                    id=i,
                    reference=ref,
                    hypothesis=hyp,
                    duration=float(d),
                    hit_limit=hit,
                )
                for i, ref, (hyp, hit), d in zip(
                    batch.id, batch.target, answers, batch.duration
                )
            ]
        return self._in_order(rows, dataset)

    def limits(self, batch):
        """Most tokens each utterance's answer may have (int64, ``[B]``)."""
        by_length = torch.as_tensor(batch.duration, dtype=torch.float64)
        by_length = (by_length * self.hparams.max_tokens_per_second).ceil()
        return by_length.long().clamp(min=8, max=self.hparams.max_new_tokens)

    def shard(self, dataset):
        """This process's batches of a set, similar lengths together."""
        durations = [
            float(dataset.data[i]["duration"]) for i in dataset.data_ids
        ]
        batches = by_duration(
            durations, self.hparams.test_batch_size, self.rank, self.world_size
        )
        if self.debug:
            batches = batches[: self.debug_batches]
        return self._loader(dataset, batches)

    def _loader(self, dataset, batch_sampler):
        """A DataLoader that leaves the global random state alone."""
        return torch.utils.data.DataLoader(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=PaddedBatch,
            num_workers=self.hparams.num_workers,
            generator=torch.Generator(),
        )

    def _quiet(self, progressbar):
        """Whether no progress bar is shown here."""
        wanted = not self.noprogressbar if progressbar is None else progressbar
        return not (wanted and if_main_process())

    def _sum_over_ranks(self, value):
        """Sum of a number over all processes (float)."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return total.item()

    def _in_order(self, rows, dataset):
        """Every process's rows, in the data set's order (list)."""
        rows = {r["id"]: r for part in self._gather(rows) for r in part}
        return [rows[i] for i in dataset.data_ids if i in rows]

    def _gather(self, value):
        """Every process's value, in order of rank (list)."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values
