"""The memory that tasks share, and what each adds to it.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.healing import updates_of


def memory_of(tasks):
    """Bytes of the shared backbone, and of what each task adds.

    Arguments
    ---------
    tasks : speechbrain_ext.multitask.MultiTask
        With its tasks loaded.

    Returns
    -------
    dict
        backbone; encoders (name to bytes, each once); tasks (name to
        projector, adapter and, where it has one, bridge); together;
        separately (if every task were a system of its own).

    Example
    -------
    >>> from speechbrain_ext.multitask import MultiTask
    >>> memory_of(MultiTask.from_runs({"asr": "runs/a"}))  # doctest: +SKIP
    {'backbone': 3743744, ...}
    """
    adapters = dict.fromkeys(tasks.models, 0)
    bridges = dict.fromkeys(tasks.models, 0)
    backbone = 0
    for name, parameter in tasks.decoder.named_parameters():
        owner = [part for part in name.split(".") if part in adapters]
        if ".bridges.named." in name:
            bridges[owner[-1]] += _bytes(parameter)
        elif "lora_" in name and owner:
            adapters[owner[-1]] += _bytes(parameter)
        else:
            backbone += _bytes(parameter)
    for update in updates_of(tasks.decoder):
        backbone += _bytes(update.down) + _bytes(update.up)
    parts_of, encoders, separately = {}, {}, 0
    for name, model in tasks.models.items():
        parts = [model.projector, *filter(None, [model.markers])]
        parts_of[name] = {
            "projector": sum(map(_size, parts)),
            "adapter": adapters[name],
        }
        if bridges[name]:
            parts_of[name]["bridge"] = bridges[name]
        encoders[model.encoder.name] = _size(model.encoder)
        separately += backbone + _size(model.encoder)
        separately += sum(parts_of[name].values())
    small = sum(sum(parts.values()) for parts in parts_of.values())
    shared = sum(_size(encoder) for encoder in tasks.encoders())
    return {
        "backbone": backbone,
        "encoders": encoders,
        "tasks": parts_of,
        "together": backbone + shared + small,
        "separately": separately,
    }


def _bytes(tensor):
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def _size(module):
    """Bytes of a module's parameters."""
    return sum(_bytes(parameter) for parameter in module.parameters())


def told_memory(memory):
    """`memory_of` in lines to be read.

    Arguments
    ---------
    memory : dict
        From `memory_of`.

    Returns
    -------
    str

    Example
    -------
    >>> memory = {"backbone": 2**20, "encoders": {}, "tasks": {},
    ...     "together": 2**20, "separately": 2**20}
    >>> told_memory(memory).splitlines()[0].split()
    ['backbone,', 'once', '1.00', 'MiB']
    """

    def mib(size):
        return f"{size / 2**20:12.2f} MiB"

    lines = [f"{'backbone, once':<32}{mib(memory['backbone'])}"]
    for name, size in memory["encoders"].items():
        lines.append(f"{'encoder ' + name:<32}{mib(size)}")
    for name, parts in memory["tasks"].items():
        for part, size in parts.items():
            lines.append(f"{f'{name}: {part}':<32}{mib(size)}")
    lines.append(f"{'all tasks together':<32}{mib(memory['together'])}")
    lines.append(f"{'as systems of their own':<32}{mib(memory['separately'])}")
    return "\n".join(lines)
