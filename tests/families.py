"""Walk over transformers' causal LM families, each as a tiny random model.

``python tests/families.py`` writes docs/families.md; a test compares. What a
family must do to be right: pruned, it is its own kept layers and nothing else,
from memory, from the whole model's file and from its own; it gives the logits
of its own forward in training, perplexity and rules; and it says from its
cache, in a padded batch, what it says when all is computed anew. "By hand" is
the whole model with the removed layers' forwards replaced by nothing.
"""

import contextlib
import math
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from speechbrain_ext.layers.families import check_calls
from speechbrain_ext.layers.lm_calls import base_model
from speechbrain_ext.layers.search import RuleData, candidate_losses
from speechbrain_ext.layers.surgery import drop_layers, load_pruned
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.prompt import IGNORE, Sequence
from speechllm.text_lm import perplexity

LAYERS, VOCABULARY = 6, 64
# Most weights of a model that counts as tiny.
LARGEST = 3_000_000
REMOVED = ({1, 2}, {0})
# Set where a family's configuration has such a field.
TINY = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    pad_token_id=None,
    bos_token_id=1,
    eos_token_id=2,
    initializer_range=0.2,
    # Experts.
    moe_intermediate_size=16,
    shared_expert_intermediate_size=16,
    num_experts=4,
    num_local_experts=4,
    n_routed_experts=4,
    moe_num_experts=4,
    num_experts_per_tok=2,
    moe_k=2,
    moe_topk=2,
    n_group=1,
    topk_group=1,
    n_shared_experts=1,
    num_shared_experts=1,
    # Low-rank attention.
    q_lora_rank=8,
    kv_lora_rank=8,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=8,
    # Mamba and linear attention.
    mamba_d_ssm=32,
    mamba_n_heads=4,
    mamba_d_head=16,
    mamba_d_state=8,
    mamba_chunk_size=8,
    state_size=8,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    # Whatever scales and caps: not left at nothing.
    logits_scaling=3.0,
    logit_scale=0.3,
    embedding_multiplier=2.0,
    lm_head_multiplier=0.5,
    residual_multiplier=0.5,
    final_logit_softcapping=2.0,
    attn_logit_softcapping=5.0,
    query_pre_attn_scalar=8,
    # Whatever depends on a layer's index.
    first_k_dense_replace=2,
    num_dense_layers=2,
    moe_layer_start_index=2,
    mlp_only_layers=[1, 4],
    use_sliding_window=True,
    sliding_window=4,
    max_window_layers=3,
)
PAGE = Path(__file__).parent.parent / "docs" / "families.md"
HEAD = """# Which causal language models can be pruned

Every causal LM family of transformers {version} is built as a tiny model with
random weights; layers are removed from it, and the result is compared with
the kept layers run by hand: from memory, loaded from the whole model's file,
saved and loaded again, in training, perplexity, rules and cached decoding.
`python tests/families.py` writes this page, and a test compares it. Names are
the `model_type` of a model's `config.json`.

A tiny model shows that the code is right, not that a large model is good at
anything afterwards. What a real checkpoint does is checked when it is loaded:
a few tokens are read whole and in parts, and must come out alike.
"""
ELSEWHERE = "keeps its layers elsewhere than in `model.layers`"
VERDICTS = {
    "right": "Pruned, they are their kept layers and nothing else.",
    "wrong": "They are pruned, and are something else then: do not use them.",
    "refused": "An error says so before anything long: when the model is "
    "loaded, or when layers are removed.",
    "not tried": "They cannot be built tiny without more knowledge of them. "
    "The checks at loading still apply.",
}
# Keys and values of low rank are as many as the queries.
LOW_RANK = dict(num_key_value_heads=4)
MIXED = ["full_attention", "sliding_attention"] * 3
# Where the general sizes do not do.
OWN = {
    "bamba": dict(
        attn_layer_indices=[2, 5],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_n_groups=1,
    ),
    "deepseek_v4": dict(n_hash_layers=2),
    "falcon_h1": dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8),
    "gemma3n_text": dict(
        pad_token_id=0,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        laurel_rank=4,
        altup_num_inputs=2,
        layer_types=MIXED,
    ),
    "gemma4_text": dict(
        pad_token_id=0,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        layer_types=MIXED[::-1],
    ),
    "granitemoehybrid": dict(layer_types=["mamba", "attention"] * 3),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"] * 3),
    "kimi_linear": dict(linear_num_heads=4, linear_head_dim=8),
    "modernbert-decoder": dict(pad_token_id=0, layer_types=MIXED),
    "olmo_hybrid": dict(layer_types=["full_attention", "linear_attention"] * 3),
    "qwen3_next": dict(layer_types=["full_attention", "linear_attention"] * 3),
    "dots3_note_text": dict(num_key_value_heads=4),
}


def tiny_config(kind, **changes):
    """A tiny configuration of a family."""
    config_class = CONFIG_MAPPING[kind]
    default = config_class()
    fields = {
        name: value
        for name, value in {**TINY, **OWN.get(kind, {})}.items()
        if name in default.to_dict() or name in vars(config_class)
        if not isinstance(getattr(config_class, name, None), property)
    }
    if "kv_lora_rank" in fields:
        fields.update(LOW_RANK)
    fields.update(changes)
    return config_class(**fields)


def tiny_lm(config):
    """A random model of a configuration, no tensor of it at rest."""
    torch.manual_seed(0)
    lm = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    for name, parameter in lm.named_parameters():
        # Norms, biases and gates are born as ones and zeros, which hide
        # mistakes.
        if parameter.dim() < 2 or not parameter.std() > 0:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return lm


@contextlib.contextmanager
def without(lm, removed):
    """The whole model, its removed layers handing on what they are given."""
    layers = base_model(lm).layers
    tuples = {}

    def note(layer, args, output):
        tuples[layer] = output[1:] if isinstance(output, tuple) else None

    handles = [layer.register_forward_hook(note) for layer in layers]
    lm(input_ids=torch.tensor([[1, 2]]), use_cache=False)
    for handle in handles:
        handle.remove()

    def nothing(layer):
        def forward(*args, **kwargs):
            h = args[0] if args else kwargs["hidden_states"]
            return h if tuples[layer] is None else (h, *tuples[layer])

        return forward

    for index in removed:
        layers[index].forward = nothing(layers[index])
    try:
        yield
    finally:
        for index in removed:
            del layers[index].forward


def differs(one, other):
    """Whether logits differ by more than rounding."""
    return not (one - other).abs().max() <= 1e-4 * other.abs().max()


def rows():
    """Two rows of text of unlike lengths."""
    torch.manual_seed(1)
    return [torch.randint(3, VOCABULARY, (size,)) for size in (11, 8)]


def said_anew(lm, ids, limit):
    """Greedy decoding without a cache."""
    said = []
    for _ in range(limit):
        logits = lm(input_ids=ids[None], use_cache=False).logits[0, -1]
        said.append(int(logits.argmax()))
        ids = torch.cat([ids, logits.argmax()[None]])
    return said


def padded(decoder, texts, side):
    """Rows of text as one batch of embeddings."""
    width = max(map(len, texts))
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        place = (
            slice(width - len(text), None)
            if side == "left"
            else (slice(0, len(text)))
        )
        ids[row, place], mask[row, place] = text, 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    labels = torch.full_like(ids, IGNORE)
    labels[:, :-1] = torch.where(
        (mask[:, 1:] * mask[:, :-1]).bool(), ids[:, 1:], IGNORE
    )
    return Sequence(
        embeds_BQD=decoder.embed(ids),
        mask_BQ=mask,
        positions_BQ=positions,
        prompt_lengths_B=mask.sum(1),
        labels_BQ=labels,
    )


def by_hand(lm, removed, texts):
    """What the kept layers give: logits, losses and what is said."""
    with without(lm, removed), torch.no_grad():
        logits = [
            lm(input_ids=t[None], use_cache=False).logits[0] for t in texts
        ]
        said = [said_anew(lm, text, 5) for text in texts]
    return logits, said


def loss_of(logits, texts):
    """Mean negative log-likelihood of a token, from logits."""
    logits_NV = torch.cat([row[:-1] for row in logits]).float()
    labels_N = torch.cat([text[1:] for text in texts])
    return torch.nn.functional.cross_entropy(logits_NV, labels_N).item()


@torch.no_grad()
def faults_of(lm, folder, removed, texts):
    """In what a pruned model is not the kept layers by hand (list of str)."""
    expected, said = by_hand(lm, removed, texts)
    target_NV = torch.cat([row[:-1] for row in expected])
    loss = loss_of(expected, texts)
    pruned = load_pruned(folder, removed).eval()
    faults = []

    def compare(what, model):
        found = [
            model(input_ids=t[None], use_cache=False).logits[0] for t in texts
        ]
        if any(map(differs, found, expected)):
            faults.append(what)

    compare("drop_layers", drop_layers(lm, removed).eval())
    compare("load_pruned", pruned)
    with tempfile.TemporaryDirectory() as own:
        pruned.save_pretrained(own)
        saved = transformers.AutoModelForCausalLM.from_pretrained(own)
        compare("saved and loaded", saved.eval())
    check_calls(pruned)
    decoder = Decoder(pruned, _Stops(), folder)
    pruned.generation_config.eos_token_id = None
    if differs(
        decoder.target_logits(padded(decoder, texts, "right"))[0], target_NV
    ):
        faults.append("training")
    if not math.isclose(
        math.log(perplexity(pruned, texts)), loss, rel_tol=1e-4
    ):
        faults.append("perplexity")
    batches = [vars(padded(decoder, [text], "right")) for text in texts]
    data = [
        {
            "input_ids": text[None],
            "labels": batch["labels_BQ"],
        }
        for text, batch in zip(texts, batches)
    ]
    losses, _ = candidate_losses(lm, RuleData(data), [tuple(removed)])
    if not math.isclose(losses[0], loss, rel_tol=1e-4):
        faults.append("rules")
    limits = torch.full((len(texts),), 5)
    if decoder.greedy(padded(decoder, texts, "left"), limits) != said:
        faults.append("decoding")
    return faults


class _Stops:
    """All that a decoder asks of a tokenizer here."""

    eos_token_id = None


def verdict(kind):
    """What the walk says of a family: (verdict, remark)."""
    try:
        config = tiny_config(kind)
        with torch.device("meta"):
            shapes = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        count = sum(p.numel() for p in shapes.parameters())
    except Exception as error:
        return "not tried", f"cannot be built tiny ({type(error).__name__})"
    try:
        base_model(shapes)
    except TypeError:
        return "refused", ELSEWHERE
    if count > LARGEST:
        return "not tried", "cannot be built tiny (its sizes are nested)"
    try:
        lm = tiny_lm(config)
        lm(input_ids=torch.tensor([[3, 4, 5]]))
    except Exception as error:
        return "not tried", f"does not run tiny ({type(error).__name__})"
    try:
        check_calls(lm)
    except TypeError as error:
        return "refused", str(error)
    return verdict_on(lm)


def verdict_on(lm):
    """What comes of removing layers: (verdict, remark)."""
    texts, refusals, faults = rows(), [], []
    with tempfile.TemporaryDirectory() as folder:
        lm.save_pretrained(folder)
        for removed in REMOVED:
            try:
                faults += faults_of(lm, folder, removed, texts)
            except (TypeError, ValueError) as error:
                refusals.append(str(error).replace(folder, "the model"))
            except Exception as error:
                faults.append(repr(error).replace(folder, "the model"))
    if faults:
        return "wrong", ", ".join(sorted(set(faults)))
    if len(refusals) == len(REMOVED):
        return "refused", refusals[0]
    return "right", "not every set of layers" if refusals else ""


def quiet():
    """Say nothing of slow paths and special tokens."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)


def walk(kinds=None):
    """Family to verdict and remark."""
    quiet()
    kinds = kinds or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    return {kind: verdict(kind) for kind in kinds}


def short(remark):
    """The part of a message that says what is wrong, for a table."""
    remark = " ".join(remark.split())
    for start in ("pruned here: ", "in parts, ", "alone can be made: "):
        remark = remark.rpartition(start)[2]
    for end in (". docs/", ". Remove", ", and its", ": use a", ". Download"):
        remark = remark.partition(end)[0]
    return remark[:110].replace("|", "/")


def page(found):
    """The walk's words as a page of the docs."""
    lines = [HEAD.format(version=transformers.__version__)]
    for name, about in VERDICTS.items():
        here = {k: r for k, (v, r) in found.items() if v == name}
        if not here:
            continue
        lines += [f"## {name.capitalize()}: {len(here)}", "", about, ""]
        groups = {}
        for kind, remark in here.items():
            groups.setdefault(short(remark), []).append(kind)
        lines += ["| families | remark |", "|---|---|"]
        for remark, kinds in groups.items():
            lines.append(f"| {', '.join(kinds)} | {remark} |")
        lines.append("")
    return "\n".join(lines)


def main():
    """Write the page; with names given, print what is said of them."""
    found = walk(sys.argv[1:])
    if sys.argv[1:]:
        print(*(f"{k}: {': '.join(v)}" for k, v in found.items()), sep="\n")
    else:
        PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
