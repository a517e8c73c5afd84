"""Which layers go and which stay, as plain arithmetic on their indices.

Layers are counted from 0.
"""

import re
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

    @property
    def removed(self):
        """Indices of the removed layers, ascending (tuple of int)."""
        return tuple(range(self.start, self.start + self.size))

    @property
    def receiving(self):
        """Old index of the receiving layer (int)."""
        return self.start + self.size


def removed_layers(removed, num_layers):
    """The removed layers as sorted indices, checked against a depth.

    Arguments
    ---------
    removed : Block, iterable of int or None
        What to remove; None and an empty set remove nothing.
    num_layers : int
        Layers of the whole decoder.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If an index does not exist, or if the last layer is removed: a block
        needs a receiving layer behind it.

    Example
    -------
    >>> removed_layers(Block(1, 2), num_layers=4)
    (1, 2)
    """
    if removed is None:
        return ()
    if isinstance(removed, Block):
        removed = removed.removed
    indices = tuple(sorted(set(int(index) for index in removed)))
    if not indices:
        return ()
    if indices[0] < 0 or indices[-1] >= num_layers:
        raise ValueError(
            f"Cannot remove layers {list(indices)}: the decoder has "
            f"{num_layers} layers, numbered 0 to {num_layers - 1}."
        )
    if indices[-1] == num_layers - 1:
        raise ValueError(
            f"Cannot remove layers {list(indices)}: the last of "
            f"{num_layers} layers must stay to receive. Choose layers up to "
            f"{num_layers - 2}."
        )
    return indices


def kept_layers(removed, num_layers):
    """Old indices of the layers that stay, ascending.

    Arguments
    ---------
    removed : Block, iterable of int or None
        What is removed.
    num_layers : int
        Layers of the whole decoder.

    Returns
    -------
    tuple of int

    Example
    -------
    >>> kept_layers(Block(1, 2), num_layers=4)
    (0, 3)
    """
    gone = set(removed_layers(removed, num_layers))
    return tuple(i for i in range(num_layers) if i not in gone)


def receiving_layers(removed, num_layers):
    """New indices of the layers that receive across a gap, ascending.

    One layer for a `Block`, one for each gap of a set with holes.

    Arguments
    ---------
    removed : Block, iterable of int or None
        What is removed.
    num_layers : int
        Layers of the whole decoder.

    Returns
    -------
    tuple of int

    Example
    -------
    >>> receiving_layers({1, 3}, num_layers=6)
    (1, 2)
    """
    kept = kept_layers(removed, num_layers)
    before = (-1,) + kept[:-1]
    return tuple(
        new for new, (b, old) in enumerate(zip(before, kept)) if old != b + 1
    )


def gaps(removed, num_layers):
    """The removed layers as runs, each of which leaves one gap.

    Arguments
    ---------
    removed : Block, iterable of int or None
        What is removed.
    num_layers : int
        Layers of the whole decoder.

    Returns
    -------
    tuple of Block
        Ascending, old indices; each one's `receiving` layer stays.

    Example
    -------
    >>> gaps({1, 2, 4}, num_layers=6)
    (Block(start=1, size=2), Block(start=4, size=1))
    """
    found = []
    for layer in removed_layers(removed, num_layers):
        if found and found[-1].receiving == layer:
            found[-1] = Block(found[-1].start, found[-1].size + 1)
        else:
            found.append(Block(layer, 1))
    return tuple(found)


def ranges(layers):
    """Layer indices as a person writes them.

    Arguments
    ---------
    layers : iterable of int
        Indices, ascending.

    Returns
    -------
    str

    Example
    -------
    >>> ranges([0, 1, 2, 5])
    '0-2, 5'
    """
    runs = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in runs)


def renumber(name, new_index):
    """A tensor's name once layers have new numbers.

    Arguments
    ---------
    name : str
        A tensor's name, such as "model.layers.9.mlp.up_proj.weight".
    new_index : dict
        Old layer index to new one, for the layers that stay.

    Returns
    -------
    str or None
        None for a tensor of a layer that does not stay.

    Example
    -------
    >>> renumber("model.layers.9.mlp.up_proj.weight", {9: 7})
    'model.layers.7.mlp.up_proj.weight'
    >>> renumber("layers.9.mlp.up_proj.weight", {9: 7})
    'layers.7.mlp.up_proj.weight'
    """
    found = LAYER.search(name)
    if found is None:
        return name
    if int(found[1]) not in new_index:
        return None
    new = new_index[int(found[1])]
    return f"{name[: found.start(1)]}{new}{name[found.end(1) :]}"


def layer_and_rest(name):
    """Which layer a tensor belongs to, and its name inside that layer."""
    found = LAYER.search(name)
    if found is None:
        return None, name
    return int(found[1]), name[found.end() :]
