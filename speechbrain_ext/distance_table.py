"""The table of angular distances: its path, its file, and its comparison.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
from dataclasses import dataclass, field

import numpy as np

from speechbrain_ext.finite import refuse_overflow
from speechbrain_ext.pruning import Block
from speechbrain_ext.results import write_json

FORMAT = "speechbrain_ext.redundancy/1"


@dataclass
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

    def __post_init__(self):
        for size in range(1, self.num_layers + 1):
            self._starts(size, self.num_layers - size + 1)

    def _starts(self, size, many):
        """Distances of the blocks of a size that start first; all numbers."""
        found = self.distances[size - 1, :many]
        refuse_overflow(found, f"distances of blocks of {size} layers")
        return found

    @classmethod
    def from_pairs(cls, mean, errors, count, provenance=None):
        """Rearrange distances between depths into sizes and starts.

        Arguments
        ---------
        mean : numpy.ndarray
            ``[L + 1, L + 1]``, distance between the streams at two depths.
        errors : numpy.ndarray
            Same shape, standard errors.
        count : int
            Sequences averaged.
        provenance : dict or None
            Where it comes from.

        Returns
        -------
        RedundancyTable
        """
        layers = len(mean) - 1
        tables = []
        for pairs in (mean, errors):
            table = np.full((layers, layers), np.nan)
            for size in range(1, layers + 1):
                starts = np.arange(layers - size + 1)
                table[size - 1, starts] = pairs[starts, starts + size]
            tables.append(table)
        return cls(*tables, int(count), dict(provenance or {}))

    @property
    def num_layers(self):
        """Layers of the decoder (int)."""
        return len(self.distances)

    def best(self, size):
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

    def path(self):
        """The pruning path: the best block of each size (list of Block)."""
        return [self.best(size) for size in range(1, self.num_layers)]

    def save(self, path):
        """Write the table as JSON.

        Arguments
        ---------
        path : str
            The file.
        """
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
    def load(cls, path):
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
        try:
            with open(path, encoding="utf-8") as stream:
                content = json.load(stream)
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            tables = [
                np.array(content[name], dtype=np.float64)
                for name in ("distances", "errors")
            ]
            if tables[0].ndim != 2 or len(set(tables[0].shape)) != 1:
                raise ValueError("its distances are not square")
            return cls(*tables, content["count"], content["provenance"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a redundancy table ({error}). {mend}"
            ) from error

    def check_model(self, num_layers, name, path="the table"):
        """Refuse the table if it was measured on another model.

        Arguments
        ---------
        num_layers : int
            Layers of the decoder to be pruned.
        name : str
            That decoder's name.
        path : str
            Where the table was read.

        Raises
        ------
        ValueError
            If depths or names differ.
        """
        model = self.provenance.get("model", name)
        if num_layers != self.num_layers or model != name:
            raise ValueError(
                f"path_from: {path} was measured on {model} with "
                f"{self.num_layers} layers, but this run prunes {name} with "
                f"{num_layers}. Give a table of this backbone, or path_from: "
                "text to measure one."
            )


def compare(one, other):
    """How much two tables agree (the paper's Figure 1, a against b).

    Arguments
    ---------
    one : RedundancyTable
        For instance measured on speech.
    other : RedundancyTable
        For instance measured on text.

    Returns
    -------
    dict
        mean_difference : mean absolute difference of the distances.
        correlation : Pearson's, over all blocks.
        same_start : fraction of sizes at which both paths start alike.
        overlap : mean share of layers that both paths remove, over sizes.

    Raises
    ------
    ValueError
        If the tables are of different depths.
    """
    if one.num_layers != other.num_layers:
        raise ValueError(
            f"Tables of {one.num_layers} and {other.num_layers} layers cannot "
            "be compared."
        )
    there = ~np.isnan(one.distances)
    a, b = one.distances[there], other.distances[there]
    pairs = list(zip(one.path(), other.path()))
    shared = [len(set(p.removed) & set(q.removed)) / p.size for p, q in pairs]
    return {
        "mean_difference": float(np.abs(a - b).mean()),
        "correlation": float(np.corrcoef(a, b)[0, 1]),
        "same_start": float(np.mean([p == q for p, q in pairs])),
        "overlap": float(np.mean(shared)),
    }
