"""Which layers are redundant: angular distances and the pruning path.

Paper, Section 3.1, after Gromov et al. (arXiv 2403.17887): the distance of a
block of n layers that starts at l is

    d(l, n) = arccos(cos(h_l, h_(l+n))) / pi,

h_l being the residual stream before layer l at a sequence's last token,
averaged over sequences. h_L, behind the last layer, is the stream *before*
the final norm: hidden states as models hand them out are normed there, and
would compare unlike things.

One pass over the data gives the whole table. Only last tokens are kept, on
the device; neither the LM head nor other positions' states are computed or
stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from speechbrain_ext.later import later
from speechbrain_ext.layers.lm_calls import (
    base_model,
    evaluating,
    last_states,
    model_inputs,
)
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.residual import (
    in_double,
    no_numbers,
    on_stream,
    refuse_overflow,
)
from speechbrain_ext.runs.files import of_form, write_json

FORMAT = "speechbrain_ext.redundancy/1"


@dataclass(repr=False)
class RedundancyTable:
    """Angular distances d(l, n) of all blocks of a decoder.

    Arguments
    ---------
    distances : numpy.ndarray
        float64 ``[L, L]``: row n - 1 for block size n, column for the start
        l, NaN where l + n > L. In 0 .. 1.
    errors : numpy.ndarray
        Standard errors of the means over sequences, same shape.
    count : int
        Sequences averaged.
    provenance : dict
        Where it comes from: model, encoder, task, input, position.

    Raises
    ------
    ValueError
        If a block's distance is NaN: a NaN would be the smallest.

    Example
    -------
    >>> distances = np.array([[0.3, 0.1, 0.2], [0.4, 0.5, np.nan],
    ...     [0.6, np.nan, np.nan]])
    >>> table = RedundancyTable(distances, np.zeros((3, 3)), count=1)
    >>> table.best(1)
    Block(start=1, size=1)
    """

    distances: np.ndarray
    errors: np.ndarray
    count: int
    provenance: dict = field(default_factory=dict)

    def __repr__(self):
        model = self.provenance.get("model", "a model")
        return (
            f"<RedundancyTable of {model}: {self.num_layers} layers, "
            f"{self.count} sequences>"
        )

    def __post_init__(self):
        for size in range(1, self.num_layers + 1):
            self._starts(size, self.num_layers - size + 1)

    def _starts(self, size, many):
        """Distances of the blocks of a size that start first; all numbers."""
        found = self.distances[size - 1, :many]
        refuse_overflow(found, f"distances of blocks of {size} layers")
        return found

    @classmethod
    def from_pairs(
        cls,
        mean: np.ndarray,
        errors: np.ndarray,
        count: int,
        provenance: dict | None = None,
    ) -> RedundancyTable:
        """Rearrange distances between depths into sizes and starts."""
        layers = len(mean) - 1
        tables = []
        for pairs in (mean, errors):
            table = np.full((layers, layers), np.nan)
            for size in range(1, layers + 1):
                starts = np.arange(layers - size + 1)
                table[size - 1, starts] = pairs[starts, starts + size]
            tables.append(table)
        means, deviations = tables
        return cls(means, deviations, int(count), dict(provenance or {}))

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return len(self.distances)

    def best(self, size: int) -> Block:
        """The block of a size with the smallest distance (Equation 2).

        Arguments
        ---------
        size : int
            Layers to remove, 1 to L - 1.

        Returns
        -------
        Block

        Raises
        ------
        ValueError
            If no layer would be left to receive, or a distance is NaN.
        """
        if not 1 <= size <= self.num_layers - 1:
            raise ValueError(
                f"prune_layers: {size}, but the table is of a decoder with "
                f"{self.num_layers} layers and one must stay to receive: "
                f"choose 1 to {self.num_layers - 1}."
            )
        # A block that ends with the last layer has no receiving layer.
        starts = self._starts(size, self.num_layers - size)
        return Block(int(np.argmin(starts)), int(size))

    def path(self) -> list[Block]:
        """The pruning path: the best block of each size."""
        return [self.best(size) for size in range(1, self.num_layers)]

    def save(self, path: str) -> None:
        """Write the table as JSON."""
        write_json(
            path,
            {
                "format": FORMAT,
                "distances": self.distances.tolist(),
                "errors": self.errors.tolist(),
                "count": self.count,
                "path": [[b.start, b.size] for b in self.path()],
                "provenance": self.provenance,
            },
        )

    @classmethod
    def load(cls, path: str) -> RedundancyTable:
        """Read a table that `save` wrote.

        Arguments
        ---------
        path : str
            The file.

        Returns
        -------
        RedundancyTable

        Raises
        ------
        ValueError
            If the file is not such a table, or was cut short.
        """
        mend = "Measure again with measure.py, or give another file."
        with of_form(path, " is not a redundancy table", mend):
            with open(path, encoding="utf-8") as stream:
                content = json.load(stream)
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r:.80}")
            distances, errors = (
                np.array(content[name], dtype=np.float64)
                for name in ("distances", "errors")
            )
            if distances.ndim != 2 or len(set(distances.shape)) != 1:
                raise ValueError("its distances are not square")
            if errors.shape != distances.shape:
                raise ValueError("its errors are of other blocks")
            count, provenance = content["count"], content["provenance"]
            if type(count) is not int or not isinstance(provenance, dict):
                raise ValueError("it does not say what it was measured on")
            return cls(distances, errors, count, provenance)

    def check_model(
        self, num_layers: int, name: str, path: str = "the table"
    ) -> None:
        """Refuse the table if it was measured on another model."""
        model = self.provenance.get("model", name)
        if num_layers != self.num_layers or model != name:
            raise ValueError(
                f"path_from: {path} was measured on {model} with "
                f"{self.num_layers} layers, but this run prunes {name} with "
                f"{num_layers}. Give a table of this backbone, or path_from: "
                "text to measure one."
            )


POSITIONS = ("target", "prompt")


def angular_distances(states_LBD: torch.Tensor) -> torch.Tensor:
    """Angular distance between the states of all pairs of depths."""
    # arccos in half precision cannot tell small distances apart: the smallest
    # above zero is 0.028 in bfloat16, and 1e-4 in float32.
    h_BLD = in_double(torch.stack(list(states_LBD), dim=1))
    h_BLD = torch.nn.functional.normalize(h_BLD, dim=-1)
    cosine_BLL = torch.bmm(h_BLD, h_BLD.transpose(1, 2))
    return torch.arccos(cosine_BLL.clamp(-1.0, 1.0)) / torch.pi


def last_positions(mask_BQ, position="target", prompt_lengths=None):
    """The column of the token that is measured, in each row."""
    if position not in POSITIONS:
        raise ValueError(
            f"position: {position!r} is neither of {', '.join(POSITIONS)}."
        )
    mask_BQ = mask_BQ.long()
    counts_B = mask_BQ.sum(dim=1)
    if (counts_B == 0).any():
        raise ValueError("A row without a single token cannot be measured.")
    if position == "target":
        places_Q = torch.arange(mask_BQ.shape[1], device=mask_BQ.device)
        return (mask_BQ * places_Q).argmax(dim=1)
    if prompt_lengths is None:
        raise ValueError(
            "position: 'prompt' needs prompt_lengths in each batch: how many "
            "tokens of each row belong to the prompt."
        )
    lengths_B = torch.as_tensor(prompt_lengths, device=mask_BQ.device)
    if (lengths_B < 1).any() or (lengths_B > counts_B).any():
        raise ValueError(
            "prompt_lengths must be between 1 and the row's own length."
        )
    return mask_BQ.argmax(dim=1) + lengths_B - 1


@torch.no_grad()
def measure(
    decoder: torch.nn.Module,
    batches: Iterable[dict] | Iterable[str],
    tokenizer: Callable | None = None,
    position: str = "target",
    provenance: dict | None = None,
    across_ranks: bool = False,
) -> RedundancyTable:
    """Angular distances of all blocks, in one pass over the data.

    Arguments
    ---------
    decoder : torch.nn.Module
        Ours, or any Hugging Face causal LM of the Llama kind.
    batches : iterable of dict, or of str
        Texts, for which the tokenizer is needed; or batches of `input_ids` or `inputs_embeds`, `attention_mask` (padding on either
        side; taken as all ones if absent) and, for ``position="prompt"``,
        `prompt_lengths`.
    tokenizer : callable or None
        Of texts: the model's own.
    position : str
        "target": the last token of each row; "prompt": the prompt's last.
    provenance : dict or None
        Where the table comes from (model, encoder, task, input); stored.
    across_ranks : bool
        Each process has its own share of the data: add them up.

    Returns
    -------
    RedundancyTable
        ``[L, L]`` distances with standard errors over the sequences.

    Raises
    ------
    ValueError
        If there are no sequences, or the states overflow.
    TypeError
        If there are texts and no tokenizer.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> lm = tiny_speech_llm().decoder.lm
    >>> table = measure(lm, [{"input_ids": torch.tensor([[5, 6, 7]])}])
    >>> table.best(2).size, table.count
    (2, 1)
    """
    tokenizer = tokenizer or getattr(decoder, "tokenizer", None)
    texts = later("layers.texts")
    sequences = texts.tokenized(batches, tokenizer) if texts else batches
    model = base_model(decoder)
    device = next(model.parameters()).device
    sums = DistanceSums(len(model.layers), device)
    names: list[str] = []
    bad: list[torch.Tensor] = []
    with evaluating(model):
        for place, batch in enumerate(sequences):
            distances_BLL = _batch_distances(decoder, batch, position)
            sums.add(distances_BLL)
            rows = range(len(names), len(names) + len(distances_BLL))
            names += batch.get("id") or [f"sequence {row}" for row in rows]
            bad.append(distances_BLL.isnan().any(dim=(1, 2)))
            if place == 0:
                # A model overflows on its first words. Asking each time
                # would wait for the card.
                _refuse_bad(names, bad)
    if across_ranks:
        sums.add_up()
    _refuse_bad(names, bad)
    return sums.table(dict(provenance or {}, position=position))


def _refuse_bad(names, bad):
    """Refuse sequences that have a distance that is no number."""
    found = torch.cat(bad).nonzero()[:, 0].tolist() if bad else []
    if found:
        raise ValueError(no_numbers([names[i] for i in found], "a distance"))


class DistanceSums:
    """Sums over sequences of the distances between all pairs of depths."""

    def __init__(self, num_layers: int, device: str | torch.device = "cpu"):
        def zeros(*shape):
            """Sums in double precision."""
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        # Apple's GPUs have no float64.
        device = "cpu" if torch.device(device).type == "mps" else device
        depth = num_layers + 1
        self.total, self.squares = zeros(depth, depth), zeros(depth, depth)
        self.count = zeros(())

    def add(self, distances_BLL: torch.Tensor) -> None:
        """Add what `angular_distances` gives."""
        self.total += distances_BLL.sum(dim=0)
        self.squares += distances_BLL.square().sum(dim=0)
        self.count += len(distances_BLL)

    def add_up(self) -> None:
        """Add up the sums of all processes, each of which had its share."""
        if torch.distributed.is_initialized():
            for sums in (self.total, self.squares, self.count):
                torch.distributed.all_reduce(sums)

    def table(self, provenance: dict) -> RedundancyTable:
        """Means and their standard errors."""
        count = int(self.count)
        if not count:
            raise ValueError("No sequence to measure: the data are empty.")
        mean = self.total / count
        variance = (self.squares / count - mean.square()).clamp(min=0)
        error = (variance / max(count - 1, 1)).sqrt()
        return RedundancyTable.from_pairs(
            mean.cpu().numpy(), error.cpu().numpy(), count, provenance
        )


def _batch_distances(model, batch, position):
    """Distances of one batch, shape ``[B, L + 1, L + 1]``."""
    inputs = model_inputs(model, batch)
    lengths = batch.get("prompt_lengths")
    last_B = last_positions(inputs["attention_mask"], position, lengths)
    rows_B = torch.arange(len(last_B), device=last_B.device)
    states = None

    def see(index, h_BQD, options):
        """Keep the last positions of a stream."""
        nonlocal states
        if states is None:
            # All at once: small pieces that stay, between large ones that
            # go, would keep the memory of the large ones from being reused.
            depth = len(base_model(model).layers) + 1
            states = h_BQD.new_empty(depth, len(last_B), h_BQD.shape[-1])
        states[index] = h_BQD[rows_B, last_B]

    with on_stream(model, see):
        last_states(model, **inputs)
    return angular_distances(states)
