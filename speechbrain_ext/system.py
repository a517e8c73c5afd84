"""From settings to a speech LLM, and a trained one to and from its folder.

A finished run leaves ``trained/``: the projector (safetensors), the adapter
(PEFT's own format), bridges and folded maps (safetensors) and
``system.json``, which says what they belong to.
Backbone and encoder are named there, never copied.

Authors
 * The speechbrain_ext authors, 2026
"""

import os

from safetensors.torch import load_file, save_file
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.baseline import (
    SYSTEM_FILE,
    TRAINED,
    read_system,
    refuse_another,
    refuse_pruned,
    refuse_unfinished,
)
from speechbrain_ext.encoder_source import (
    load_config,
    load_extractor,
    normalises,
)
from speechbrain_ext.fingerprint import fingerprint
from speechbrain_ext.healing import (
    ADAPTER,
    ATTENTION,
    bridges_of,
    heal,
    parts_of,
    put_frozen_adapter,
    save_adapter,
    save_bridges,
    save_folds,
    train_parts,
    updates_of,
)
from speechbrain_ext.model import Projector, SpeechLLM, SpeechMarkers
from speechbrain_ext.results import load_run, write_json
from speechbrain_ext.results.run import RESULT_FILE

PROJECTOR_FILE = "projector.safetensors"
BRIDGE_FILE = "bridge.safetensors"
FOLDED_FILE = "folded.safetensors"
# A baseline's adapter is beside the weights; older runs have it in them.
FROZEN = "frozen"


def describe(hparams):
    """What a trained system belongs to, as the settings name it.

    Arguments
    ---------
    hparams : dict
        A recipe's settings, or a result's configuration: an older one lacks
        some keys.

    Returns
    -------
    dict

    Example
    -------
    >>> parts = {"name": "tiny", "source": "here"}
    >>> about = describe({"backbone": parts, "speech_encoder": parts,
    ...     "prompt": "{speech}{target}", "chat_template": False,
    ...     "downsampling": 3})
    >>> about["backbone"], about["output_norm"]
    ('tiny', False)
    """
    about = {}
    for part, key in (("backbone", "backbone"), ("encoder", "speech_encoder")):
        settings = hparams[key]
        about[part] = settings["name"]
        about[f"{part}_source"] = str(settings["source"])
        for one in ("revision", "dtype"):
            about[f"{part}_{one}"] = settings.get(one)
    encoder = hparams["speech_encoder"]
    about["output_norm"] = encoder.get("output_norm", False)
    about["max_seconds"] = encoder.get("max_seconds")
    about["long_audio"] = hparams.get("long_audio", "error")
    for key in ("prompt", "chat_template", "downsampling"):
        about[key] = hparams[key]
    optional = "task projector_hidden speech_markers lowercase_targets"
    about |= {k: hparams[k] for k in optional.split() if k in hparams}
    return about


def identify(hparams):
    """What a trained system belongs to, whatever it is called and wherever.

    Arguments
    ---------
    hparams : dict
        As in `describe`.

    Returns
    -------
    dict
        `describe`, fingerprints of the frozen models' weights, and whether
        the encoder's waveforms are normalised (which its files may say).
    """
    backbone, encoder = hparams["backbone"], hparams["speech_encoder"]
    weights = {
        f"{part}_weights": fingerprint(one["source"], one.get("revision"))
        for part, one in (("backbone", backbone), ("encoder", encoder))
    }
    told = encoder.get("normalise_input")
    config = load_config(encoder["source"], encoder.get("revision"), None)
    if told is None and config.model_type != "whisper":
        extractor = load_extractor(
            encoder["source"], config, encoder.get("revision")
        )
        told = normalises(encoder["source"], config, extractor)
    return {**describe(hparams), **weights, "normalise_input": bool(told)}


def check_baseline(hparams):
    """Refuse a baseline that is not whole, finished and of this system.

    Arguments
    ---------
    hparams : dict
        As in `describe`, and baseline.

    Raises
    ------
    FileNotFoundError, ValueError
        Before anything is loaded, naming all that differs.
    """
    folder = hparams["baseline"]
    if not folder:
        return
    refuse_unfinished(folder)
    unknown = refuse_another(told_of(folder), identify(hparams), folder)
    if unknown and if_main_process():
        print(
            f"Note: the baseline in {folder} was trained before "
            f"{', '.join(unknown)} were kept: not compared."
        )


def told_of(run_folder):
    """What a run says it is; of an older one, what its settings say (dict)."""
    system = read_system(run_folder)
    if os.path.isfile(os.path.join(run_folder, RESULT_FILE)):
        settings = load_run(run_folder).configuration
        if "backbone" in settings:
            system = {**describe(settings), **system}
    return system


def build_model(hparams, prompt, removed=None, device="cpu", encoder=None):
    """A speech LLM as the settings say, its baseline's parts put in.

    Arguments
    ---------
    hparams : dict
        Keys used: load_encoder, load_decoder, downsampling,
        projector_hidden, speech_markers, baseline.
    prompt : speechbrain_ext.prompt.Prompt
        What stands around the speech.
    removed : Block, iterable of int or None
        Layers to leave out.
    device : str
        Where the weights go.
    encoder : speechbrain_ext.encoder.SpeechEncoder or None
        One that is loaded already; None: load it.

    Returns
    -------
    SpeechLLM

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> from speechbrain_ext.decoder import Decoder
    >>> from speechbrain_ext.tiny_models import tiny_decoder
    >>> def load_decoder(removed, device):
    ...     return Decoder.from_source(tiny_decoder(), removed, device=device)
    >>> hparams = {"load_decoder": load_decoder, "downsampling": 3,
    ...     "projector_hidden": None, "speech_markers": False, "baseline": None}
    >>> build_model(
    ...     hparams, model.prompt, [1], encoder=model.encoder
    ... ).decoder.num_layers
    3
    """
    if encoder is None:
        encoder = hparams["load_encoder"](device=device)
    decoder = hparams["load_decoder"](removed=removed, device=device)
    width = encoder.width * hparams["downsampling"]
    projector = Projector(width, decoder.width, hparams["projector_hidden"])
    markers = (
        SpeechMarkers(decoder.width) if hparams["speech_markers"] else None
    )
    model = SpeechLLM(
        encoder,
        projector,
        decoder,
        prompt,
        hparams["downsampling"],
        markers,
    )
    if hparams["baseline"]:
        load_baseline(model, hparams["baseline"], describe(hparams))
    return model.to(device)


def choose_trained(model, hparams, removed, maps=None):
    """Open what this run trains: a baseline's parts, or a healing strategy's.

    Arguments
    ---------
    model : SpeechLLM
        Baseline or pruned.
    hparams : dict
        Keys used: adapt_attention, healing, healing_parts, lora.
    removed : Block, iterable of int or None
        What was removed; nothing: a baseline.
    maps : dict or None
        Receiving layer to its map in closed form, where healing wants it.

    Returns
    -------
    speechbrain_ext.healing.TrainableSet

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> hparams = {"adapt_attention": False, "lora": None}
    >>> sorted(choose_trained(model, hparams, None).counts())
    Trained: ...
    ['projector']
    """
    if removed:
        parts = parts_of(hparams)
        return heal(model, removed, parts, hparams["lora"], maps=maps)
    adapter = None
    if hparams["adapt_attention"]:
        adapter = (ATTENTION, range(model.decoder.num_layers))
    return train_parts(
        model, projector=True, adapter=adapter, lora=hparams["lora"]
    )


def save_trained(model, run_folder, about):
    """Write the trained parts and what they belong to.

    Arguments
    ---------
    model : SpeechLLM
        After training.
    run_folder : str
        The run's output folder.
    about : dict
        This system, as `describe` tells it.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> folder = str(getfixture("tmpdir"))
    >>> save_trained(model, folder, {"prompt": "{speech}{target}"})
    >>> read_system(folder)["kept_layers"]
    [0, 1, 2, 3]
    """
    folder = os.path.join(run_folder, TRAINED)
    os.makedirs(folder, exist_ok=True)
    save_file(_projector_state(model), os.path.join(folder, PROJECTOR_FILE))
    if model.decoder.adapter is not None:
        save_adapter(model.decoder, folder)
    decoder = model.decoder
    bridge = BRIDGE_FILE if bridges_of(decoder) else None
    if bridge:
        save_bridges(decoder, os.path.join(folder, bridge))
    folded = FOLDED_FILE if decoder.folded else None
    if folded:
        save_folds(decoder, os.path.join(folder, folded))
    write_json(
        os.path.join(folder, SYSTEM_FILE),
        {
            **about,
            "layers": decoder.whole_layers,
            "kept_layers": list(decoder.kept),
            "adapter": ADAPTER if decoder.adapter is not None else None,
            "baseline_adapter": FROZEN if updates_of(decoder) else None,
            "bridge": bridge,
            "folded": folded,
        },
    )


def load_baseline(model, run_folder, about):
    """Put a baseline's projector and adapter into a whole or pruned model.

    An adapter is frozen and stays beside the weights of the layers that are
    left: folded in, 16-bit weights would round it.

    Arguments
    ---------
    model : SpeechLLM
        Gets the parts, in place.
    run_folder : str
        The baseline's output folder.
    about : dict
        This system, as `describe` tells it.

    Raises
    ------
    ValueError
        If the baseline was trained for another backbone or projector.
    """
    system = told_of(run_folder)
    decoder = model.decoder
    if system["layers"] != decoder.whole_layers:
        raise ValueError(
            f"baseline: {run_folder} was trained on {system['backbone']} with "
            f"{system['layers']} layers; this backbone has "
            f"{decoder.whole_layers}. Give a baseline of the same backbone."
        )
    refuse_pruned(system, run_folder)
    refuse_another(system, about, run_folder)
    load_projector(model, run_folder)
    if system["adapter"]:
        put_frozen_adapter(
            decoder,
            os.path.join(run_folder, TRAINED, system["adapter"]),
            decoder.kept,
        )


def load_projector(model, run_folder):
    """Put a run's projector (and speech markers) into a model.

    Arguments
    ---------
    model : SpeechLLM
        Gets them, in place.
    run_folder : str
        The run's output folder.

    Raises
    ------
    ValueError
        If a shape differs.
    """
    put_projector(model, os.path.join(run_folder, TRAINED, PROJECTOR_FILE))


def put_projector(model, path):
    """Put a projector's file (and speech markers in it) into a model.

    Arguments
    ---------
    model : SpeechLLM
        Gets them, in place.
    path : str
        The file.

    Raises
    ------
    ValueError
        If a shape differs.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> folder = str(getfixture("tmpdir"))
    >>> save_trained(model, folder, {})
    >>> put_projector(model, os.path.join(folder, TRAINED, PROJECTOR_FILE))
    """
    state, ours = load_file(path), _projector_state(model)
    for name in sorted(set(state) | set(ours)):
        theirs = tuple(state[name].shape) if name in state else None
        wanted = tuple(ours[name].shape) if name in ours else None
        if theirs != wanted:
            raise ValueError(
                f"{path}: {name} has shape {theirs}, this model wants "
                f"{wanted}. That run has another encoder, downsampling, "
                "projector_hidden or speech_markers."
            )
    for name, value in state.items():
        ours[name].copy_(value)


def _projector_state(model):
    """Tensors of projector and markers by name, sharing their memory."""
    state = {
        f"projector.{k}": v for k, v in model.projector.state_dict().items()
    }
    if model.markers is not None:
        markers = model.markers.state_dict()
        state.update({f"markers.{k}": v for k, v in markers.items()})
    return state
