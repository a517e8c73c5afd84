"""Recordings, with their text where there is some, as a hub model hears them.

As batches, and as tables of which decoder layers are redundant, on speech and
on text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from speechbrain_ext.data.audio import audio_info, read_utterance
from speechbrain_ext.data.own_forms import form_of, read_data
from speechbrain_ext.layers.agreement import compare
from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechbrain_ext.model.prompt import Sequence
from speechllm.exported.audio import is_audio
from speechllm.hub.model import HubModel
from speechllm.text_lm import about, measure_rows, read_rows

SHOWN = 5


@dataclass(frozen=True)
class Utterance:
    """A recording, or seconds of one, and what is said in it."""

    name: str
    file: str
    part: tuple[float, float | None] | None = None
    text: str | None = None

    def read(self, rate: int) -> torch.Tensor:
        """Its samples at a rate, ``[N]``."""
        span: dict[str, Any] = {}
        if self.part is not None:
            own = audio_info(self.file).sample_rate
            start, stop = self.part
            span["start"] = round(start * own)
            span["stop"] = None if stop is None else round(stop * own)
        return read_utterance(
            self.file, rate, resample=True, mix_channels=True, **span
        )


def read_speech(place: str, most: int | None = None) -> list[Utterance]:
    """Utterances, at most so many, spread over all that there are.

    Of a Kaldi folder, an audiofolder, NeMo's JSON lines or a CSV, with the
    text that is said; or of any folder with recordings, without.
    """
    if not os.path.exists(place):
        raise FileNotFoundError(f"{place}: no such folder or table of speech")
    if form_of(place) is None and os.path.isdir(place):
        found = [Utterance(file, file) for file in _recordings(place)]
    else:
        root = place if os.path.isdir(place) else os.path.dirname(place)
        rows, _ = read_data(place, os.path.abspath(root), None, "speech")
        bad = [str(one) for one in rows if one.fault]
        if bad:
            shown = "; ".join(bad[:SHOWN])
            raise ValueError(f"{place}: {len(bad)} bad utterances: {shown}")
        found = [
            Utterance(one.name, row["file"], row.get("part"), row.get("wrd"))
            for one in rows
            for row in [one.row]
        ]
    if not found:
        raise ValueError(f"{place}: holds no recording")
    step = -(-len(found) // most) if most else 1
    return found[::step]


def _recordings(folder):
    """The audio files below a folder, by name."""
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(here, name)
            if is_audio(path):
                yield path


def has_text(utterances: list[Utterance]) -> bool:
    """Whether it is known of all what is said; refuses some of them."""
    without = [one.name for one in utterances if not one.text]
    if without and len(without) < len(utterances):
        raise ValueError(
            f"{len(without)} of {len(utterances)} utterances have no text, "
            f"first {without[0]}: give it, or leave them out"
        )
    return not without


@torch.no_grad()
def sequences(
    hub: HubModel,
    utterances: list[Utterance],
    batch_size: int = 8,
    name: str = "Hearing",
    progress: bool = False,
) -> Iterator[Sequence]:
    """What reaches the decoder, a batch at a time; targets where known."""
    told = has_text(utterances)
    starts = range(0, len(utterances), batch_size)
    for first in tqdm(starts, name, disable=not progress, leave=False):
        some = utterances[first : first + batch_size]
        rows = [one.read(hub.prompt.sample_rate) for one in some]
        lengths_B = torch.tensor([len(row) for row in rows])
        targets = None
        if told:
            targets = [hub.prompt.encode_target(str(one.text)) for one in some]
        wav_BN = pad_sequence(rows, batch_first=True)
        yield hub.sequence(wav_BN, lengths_B, targets)


@dataclass(frozen=True)
class Data:
    """What layers are chosen, maps fitted and the result judged on."""

    speech: str | None = None
    # A rule looks at it where there is no speech.
    text: str | None = None
    batch_size: int = 8
    context: int = 512
    most: int | None = None
    progress: bool = False

    def utterances(self) -> list[Utterance]:
        """What is spoken, if anything."""
        return read_speech(self.speech, self.most) if self.speech else []

    def rows(self, hub: HubModel) -> list[torch.Tensor]:
        """What is written, if anything, as token ids."""
        spell = hub.prompt.spell
        return read_rows(self.text, spell, self.context) if self.text else []

    def heard(self, hub, utterances, name):
        """What reaches the decoder of some utterances."""
        return sequences(hub, utterances, self.batch_size, name, self.progress)


def as_batch(sequence: Sequence) -> dict:
    """A sequence as measuring and rules take it."""
    given = sequence.as_inputs()
    more = {"prompt_lengths": sequence.prompt_lengths_B}
    if sequence.labels_BQ is not None:
        more["labels"] = sequence.labels_BQ
    return given | more


def measure_speech(
    hub: HubModel,
    utterances: list[Utterance],
    data: Data,
    position: str | None = None,
) -> RedundancyTable:
    """The table on speech, behind the model's own prompt.

    At the last token of what is said where that is known, or else of the
    prompt.
    """
    told = has_text(utterances)
    position = position or ("target" if told else "prompt")
    if position == "target" and not told:
        raise ValueError(
            "position: target, but the recordings have no text: give a table "
            "with their text, or --position prompt"
        )
    batches = map(as_batch, data.heard(hub, utterances, "Measuring"))
    from_where = about(hub.decoder, "speech")
    return measure(
        hub.decoder, batches, position=position, provenance=from_where
    )


def measure_both(
    hub: HubModel, data: Data, position: str | None = None
) -> tuple[dict[str, RedundancyTable], dict | None]:
    """The tables on speech and on text, and how much they agree."""
    tables: dict[str, RedundancyTable] = {}
    # What is wrong with either is told before anything long.
    utterances, rows = data.utterances(), data.rows(hub)
    if utterances:
        tables["speech"] = measure_speech(hub, utterances, data, position)
    if rows:
        tables["text"] = measure_rows(
            hub.decoder, rows, data.batch_size, data.progress
        )
    agreement = None
    if len(tables) == 2:
        agreement = compare(tables["speech"], tables["text"])
    return tables, agreement
