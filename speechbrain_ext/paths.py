"""Which layers a run removes: measured paths, found, made or read.

Authors
 * The speechbrain_ext authors, 2026
"""

import os

import torch

from speechbrain_ext.batches import targets_of
from speechbrain_ext.distance_table import RedundancyTable
from speechbrain_ext.plans import is_plans, plan_of_size
from speechbrain_ext.prompt import assemble
from speechbrain_ext.redundancy import measure

INPUTS = ("speech", "text")


def table_file(run_folder, kind, position="target"):
    """Where a baseline's table of a kind of input stands.

    Arguments
    ---------
    run_folder : str
        The baseline's output folder.
    kind : str
        "speech" or "text".
    position : str
        "target" or "prompt".

    Returns
    -------
    str

    Example
    -------
    >>> table_file("results/base", "text", "prompt")
    'results/base/redundancy-text-prompt.json'
    """
    mark = "" if position == "target" else f"-{position}"
    return os.path.join(run_folder, f"redundancy-{kind}{mark}.json")


def speech_batches(brain, dataset):
    """Assembled speech, prompt and target of a set, for `measure`.

    Arguments
    ---------
    brain : speechbrain_ext.evaluation.EvaluationBrain
        With the baseline's model.
    dataset : DynamicItemDataset
        For instance dev-clean and dev-other.

    Yields
    ------
    dict
        Inputs of the decoder, prompt_lengths and labels.

    Example
    -------
    >>> for batch in speech_batches(brain, dataset):  # doctest: +SKIP
    ...     print(batch["inputs_embeds"].shape)
    torch.Size([2, 40, 32])
    """
    for batch in brain.shard(dataset):
        batch = batch.to(brain.device)
        with brain.evaluation_ctx:
            x_BSF, tokens_B = brain.speech_of(batch)
            sequence = brain.model.sequence(x_BSF, tokens_B, targets_of(batch))
        yield _as_batch(sequence)


def text_batches(decoder, prompt, texts, batch_size, prompted=False):
    """Rows of text alone, for `measure`: no speech model is needed.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        The whole backbone.
    prompt : speechbrain_ext.prompt.Prompt
        Tells how a text begins; with `prompted`, what stands around it.
    texts : list of str
        For instance the transcripts of dev-clean and dev-other.
    batch_size : int
        Rows per batch.
    prompted : bool
        False: the text by itself. True: the text stands where speech would,
        followed by prompt and target.

    Yields
    ------
    dict
        Inputs of the decoder, prompt_lengths and labels.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> [batch] = text_batches(model.decoder, model.prompt, ["hi", "you"], 2)
    >>> batch["attention_mask"].sum(dim=1)
    tensor([4, 3])
    """
    texts = sorted(texts, key=len, reverse=True)
    for first in range(0, len(texts), batch_size):
        part = texts[first : first + batch_size]
        targets = [prompt.encode_target(text) for text in part]
        if prompted:
            spoken = [
                decoder.embed(target[:-1].to(decoder.device))
                for target in targets
            ]
            sequence = assemble(prompt, spoken, decoder.embed, targets)
        else:
            nothing = torch.zeros(0, decoder.width, device=decoder.device)
            nothing = nothing.to(decoder.dtype)
            sequence = assemble(
                prompt.plain(), [nothing] * len(part), decoder.embed, targets
            )
        yield _as_batch(sequence)


def _as_batch(sequence):
    """Rows as `measure` and the rules of removal plans take them (dict)."""
    return {
        **sequence.as_inputs(),
        "prompt_lengths": sequence.prompt_lengths_B,
        "labels": sequence.labels_BQ,
    }


def measure_speech(brain, dataset, provenance, position="target"):
    """Table of a baseline on speech.

    Arguments
    ---------
    brain : speechbrain_ext.evaluation.EvaluationBrain
        With the baseline's model.
    dataset : DynamicItemDataset
        What to measure on.
    provenance : dict
        Stored in the table.
    position : str
        "target" or "prompt".

    Returns
    -------
    RedundancyTable

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> from speechbrain_ext.evaluation import EvaluationBrain
    >>> hparams = {"test_batch_size": 2, "num_workers": 0,
    ...     "max_new_tokens": 4, "max_tokens_per_second": 12}
    >>> import torch
    >>> row = {"duration": 1.0, "sig": torch.rand(16000),
    ...     "target_ids": torch.tensor([5, 0])}
    >>> dataset = DynamicItemDataset({"a": row},
    ...     output_keys=["id", "sig", "target_ids", "duration"])
    >>> brain = EvaluationBrain(model, hparams, {"noprogressbar": True})
    >>> measure_speech(brain, dataset, {}).count
    1
    """
    return measure(
        brain.model.decoder,
        speech_batches(brain, dataset),
        position,
        {**provenance, "input": "speech"},
        across_ranks=True,
    )


def measure_text(decoder, prompt, texts, provenance, batch_size=16, **options):
    """Table of a backbone on text alone.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        The whole backbone.
    prompt : speechbrain_ext.prompt.Prompt
        As in `text_batches`.
    texts : list of str
        What to measure on.
    provenance : dict
        Stored in the table.
    batch_size : int
        Rows per batch.
    **options : dict
        `position` as in `measure`; `prompted` as in `text_batches`.

    Returns
    -------
    RedundancyTable

    Raises
    ------
    ValueError
        If the prompt's last token is asked for and there is no prompt.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> table = measure_text(model.decoder, model.prompt, ["hi", "you"], {})
    >>> table.distances.shape
    (4, 4)
    """
    position = options.get("position", "target")
    prompted = options.get("prompted", False)
    if position == "prompt" and not prompted:
        raise ValueError(
            "position: prompt needs a prompt: with text as input, set "
            "text_input: prompted."
        )
    return measure(
        decoder,
        text_batches(decoder, prompt, texts, batch_size, prompted),
        position,
        {**provenance, "input": "text", "prompted": prompted},
    )


def read_path(file, size, num_layers, name):
    """The layers of a size on the path of a saved table, or of a plan.

    Arguments
    ---------
    file : str
        A table's or a plan's JSON.
    size : int
        Layers to remove.
    num_layers : int
        Layers of the backbone to be pruned.
    name : str
        Its name.

    Returns
    -------
    removed : speechbrain_ext.pruning.Block or speechbrain_ext.plans.Plan
        A table gives a block, a plan itself; `size`, `removed` and `start`
        are told by both.
    about : dict
        Where the path came from, for the run's result: rule, layers, what
        they were chosen on.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> file = str(getfixture("tmpdir").join("table.json"))
    >>> about = {"model": "tiny"}
    >>> measure_text(model.decoder, model.prompt, ["hi"], about).save(file)
    >>> read_path(file, 2, 4, "tiny")[0].size
    2
    """
    if is_plans(file):
        plan = plan_of_size(file, size, num_layers, name)
        return plan, {"file": os.path.basename(file), **_of_plan(plan)}
    table = RedundancyTable.load(file)
    table.check_model(num_layers, name, file)
    block = table.best(size)
    distance = float(table.distances[size - 1, block.start])
    return block, {
        "file": os.path.basename(file),
        "rule": "angular",
        "layers": list(block.removed),
        "distance": distance,
        "count": table.count,
        **table.provenance,
    }


def _of_plan(plan):
    """What a run's result tells of its plan (dict)."""
    return {
        **plan.about,
        **plan.data,
        "model": plan.model,
        "rule": plan.rule,
        "layers": list(plan.layers),
        "value": plan.value,
    }


def whose_path(wanted, about):
    """Whose path a run removed layers by, in a word or two.

    Arguments
    ---------
    wanted : str
        What the settings ask for: "speech", "text", or the file of a table
        or a plan.
    about : dict
        As `read_path` gives it.

    Returns
    -------
    str
        "speech" or "text" for the system's own; for a table's file its task
        and input, such as "ASR speech"; for a plan's its rule too, such as
        "ASR speech greedy-layers"; or the file's name where it does not tell
        them.

    Example
    -------
    >>> about = {"task": "ASR", "input": "speech"}
    >>> whose_path("a/b.json", about)
    'ASR speech'
    >>> whose_path("a/b.json", {**about, "rule": "even"})
    'ASR speech even'
    """
    if wanted in INPUTS:
        return wanted
    told = [str(about[key]) for key in ("task", "input") if about.get(key)]
    if "distance" not in about and about.get("rule"):
        return " ".join([*told, about["rule"]])
    return " ".join(told) if len(told) == 2 else os.path.basename(wanted)
