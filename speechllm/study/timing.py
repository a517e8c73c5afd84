"""Time a pruned model against its unpruned baseline, by turns.

``python -m speechllm.study.timing BASELINE PRUNED --output FILE``, typed in the
folder of their recipe, loads both finished runs and has them decode the same
utterances at equal lengths: each answer has as many tokens as its reference,
whatever either model would say. Meant for a machine that has nothing else to
do; what others did meanwhile is written down.
"""

from __future__ import annotations

import functools
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import quantile_test
from speechbrain.utils.distributed import infer_device

from speechbrain_ext.data.batches import targets_of
from speechbrain_ext.layers.lm_calls import decoder_layers
from speechbrain_ext.model.decoding import greedy
from speechbrain_ext.model.prompt import assemble
from speechbrain_ext.model.static_decoding import StaticDecoding
from speechbrain_ext.runs.files import versions, write_json
from speechbrain_ext.training.baseline import with_former
from speechbrain_ext.training.baseline_checks import known_of, refuse_another
from speechbrain_ext.training.evaluation import EvaluationBrain
from speechbrain_ext.training.measure import spread
from speechbrain_ext.training.run_record import now
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.pipes import module_parser
from speechllm.study.machine import OthersWork, machine_name

PAIRS, UTTERANCES, BATCH = 9, 40, 1
# The least and the largest of six hold the median with 97 %, of five with 94.
LEAST_PAIRS = 6
LEVEL = 0.95
# No token has this id: an answer ends with its limit alone.
NEVER = [-1]
SIDES = ("baseline", "pruned")
COUNTED = (
    "weights and buffers, and the largest key-value cache by its shape; "
    "activations are not counted"
)
ALLOCATED = "weights and buffers, and the most that torch allocated beyond"


class TimingError(ValueError):
    """Why two runs cannot be timed against each other, and what to do."""


def refuse_pair(baseline: TrainedRun, pruned: TrainedRun) -> None:
    """Refuse all but a whole baseline and a pruned run of the same system."""
    for run in (baseline, pruned):
        if run.result.status != "done":
            raise TimingError(
                f"{run.folder}: its status is {run.result.status}: start the "
                "command that began it again"
            )
    if baseline.removed:
        raise TimingError(
            f"{baseline.folder} lacks layers {list(baseline.removed)}: give "
            "the unpruned baseline first, the pruned run after it"
        )
    before = baseline.settings.get("baseline")
    if before:
        raise TimingError(
            f"{baseline.folder} is a control run, trained further from "
            f"{before}, and no baseline: give that one"
        )
    if not pruned.removed:
        raise TimingError(
            f"{pruned.folder} lacks no layer: give a pruned run second"
        )
    told = known_of(baseline.folder), known_of(pruned.folder)
    refuse_another(*told, baseline.folder)


class Side:
    """One of the two models, and how it decodes."""

    def __init__(self, run: TrainedRun, encoder, batch: int, device: str):
        self.run, self.device = run, device
        self.model = run.load(device, encoder)
        if run.settings.get("decode_static"):
            self.model.decoder.static = StaticDecoding()
        more = {"num_workers": 0, "test_batch_size": batch}
        settings = {**run.settings, **more}
        self.brain: Any = EvaluationBrain(
            self.model, settings, {"device": device}
        )
        # Bytes that decoding held at most beyond the weights, and of these
        # the ones that stay from one time to the next.
        self.beyond = self.kept = 0

    @torch.no_grad()
    def decode(self, batches) -> dict:
        """Decode all: seconds, those of the LLM alone, and tokens said."""
        seconds = llm_seconds = 0.0
        tokens = []
        before = self._allocated()
        for batch in batches:
            limits_B = lengths_of(batch)
            with self.brain.evaluation_ctx:
                began = self._clock()
                speech = self.model.speech_embeddings(
                    *self.brain.speech_of(batch)
                )
                heard = self._clock()
                said, cache = self._answer(speech, limits_B)
                ended = self._clock()
            seconds += ended - began
            llm_seconds += ended - heard
            tokens += [len(ids) for ids in said]
            self.beyond = max(self.beyond, cache)
        if before is not None:
            most = torch.cuda.max_memory_allocated(self.device)
            self.beyond = self.kept + most - before
            if self.model.decoder.static and not self.kept:
                # Buffers of a fixed size stay from the first time on.
                self.kept = self._allocated() - before
        return {"system": seconds, "llm": llm_seconds, "tokens": tokens}

    def _answer(self, speech, limits_B):
        """What is said to projected speech, and the bytes of its cache."""
        decoder = self.model.decoder
        sequence = assemble(
            self.model.prompt, speech, decoder.embed, side="left"
        )
        said = greedy(
            decoder.lm, sequence, limits_B, NEVER, None, decoder.static
        )
        rows, width = sequence.mask_BQ.shape
        # The last token is said, and never read.
        length = width + int(limits_B.max()) - 1
        return said, cache_bytes(decoder.lm, rows, length)

    def _clock(self):
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _allocated(self):
        """Bytes held now, the peak set back; None but on a GPU."""
        if torch.device(self.device).type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def held(self) -> dict:
        """Bytes at decoding: of the LLM, of the whole system, and beyond."""
        return {
            "llm": held_bytes(self.model.decoder),
            "system": held_bytes(self.model),
            "beyond": self.beyond,
        }


def lengths_of(batch) -> torch.Tensor:
    """Tokens of each reference (int64, ``[B]``): how much is to be said."""
    return torch.tensor([len(ids) for ids in targets_of(batch)])


def held_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's weights and buffers, tied ones once."""
    held = [*module.parameters(), *module.buffers()]
    return sum(tensor.nbytes for tensor in held)


def cache_bytes(lm, rows: int, length: int) -> int:
    """Bytes of a key-value cache of so many rows and positions."""
    config, device = lm.config, lm.lm_head.weight.device.type
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    dtype = lm.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    pairs = len(decoder_layers(lm)) * rows * length
    return 2 * pairs * config.num_key_value_heads * width * dtype.itemsize


def by_turns(sides, batches, pairs: int) -> tuple[list[str], dict]:
    """Decode A, B, A, B ... after a warm-up of each; order and what it took."""
    wanted = [int(n) for batch in batches for n in lengths_of(batch)]
    order: list[str] = []
    taken: dict[str, list] = {name: [] for name in SIDES}
    for turn in range(-1, pairs):
        for name, side in zip(SIDES, sides):
            done = side.decode(batches)
            if done["tokens"] != wanted:
                raise RuntimeError(
                    f"{side.run.folder}: said {sum(done['tokens'])} tokens "
                    f"in place of {sum(wanted)}: no equal lengths"
                )
            if turn >= 0:
                order.append(name)
                taken[name].append(done)
    return order, taken


def ratio_of_pairs(whole, pruned) -> dict:
    """How many times as fast: the median of the pairs, its 95 % interval.

    The interval's ends are order statistics: whatever the distribution is.
    """
    ratios = np.divide(whole, pruned)
    # Of the median: the value that the test is of does not matter.
    ends = quantile_test(ratios, q=1.0, p=0.5).confidence_interval(LEVEL)
    return {"median": float(np.median(ratios)), "interval": [*map(float, ends)]}


def time_pair(
    baseline: str,
    pruned: str,
    datasets_of: Callable,
    name: str | None = None,
    pairs: int = PAIRS,
    utterances: int = UTTERANCES,
    batch: int = BATCH,
    device: str = "cpu",
) -> dict:
    """Time two finished runs against each other: seconds, ratio, bytes held.

    The baseline and a pruned run of its system, by their folders; the data
    sets are those of the recipe's ``dataio_prepare``.
    """
    if pairs < LEAST_PAIRS:
        raise TimingError(
            f"pairs: {pairs}, give {LEAST_PAIRS} or more: fewer have no 95 % "
            "interval"
        )
    runs = TrainedRun(baseline), TrainedRun(pruned)
    refuse_pair(*runs)
    settings = with_former(runs[1].settings)
    name = name or next(iter(settings["test_splits"]), None)
    if name is None:
        raise TimingError(f"{pruned}: test_splits is empty: give --set NAME")
    encoder = runs[1].load_encoder(device)
    sides = [Side(run, encoder, batch, device) for run in runs]
    wanted = {**settings, "test_splits": [name], "loss_splits": []}
    dataset = datasets_of(wanted, sides[1].model.prompt)["test"][name]
    chosen = spread(dataset, utterances)
    batches = [one.to(device) for one in sides[0].brain.shard(chosen)]
    busy, others = os.getloadavg()[0], OthersWork()
    order, taken = by_turns(sides, batches, pairs)
    return {
        **_about(*runs),
        "measured_on": {**_place(device), "load_average_at_start": busy}
        | {"others_busy_cores": others.cores(), "cores": os.cpu_count()},
        "set": name,
        "utterances": len(chosen),
        "audio_seconds": sum(float(d) for one in batches for d in one.duration),
        "tokens": sum(taken["pruned"][0]["tokens"]),
        "batch": batch,
        "pairs": pairs,
        "order": order,
        "times": {what: _told(taken, what) for what in ("system", "llm")},
        "bytes": _bytes(sides),
    }


def _about(baseline, pruned):
    """Which runs, of which system, and what the second lacks."""
    one = pruned.result
    told = ("backbone", "adapter", "encoder", "task", "layers", "healing")
    return {
        "baseline": baseline.result.name,
        "pruned": one.name,
        **{key: getattr(one, key) for key in told},
        "path": one.path_from,
        "removed_layers": list(pruned.removed),
    }


def _place(device):
    """What it was measured on and with."""
    kind = torch.device(device).type
    card = torch.cuda.get_device_name(device) if kind == "cuda" else None
    return {
        "machine": machine_name(),
        "device": card or kind,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "date": now(),
    }


def _told(taken, what):
    """Seconds of either side, their medians, and the ratio of the pairs."""
    seconds = {name: [one[what] for one in taken[name]] for name in SIDES}
    return {
        "seconds": seconds,
        "median_seconds": {k: statistics.median(v) for k, v in seconds.items()},
        "ratio": ratio_of_pairs(*(seconds[name] for name in SIDES)),
    }


def _bytes(sides):
    """Bytes held by either side, and those of the layers that are gone."""
    layers = decoder_layers(sides[0].model.decoder)
    gone = [layers[index] for index in sides[1].run.removed]
    on_gpu = torch.device(sides[0].device).type == "cuda"
    return {
        **{name: side.held() for name, side in zip(SIDES, sides)},
        "removed_layers": sum(map(held_bytes, gone)),
        "counted": ALLOCATED if on_gpu else COUNTED,
    }


def main(argv=None) -> int:
    """Time two runs and write the result."""
    parser = module_parser("speechllm.study.timing", __doc__)
    parser.add_argument("baseline", help="folder of the unpruned run")
    parser.add_argument("pruned", help="folder of the pruned run")
    parser.add_argument("--output", required=True, help="JSON file")
    parser.add_argument(
        "--set", dest="name", help="test set; by default the first"
    )
    number = functools.partial(parser.add_argument, type=int)
    number("--pairs", default=PAIRS)
    number("--utterances", default=UTTERANCES)
    number("--batch", default=BATCH)
    parser.add_argument(
        "--device",
        default=infer_device(),
        help="by default a GPU if there is one",
    )
    options = vars(parser.parse_args(argv))
    file = Path(options.pop("output"))
    try:
        recipe = importlib.import_module("train")
    except ModuleNotFoundError as error:
        parser.error(f"{error}: type it in the runs' recipe's folder")
    try:
        found = time_pair(datasets_of=recipe.dataio_prepare, **options)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found)
    ratio = found["times"]["system"]["ratio"]
    low, high = ratio["interval"]
    print(
        f"{file}: {found['pruned']}: {ratio['median']:.2f} times as fast as "
        f"{found['baseline']} [{low:.2f}, {high:.2f}], {found['pairs']} pairs"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
