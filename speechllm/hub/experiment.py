"""A run of the hub recipe: `Experiment`, with a model that is there already."""

from __future__ import annotations

import os

from speechbrain_ext.healing.apply import TrainableSet
from speechbrain_ext.layers.surgery import source_place
from speechbrain_ext.training.experiment import Experiment
from speechbrain_ext.training.faults import Fault
from speechbrain_ext.training.fingerprint import fingerprint
from speechbrain_ext.training.options import get, is_whole
from speechbrain_ext.training.processes import run_on_main
from speechbrain_ext.training.run_record import begin_folder
from speechbrain_ext.training.settings import speechllm_rules
from speechllm.hub.model import HubModel, load_prompt


def hub_rules(plain: dict) -> list[Fault]:
    """The rules of the hub recipe's ``train.yaml``."""
    others = {k: v for k, v in plain.items() if k not in ("backbone", "prompt")}
    faults = speechllm_rules(others)
    source, cut = get(plain, "backbone.source"), get(plain, "prune_layers")
    if not isinstance(source, str):
        return faults
    revision = get(plain, "backbone.revision")
    try:
        place, config = source_place(
            source, revision if isinstance(revision, str) else None
        )
    except (OSError, ValueError, TypeError) as error:
        why = str(error).strip().split("\n")[0]
        return [
            *faults,
            Fault("backbone.source", source, f"is not taken: {why}"),
        ]
    if not place.model_type:
        mend = "is a causal LM and hears nothing: give a speech LLM"
        faults.append(Fault("backbone.source", source, mend))
    layers = place.decoder_config(config).num_hidden_layers
    if is_whole(cut) and cut >= layers:
        mend = f"but its decoder has {layers} layers: choose 0 to {layers - 1}"
        faults.append(Fault("prune_layers", cut, mend))
    return faults


def open_hub_experiment(
    hparams, run_opts, settings, brain_class, prepare, dataio_prepare
):
    """A run's folder, manifests and data sets; as `open_experiment`'s."""
    folder = hparams["output_folder"]
    begin_folder(folder, settings, dataio_prepare)
    os.makedirs(hparams["tables_folder"], exist_ok=True)
    run_on_main(prepare, [hparams])
    backbone = hparams["backbone"]
    prompt = load_prompt(
        backbone["source"], backbone.get("revision"), hparams["prompt"]
    )
    # Settings of other recipes that a model of the hub leaves no choice about.
    hparams = {
        **hparams,
        **{"baseline": None, "adapt_attention": False, "cache_features": None},
        "speech_encoder": {"name": f"{backbone['name']}'s own"},
    }

    def load_decoder(device="cpu"):
        """The decoder alone, to be measured on text."""
        return _load(hparams, None, device).decoder

    hparams["load_decoder"] = load_decoder
    # Not a setting that makes another run.
    tables = hparams.pop("tables_folder")
    datasets = dataio_prepare(hparams, prompt)
    run = HubExperiment(brain_class, hparams, run_opts, datasets, prompt)
    # Tables are of the model, whichever run wants one.
    run.baseline = tables
    return run


def _load(hparams, removed, device):
    """The settings' model, without some layers."""
    backbone = hparams["backbone"]
    return HubModel.from_source(
        backbone["source"],
        removed,
        backbone["dtype"],
        device,
        backbone.get("revision"),
        hparams["prompt"],
    )


class HubExperiment(Experiment):
    """A run whose model is the hub's, pruned and healed."""

    def identify(self) -> dict:
        """What the trained parts belong to."""
        backbone, prompt = self.hparams["backbone"], self.prompt
        source, revision = backbone["source"], backbone.get("revision")
        return {
            "hub": True,
            "backbone": backbone["name"],
            "backbone_source": str(source),
            "backbone_revision": revision,
            "backbone_dtype": backbone["dtype"],
            "backbone_weights": fingerprint(source, revision),
            "prompt": prompt.words,
            "task": self.hparams["task"],
        }

    def open_encoder(self):
        """The model has its own."""

    def build_model(self, removed=None, baseline=None):
        """The settings' model; what is trained of it is in float32."""
        hub = _load(self.hparams, removed, self.device)
        if self.hparams["precision"] != "fp32":
            hub.projector.float()
        return hub.to(self.device)

    def twin(self, whole, removed):
        """The same model without some layers, over the same weights."""
        return whole.without(removed)

    def build(self, removed, result):
        """The Brain; the whole model is only trained where steps are given."""
        brain = super().build(removed, result)
        if not removed and not self.hparams["steps"]:
            brain.trainable = TrainableSet()
            brain.model.requires_grad_(False)
            result.trainable = {}
        return brain
