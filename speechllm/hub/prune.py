"""A smaller speech LLM: which layers go, what a map takes back, the copy."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from speechbrain_ext.healing.closed_form import (
    check_layer_before,
    fit_in_sequence,
    fold_maps,
    held_out_loss,
)
from speechbrain_ext.healing.presets import PARTS
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.lm_calls import decoder_layers
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.rules import DEFAULT, check_size, find_rule
from speechbrain_ext.layers.search import RuleData, text_labels
from speechbrain_ext.layers.surgery import source_place
from speechbrain_ext.model.decoder import DTYPES
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.runs.folders import whole_folder
from speechllm.hub.model import HubModel, load_prompt
from speechllm.hub.speech import as_batch, has_text, read_speech, sequences
from speechllm.hub.tables import about, hub_dtype, load_hub, measure_speech
from speechllm.saved import check_target
from speechllm.streamed.copy import Exchanged, write_pruned
from speechllm.text_lm import batches_of, read_rows, split_rows
from speechllm.text_prune import PRUNING, Choice, planned

DOWN = "mlp.down_proj"


@dataclass(frozen=True)
class Data:
    """What layers are chosen, maps fitted and the result judged on.

    Arguments
    ---------
    speech : str or None
        As `speechllm.hub.speech.read_speech` takes it.
    text : str or None
        A text file, looked at where there is no speech.
    batch_size : int
        Rows at a time.
    context : int
        Most tokens of a row of text.
    most : int or None
        No more utterances than this.
    progress : bool
        Show bars.
    """

    speech: str | None = None
    text: str | None = None
    batch_size: int = 8
    context: int = 512
    most: int | None = None
    progress: bool = False

    def heard(self, hub, utterances, name):
        """What reaches the decoder of some utterances."""
        return sequences(hub, utterances, self.batch_size, name, self.progress)


def prune_hub(
    source: str,
    choice: Choice,
    folder: str,
    data: Data = Data(),
    overwrite: bool = False,
    heal: bool = False,
    dtype: str | None = None,
    device: str = "cpu",
    words: str | None = None,
) -> tuple[dict[str, Any], RedundancyTable | None]:
    """Write a speech LLM without some decoder layers, with its processor.

    The weights are copied from file to file, as they are stored; without data
    none is even read into a model.
    """
    check_target(folder, PRUNING, overwrite)
    place, config = source_place(source)
    layers = place.decoder_config(config).num_hidden_layers
    report: dict[str, Any] = {
        "model": os.path.basename(os.path.normpath(source)),
        "layers": layers,
    }
    removed = _known(choice, layers, report)
    _check_data(choice, removed, data, heal)
    utterances = read_speech(data.speech, data.most) if data.speech else []
    told = bool(utterances) and has_text(utterances)
    if heal and not told:
        raise ValueError(
            "a map's strength is chosen by what is said: give a table of "
            "speech with its text"
        )
    measured, judged = split_rows(utterances) if told else (utterances, [])
    hub: HubModel | None = None
    table: RedundancyTable | None = None
    if data.speech or data.text:
        hub = load_hub(source, device, dtype, words)
    if removed is None:
        removed, table = _chosen(hub, choice, measured, data, report)
    report["removed"], report["kept_layers"] = list(removed), list(removed.kept)
    exchanged: Exchanged = {}
    if judged:
        exchanged = _judge(hub, removed, measured, judged, data, heal, report)
    wanted = DTYPES[dtype] if dtype and dtype != hub_dtype(source) else None
    processor = (hub.prompt if hub else load_prompt(source)).processor
    with whole_folder(folder) as unfinished:
        write_pruned(source, removed, unfinished, processor, wanted, exchanged)
        write_json(os.path.join(unfinished, PRUNING), report)
    return report, table


def _check_data(choice, removed, data, heal):
    """Refuse what the data do not suffice for, before anything long."""
    if heal and not data.speech:
        raise ValueError("a map is fitted on speech: give --speech")
    if removed is None and not (data.speech or data.text):
        raise ValueError(
            f"rule {choice.rule or DEFAULT} looks at data: give --speech, or --text"
        )
    if removed and heal:
        check_layer_before(removed.receiving)


def _known(choice, layers, report) -> Removal | None:
    """The layers, where they are named or stand in a file."""
    if choice.layers is not None:
        return Removal.of(choice.layers, layers)
    if choice.plan is None:
        check_size(choice.size, layers)
        return None
    removed, told = planned(choice, choice.plan, layers, report["model"])
    report |= told
    return removed


def _batches(hub, measured, data):
    """What a rule looks at: speech where it is given, else text."""
    if measured:
        return map(as_batch, data.heard(hub, measured, "Hearing"))
    rows = read_rows(data.text, hub.prompt.spell, data.context)
    return (
        {**batch, "labels": text_labels(*batch.values())}
        for batch in batches_of(rows, data.batch_size)
    )


def _chosen(hub, choice, measured, data, report):
    """The layers that a rule chooses, and the table if it made one."""
    kind, table = "speech" if measured else "text", None
    rule = choice.rule or DEFAULT
    if rule == DEFAULT and measured:
        table = measure_speech(
            hub, measured, data.batch_size, None, data.progress
        )
    batches = [] if table else list(_batches(hub, measured, data))
    looked_at = RuleData(batches, about(hub, kind), table)
    looked_at.progress = data.progress
    plan = find_rule(rule)(hub.decoder, looked_at, choice.size)
    report["rule"] = rule
    report["distance" if rule == DEFAULT else "value"] = plan.value
    report["measured_rows"] = len(measured) or looked_at.sequences
    return Removal.of(plan, hub.decoder.num_layers), table


def _judge(hub, removed, measured, judged, data, heal, report):
    """Losses on speech that was not measured on; the map's weights."""
    held_out = list(data.heard(hub, judged, "Judging"))
    pruned = hub.without(removed)
    report["held_out_rows"] = len(judged)
    report["loss_before"] = held_out_loss(hub.decoder, held_out)
    report["loss_after"] = held_out_loss(pruned.decoder, held_out)
    if not heal:
        return {}
    fitting, choosing = split_rows(measured)
    weights, told = fold_map(
        hub,
        pruned,
        removed,
        data.heard(hub, fitting, "Fitting"),
        data.heard(hub, choosing, "Choosing"),
    )
    report["healing"] = {"map": told, "utterances": len(fitting)}
    report["loss_healed"] = held_out_loss(pruned.decoder, held_out)
    return weights


@torch.no_grad()
def fold_map(
    whole: HubModel,
    pruned: HubModel,
    removed: Removal,
    fitting: Iterable,
    choosing: Iterable,
    strengths: Iterable[float] = tuple(PARTS["map"]["ridge"]),
) -> tuple[Exchanged, dict]:
    """Fold a closed-form map into the layer before each gap, in place.

    Arguments
    ---------
    whole, pruned : HubModel
        The same model with and without the removed layers.
    removed : Removal
        These.
    fitting, choosing : iterable of Sequence
        What maps are fitted on, and what their ridge is chosen by.
    strengths : iterable of float
        Ridges to try, as shares of the states' mean variance.

    Returns
    -------
    exchanged : dict
        The new weights by layer of the whole model.
    told : dict
        What the maps are, by receiving layer.

    Raises
    ------
    ValueError
        If a gap has no layer before it.
    TypeError
        If that layer's MLP does not end in one matrix.
    """
    check_layer_before(removed.receiving)
    layers = decoder_layers(pruned.decoder)
    for index in removed.receiving:
        if not hasattr(layers[index - 1].mlp, "down_proj"):
            raise TypeError(
                f"healing: layer {removed.kept[index - 1]} has experts for "
                "an MLP, and no one matrix to fold a map into: remove layers "
                "that stand behind another one, or leave out --heal"
            )
    maps = fit_in_sequence(
        whole.decoder,
        pruned.decoder,
        removed.receiving,
        list(fitting),
        list(choosing),
        strengths,
        form="folded",
    )
    fold_maps(pruned.decoder, {i: one.map.weight_DD for i, one in maps.items()})
    exchanged: Exchanged = {}
    for index in maps:
        down_proj = layers[index - 1].mlp.down_proj
        named = {f"{DOWN}.weight": down_proj.weight.detach().cpu()}
        if down_proj.bias is not None:
            named[f"{DOWN}.bias"] = down_proj.bias.detach().cpu()
        exchanged[removed.kept[index - 1]] = named
    return exchanged, {str(i): one.told() for i, one in maps.items()}
