"""Compare an export with what it was made from, before it is called done.

The export is loaded anew, as a whole and with transformers and PEFT alone
(and the bridges, where a task has some), and must do what the runs did.

Authors
 * The speechbrain_ext authors, 2026
"""

import os

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from speechbrain_ext.export.layout import (
    ADAPTER,
    BACKBONE,
    BASELINE_ADAPTER,
    BRIDGE,
    TASKS,
    ExportError,
)
from speechbrain_ext.export.probes import probe, probe_lm
from speechbrain_ext.healing import load_bridges
from speechbrain_ext.quiet import quiet_loading

# Largest difference of two logits, as a share of the largest logit. The same
# weights on the same machine differ by nothing; a folded adapter by what the
# type of the weights can hold.
SAME = 1e-5
MERGED = {
    torch.float32: 2e-4,
    torch.float16: 0.02,
    torch.bfloat16: 0.1,
}


def reload_probes(folder, device="cpu"):
    """Load an export anew and try each of its tasks.

    Arguments
    ---------
    folder : str
        The export.
    device : str
        Where to run it.

    Returns
    -------
    dict
        Task name to `Probe`.
    """
    from speechbrain_ext.inference import SpeechLLM

    loaded = SpeechLLM.from_pretrained(folder, device=device)
    found = {}
    for name, settings in loaded.settings.items():
        found[name] = probe(loaded.use(name), settings)
        stops, dtype = loaded.decoder.stop_ids, loaded.decoder.dtype
    settings = loaded.settings
    del loaded
    for name, one in found.items():
        lm = load_plain(folder, name, settings[name], dtype, device)
        one.lm_logits_QV, one.lm_tokens = probe_lm(lm, stops)
        del lm
    return found


def load_plain(folder, name, settings, dtype, device="cpu"):
    """Backbone and adapter with nothing but transformers and PEFT.

    Bridges are put in where the task has some: transformers knows none.

    Arguments
    ---------
    folder : str
        The export.
    name : str
        The task.
    settings : speechbrain_ext.export.layout.TaskSettings
        The task's.
    dtype : torch.dtype
        Type of the weights.
    device : str
        Where to.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ExportError
        If transformers misses a weight, or finds one too many.
    """
    backbone = os.path.join(folder, BACKBONE)
    with quiet_loading():
        lm, report = AutoModelForCausalLM.from_pretrained(
            backbone,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
        )
    wrong = [*report["missing_keys"], *report["unexpected_keys"]]
    wrong += report["mismatched_keys"]
    if wrong:
        raise ExportError(
            f"{backbone}: transformers finds weights missing, of another "
            f"shape or too many, first {wrong[0]}"
        )
    lm = lm.to(device).eval()
    if settings.bridge:
        load_bridges(lm, os.path.join(folder, TASKS, name, BRIDGE))
    wanted = {
        ADAPTER: settings.adapter,
        BASELINE_ADAPTER: settings.baseline_adapter,
    }
    adapters = [one for one, there in wanted.items() if there]
    for one in adapters:
        path = os.path.join(folder, TASKS, name, one)
        if isinstance(lm, PeftModel):
            lm.load_adapter(path, one)
        else:
            lm = PeftModel.from_pretrained(lm, path, one)
    if adapters:
        lm.base_model.set_adapter(adapters)
    return lm.eval()


def compare_probes(ours, theirs, merged):
    """Refuse an export that does not do what its runs do.

    Arguments
    ---------
    ours, theirs : dict
        Task name to `Probe`: of the runs, and of the export.
    merged : bool
        An adapter was folded into the backbone: rounding is allowed for.

    Returns
    -------
    dict
        Task name to the largest differences of logits found, as a share of
        the largest logit.

    Raises
    ------
    ExportError
        Saying which task differs, in what, and by how much.
    """
    return {
        name: _compare(name, ours[name], theirs[name], merged) for name in ours
    }


def _compare(name, one, other, merged):
    allowed = MERGED[one.dtype] if merged else SAME
    where = f"The export's task {name} differs from the run it was made of"
    found = {}
    rounded = MERGED[one.dtype] if one.two_adapters else SAME
    bounds = {"lm_logits_QV": max(allowed, rounded), "logits_NV": allowed}
    for what, allowed in bounds.items():
        a, b = getattr(one, what), getattr(other, what)
        # Answers of other lengths are told of below, in words.
        count = min(len(a), len(b))
        if what == "logits_NV":
            count = min(count, 1 + _agree(one.tokens, other.tokens))
        a, b = a[:count], b[:count]
        found[what] = float((a - b).abs().max() / a.abs().max())
        # Not "greater than": NaN must not pass.
        if not found[what] <= allowed:
            raise ExportError(
                f"{where}: in its logits ({what}), by {found[what]:.2g} of "
                f"the largest; {allowed:.2g} is rounding. Nothing was kept."
            )
    for what in ("tokens", "lm_tokens"):
        a, b = getattr(one, what), getattr(other, what)
        if a == b:
            continue
        place = _agree(a, b)
        # transformers' generation gives no logits to judge a tie by.
        if what == "lm_tokens":
            near = merged or one.two_adapters
        else:
            near = merged and _is_tie(one.logits_NV, place, allowed)
        if not near:
            raise ExportError(
                f"{where}: in what it generates ({what}), from token {place} "
                f"on: {a[place : place + 5]} became {b[place : place + 5]}. "
                "Nothing was kept."
            )
        found[f"{what}_from"] = place
    return found


def _agree(a, b):
    """How many tokens two answers share at their beginning (int)."""
    pairs = enumerate(zip(a, b))
    differing = (place for place, (x, y) in pairs if x != y)
    return next(differing, min(len(a), len(b)))


def _is_tie(logits_NV, place, allowed):
    """Whether the two best tokens there are a rounding apart."""
    best = logits_NV[place].topk(2).values
    return float(best[0] - best[1]) <= 2 * allowed * float(
        logits_NV.abs().max()
    )
