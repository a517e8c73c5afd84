"""A healed run of the hub recipe as a folder for the model's own class."""

from __future__ import annotations

import os

from safetensors.torch import save_file

from speechbrain_ext.healing.lora import ADAPTER, kept_adapter, load_adapter
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.runs.folders import whole_folder
from speechbrain_ext.training.baseline import read_system
from speechbrain_ext.training.build import (
    FOLDED_FILE,
    PROJECTOR_FILE,
    TRAINED,
    put_projector,
)
from speechbrain_ext.training.fingerprint import fingerprint
from speechllm.hub.decoder import known_place
from speechllm.hub.model import HubModel
from speechllm.saved import check_target
from speechllm.streamed.copy import describe_speech_llm
from speechllm.text_prune import PRUNING


def load_run(run: str) -> tuple[HubModel, dict]:
    """A run's pruned model, its trained projector and folded maps in it.

    The adapter is not yet there. Gives what ``system.json`` says, too.
    """
    system = read_system(run, "run")
    if not system.get("hub"):
        raise ValueError(f"{run}: is no run of recipes/HubModel")
    if system["bridge"]:
        raise ValueError(
            f"{run}: was healed with a bridge, which the model's own class has "
            "no place for: heal with adapters, or with a map that is folded"
        )
    source, revision = system["backbone_source"], system["backbone_revision"]
    if fingerprint(source, revision) != system["backbone_weights"]:
        raise ValueError(
            f"{source}: these are not the weights that {run} was healed on: "
            "give the same checkpoint"
        )
    kept = set(system["kept_layers"])
    removed = Removal.of(set(range(system["layers"])) - kept, system["layers"])
    hub = HubModel.from_source(
        source,
        removed,
        system["backbone_dtype"],
        revision=revision,
        words=system["prompt"],
    )
    folder = os.path.join(run, TRAINED)
    put_projector(hub, os.path.join(folder, PROJECTOR_FILE))
    if system["folded"]:
        from speechbrain_ext.healing.closed_form import load_folds

        load_folds(hub.decoder, os.path.join(folder, FOLDED_FILE))
    return hub, system


def export_hub(run: str, folder: str, adapter: bool = False) -> None:
    """Write a finished run's healed speech LLM with its processor.

    LoRA is merged into the weights, or with `adapter` left beside them, in
    ``folder/adapter`` as PEFT has it.
    """
    check_target(folder, PRUNING, False)
    hub, system = load_run(run)
    trained = system["adapter"] and os.path.join(run, TRAINED, ADAPTER)
    if trained and not adapter:
        load_adapter(hub.decoder, trained, merge=True)
    with whole_folder(folder) as unfinished:
        hub.whole.save_pretrained(unfinished)
        describe_speech_llm(hub.whole, hub.prompt.processor, unfinished)
        pruning = {
            "model": system["backbone"],
            "layers": system["layers"],
            "kept_layers": system["kept_layers"],
            "run": os.path.basename(os.path.normpath(run)),
        }
        write_json(os.path.join(unfinished, PRUNING), pruning)
        if trained and adapter:
            _write_adapter(hub, trained, os.path.join(unfinished, "adapter"))


def _write_adapter(hub, trained, folder):
    """Write LoRA under the names of the model's own class."""
    place = known_place(hub.whole)
    config, state = kept_adapter(hub.decoder, trained)
    inside = f"base_model.model.{place.decoder}."
    state = {
        name.replace("base_model.model.model.", inside, 1): value.contiguous()
        for name, value in state.items()
    }
    os.makedirs(folder)
    save_file(state, os.path.join(folder, "adapter_model.safetensors"))
    # Whole names: an encoder may have layers with modules called alike.
    wrapped = {name.split(".lora_")[0] for name in state}
    whole = sorted(name.removeprefix("base_model.model.") for name in wrapped)
    own = ("layers_to_transform", "layers_pattern", "base_model_name_or_path")
    content = {
        **config.to_dict(),
        **dict.fromkeys((*own, "task_type")),
        "target_modules": whole,
    }
    path = os.path.join(folder, "adapter_config.json")
    write_json(path, dict(sorted(content.items())))
