"""A smaller speech LLM: which layers go, what a map takes back, the copy."""

from __future__ import annotations

import os
from collections.abc import Iterable
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
from speechbrain_ext.layers.rules import DEFAULT, find_rule
from speechbrain_ext.layers.search import RuleData
from speechbrain_ext.layers.surgery import source_place
from speechbrain_ext.model.decoder import DTYPES
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.runs.folders import whole_folder
from speechllm.hub.model import HubModel, load_prompt
from speechllm.hub.speech import Data, as_batch, has_text, measure_speech
from speechllm.saved import check_target
from speechllm.streamed.copy import Exchanged, write_pruned
from speechllm.text_lm import about, rows_data, split_rows, stored_dtype
from speechllm.text_prune import PRUNING, Choice, known

DOWN = "mlp.down_proj"


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
    removed = known(choice, layers, report)
    _check_data(choice, removed, data, heal)
    utterances = data.utterances()
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
        hub = HubModel.from_source(source, None, dtype, device, words=words)
    if removed is None:
        removed, table = _chosen(hub, choice, measured, data, report)
    report["removed"], report["kept_layers"] = list(removed), list(removed.kept)
    exchanged: Exchanged = {}
    if judged:
        exchanged = _judge(hub, removed, measured, judged, data, heal, report)
    same = dtype == stored_dtype(source, config=config)
    wanted = DTYPES[dtype] if dtype and not same else None
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


def _looked_at(hub, measured, by_table, data):
    """What a rule looks at: speech where it is given, else text."""
    if not measured:
        rows, progress = data.rows(hub), data.progress
        return rows_data(hub.decoder, rows, data.batch_size, progress=progress)
    batches, table = [], None
    if by_table:
        table = measure_speech(hub, measured, data)
    else:
        batches = list(map(as_batch, data.heard(hub, measured, "Hearing")))
    looked_at = RuleData(batches, about(hub.decoder, "speech"), table)
    looked_at.progress = data.progress
    return looked_at


def _chosen(hub, choice, measured, data, report):
    """The layers that a rule chooses, and the table if it made one."""
    rule = choice.rule or DEFAULT
    looked_at = _looked_at(hub, measured, rule == DEFAULT, data)
    plan = find_rule(rule)(hub.decoder, looked_at, choice.size)
    report["rule"] = rule
    report["distance" if rule == DEFAULT else "value"] = plan.value
    report["measured_rows"] = len(measured) or looked_at.sequences
    return Removal.of(plan, hub.decoder.num_layers), looked_at.table


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
) -> tuple[Exchanged, dict]:
    """Fold a closed-form map into the layer before each gap, in place.

    Gives the new weights by layer of the whole model, and what the maps are,
    by receiving layer.
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
        PARTS["map"]["ridge"],
        form="folded",
    )
    fold_maps(pruned.decoder, {i: one.map.weight_DD for i, one in maps.items()})
    exchanged: Exchanged = {}
    for index in maps:
        weights = layers[index - 1].mlp.down_proj.named_parameters()
        exchanged[removed.kept[index - 1]] = {
            f"{DOWN}.{name}": value.detach().cpu() for name, value in weights
        }
    return exchanged, {str(i): one.told() for i, one in maps.items()}
