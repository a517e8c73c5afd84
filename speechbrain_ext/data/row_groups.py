"""Utterances in Parquet files, which are read a group of rows at a time."""

import re

import torch

ROW = re.compile(r"(.+#\d+):\d+", re.DOTALL)
# Groups of a Parquet file that training draws from at a time: enough to mix
# utterances well, few enough to stay in memory.
MIXED_GROUPS = 16


def row_group(place: str) -> str:
    """What is read together with others; "" for a file of its own.

    A row of a Parquet file is FILE#GROUP:ROW (`data.parquet`).
    """
    row = ROW.fullmatch(place)
    return row[1] if row else ""


def by_group(groups, generator, mixed=MIXED_GROUPS):
    """A permutation that stays within a few groups at a time."""
    members = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    members = list(members.values())
    order = torch.randperm(len(members), generator=generator).tolist()
    parts = []
    for first in range(0, len(order), mixed):
        some = [i for o in order[first : first + mixed] for i in members[o]]
        mix = torch.randperm(len(some), generator=generator)
        parts.append(torch.tensor(some)[mix])
    return torch.cat(parts)
