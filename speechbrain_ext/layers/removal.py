"""Which layers of a decoder go and which stay: arithmetic on their indices.

Layers are counted from 0. A `Block` is a run of layers, as the paper removes
them; `Removal.of` makes of it, of a plan or of any indices the one thing that
everything else asks.
"""

from __future__ import annotations

import numbers
import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# A layer's number in a tensor's name, whatever stands in front: checkpoints
# of the base model have no "model.", PEFT's have more than one.
LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")


@dataclass(frozen=True, order=True)
class Block:
    """A run of consecutive decoder layers that is removed as one.

    Paper, Section 3.2: layers l .. l+n-1 go, and the output of layer l-1
    enters the old layer l+n, the receiving layer.

    Arguments
    ---------
    start : int
        First removed layer, counted from 0. It is also the receiving layer's
        index once the block is gone.
    size : int
        Number of removed layers, at least 1.

    Example
    -------
    >>> block = Block(start=3, size=2)
    >>> block.removed
    (3, 4)
    >>> block.receiving
    5
    """

    start: int
    size: int

    def __post_init__(self):
        if self.size < 1 or self.start < 0:
            raise ValueError(
                f"Block(start={self.start}, size={self.size}): start counts "
                "from 0 and size is at least 1."
            )

    def __iter__(self) -> Iterator[int]:
        return iter(self.removed)

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices of the removed layers, ascending."""
        return tuple(range(self.start, self.start + self.size))

    @property
    def receiving(self) -> int:
        """Old index of the receiving layer."""
        return self.start + self.size


@dataclass(frozen=True)
class Removal:
    """Layers that are removed from a decoder of a known depth.

    Iterating over it gives the layers.

    Arguments
    ---------
    layers : iterable of int
        Old indices of the removed layers; kept as a sorted tuple, each once.
    num_layers : int
        Layers of the whole decoder.

    Raises
    ------
    ValueError
        If an index does not exist, or if the last layer is removed: every
        gap needs a receiving layer behind it.

    Example
    -------
    >>> removed = Removal.of({1, 2, 4}, num_layers=6)
    >>> removed.kept
    (0, 3, 5)
    >>> removed.gaps
    (Block(start=1, size=2), Block(start=4, size=1))
    >>> removed.receiving
    (1, 2)
    """

    layers: tuple[int, ...]
    num_layers: int

    def __post_init__(self):
        layers = tuple(sorted(set(map(operator.index, self.layers))))
        object.__setattr__(self, "layers", layers)
        last = self.num_layers - 1
        if layers and (layers[0] < 0 or layers[-1] > last):
            raise ValueError(
                f"Cannot remove layers {list(layers)}: the decoder has "
                f"{self.num_layers} layers, numbered 0 to {last}."
            )
        if layers and layers[-1] == last:
            raise ValueError(
                f"Cannot remove layers {list(layers)}: the last of "
                f"{self.num_layers} layers must stay to receive. Choose "
                f"layers up to {last - 1}."
            )

    @staticmethod
    def of(removed: Iterable[int] | None, num_layers: int) -> Removal:
        """Whatever says which layers go, checked against a depth.

        Arguments
        ---------
        removed : Block, Removal, Plan, iterable of int or None
            None and an empty set remove nothing.
        num_layers : int
            Layers of the whole decoder.

        Returns
        -------
        Removal
            The same, where it is one already.

        Raises
        ------
        ValueError
            As the class says, or if it is of a decoder of another depth.
        TypeError
            If it is a number: so many are not these.
        """
        if isinstance(removed, (numbers.Integral, str)):
            raise TypeError(
                f"removed: {removed!r} does not say which layers: give a list, "
                "such as [3, 4], or Block(start, size); the n most redundant "
                "are measure(model, texts, tokenizer).best(n)"
            )
        if not isinstance(removed, Removal):
            layers = tuple(() if removed is None else removed)
            return Removal(layers, num_layers)
        if removed.num_layers != num_layers:
            raise ValueError(
                f"Cannot remove layers {list(removed)}: they were chosen of "
                f"{removed.num_layers} layers, and this decoder has "
                f"{num_layers}. Choose layers of this one."
            )
        return removed

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def size(self) -> int:
        """Number of removed layers."""
        return len(self.layers)

    @property
    def kept(self) -> tuple[int, ...]:
        """Old indices of the layers that stay, ascending."""
        return tuple(i for i in range(self.num_layers) if i not in self.layers)

    @property
    def gaps(self) -> tuple[Block, ...]:
        """The removed layers as runs, each of which leaves one gap."""
        starts = [i for i in self.layers if i - 1 not in self.layers]
        return tuple(
            Block(start, next(i for i in self.kept if i > start) - start)
            for start in starts
        )

    @property
    def start(self) -> int | None:
        """First removed layer, or None where they are not in a row."""
        return self.layers[0] if len(self.gaps) == 1 else None

    @property
    def receiving(self) -> tuple[int, ...]:
        """New indices of the layers that receive across a gap, ascending."""
        return tuple(self.kept.index(gap.receiving) for gap in self.gaps)

    def until(self, gap: Block) -> Removal:
        """The same up to a gap, and nothing behind it."""
        before = tuple(i for i in self.layers if i < gap.receiving)
        return Removal(before, self.num_layers)


def ranges(layers: Iterable[int]) -> str:
    """Layer indices, ascending, as a person writes them.

    Example
    -------
    >>> ranges([0, 1, 2, 5])
    '0-2, 5'
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in runs)


def renumber(
    name: str, new_index: dict[int, int], layer: re.Pattern = LAYER
) -> str | None:
    """A tensor's name once layers have new numbers; None: its layer went.

    Example
    -------
    >>> renumber("model.layers.9.mlp.up_proj.weight", {9: 7})
    'model.layers.7.mlp.up_proj.weight'
    >>> renumber("layers.9.mlp.up_proj.weight", {9: 7})
    'layers.7.mlp.up_proj.weight'
    """
    found = layer.search(name)
    if found is None:
        return name
    # An expression may say in several ways where the number is.
    place = found.lastindex or 0
    if int(found[place]) not in new_index:
        return None
    new = new_index[int(found[place])]
    return f"{name[: found.start(place)]}{new}{name[found.end(place) :]}"


def layer_and_rest(
    name: str, layer: re.Pattern = LAYER
) -> tuple[int | None, str]:
    """Which layer a tensor belongs to, and its name inside that layer."""
    found = layer.search(name)
    if found is None:
        return None, name
    return int(found[found.lastindex or 0]), name[found.end() :]
