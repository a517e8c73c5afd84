"""Evaluates a speech LLM: its answers to a set, whatever trained it."""

from __future__ import annotations

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_ext.data.batches import by_duration, to_device, true_lengths
from speechbrain_ext.data.sets import speaker_of
from speechbrain_ext.layers.residual import no_numbers
from speechbrain_ext.model.answers import answer_limits
from speechbrain_ext.training.processes import hear_nothing, meet

logger = get_logger(__name__)


class EvaluationBrain(sb.Brain):
    """Evaluates a speech LLM, each process its share of a set.

    Arguments
    ---------
    model : speechbrain_ext.model.speech_llm.SpeechLLM
        Baseline or pruned.
    hparams : dict
        Keys used: test_batch_size, max_new_tokens, max_tokens_per_second,
        num_workers, and SpeechBrain's run options.
    run_opts : dict or None
        SpeechBrain's run options from the command line.
    checkpointer : speechbrain_ext.training.checkpoints.AtomicCheckpointer or None
        Where training goes on from.
    """

    def __init__(self, model, hparams, run_opts=None, checkpointer=None):
        super().__init__(
            modules={"model": model},
            hparams=hparams,
            run_opts=run_opts,
            checkpointer=checkpointer,
        )
        self.model = model
        world = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if world else 0
        self.world_size = torch.distributed.get_world_size() if world else 1

    def speech_of(self, batch):
        """Features and speech tokens of a batch, cached or from its `sig`."""
        if hasattr(batch, "features"):
            return batch.features.data, true_lengths(batch.features)
        return self.model.features(batch.sig.data, true_lengths(batch.sig))

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
            id, reference, hypothesis, duration, hit_limit: whether the
            answer ran into its token limit, and speaker, None where the
            manifest does not tell; in the data set's order, on every process.
            ``finite`` is False where an answer breaks off at what is no number.
        """
        self.modules.eval()
        rows = []
        for batch in tqdm(
            self.shard(dataset),
            desc=f"Decoding {name}",
            disable=self._quiet(progressbar),
            dynamic_ncols=True,
        ):
            batch = to_device(batch, self.device)
            with self.evaluation_ctx:
                x_BSF, tokens_B = self.speech_of(batch)
                answers = self.model.answer(x_BSF, tokens_B, self.limits(batch))
            rows += [
                dict(
                    id=i,
                    reference=ref,
                    hypothesis=said.text,
                    duration=float(d),
                    hit_limit=said.hit_limit,
                    **({} if said.finite else {"finite": False}),
                )
                for i, ref, said, d in zip(
                    batch.id, batch.target, answers, batch.duration
                )
            ]
        rows = self._in_order(rows, dataset)
        bad = [row["id"] for row in rows if not row.get("finite", True)]
        if bad:
            logger.warning(no_numbers(bad, f"{name}: what is computed of them"))
        return rows

    def limits(self, batch):
        """Most tokens each utterance's answer may have (int64, ``[B]``)."""
        return answer_limits(
            batch.duration,
            self.hparams.max_tokens_per_second,
            self.hparams.max_new_tokens,
        )

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
            pin_memory=torch.device(self.device).type == "cuda",
            worker_init_fn=hear_nothing,
            generator=torch.Generator(),
        )

    def _quiet(self, progressbar):
        """Whether no progress bar is shown here."""
        wanted = not self.noprogressbar if progressbar is None else progressbar
        return not (wanted and if_main_process())

    def _in_order(self, rows, dataset):
        """Every process's rows in the data set's order, with their speakers."""
        rows = {r["id"]: r for part in self._gather(rows) for r in part}
        return [
            {**rows[i], "speaker": speaker_of(dataset.data[i])}
            for i in dataset.data_ids
            if i in rows
        ]

    def _gather(self, value):
        """Every process's value, in order of rank (list)."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        meet()
        torch.distributed.all_gather_object(values, value)
        return values
