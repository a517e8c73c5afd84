"""A causal LM as one GGUF file, for llama.cpp and all that builds on it.

Names, keys and the order of rotated values are those of llama.cpp's own
``convert_hf_to_gguf.py``. A tensor is in memory at a time.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoTokenizer,
    PretrainedConfig,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from speechbrain_ext.layers.weights import (
    source_config,
    wanted_weights,
    weight_files,
)
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.runs.files import atomic_write
from speechllm.export.gguf_vocab import Vocabulary, read_vocabulary
from speechllm.exported.format import (
    ADAPTER,
    BASELINE_ADAPTER,
    MANIFEST,
    ExportFolder,
)

KINDS = ("f16", "q8_0")
# Model type and the kinds of rotary embedding that llama.cpp has for it.
ROPES = {
    "llama": ("default", "linear", "llama3"),
    "qwen2": ("default", "linear", "yarn"),
}
# What is rotated, and where a configuration has its number of heads.
TURNED = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}


def write_gguf(
    source: str, path: str, kind: str = "f16", overwrite: bool = False
) -> dict[str, Any]:
    """Write a Llama or Qwen2 causal LM, or an export's, as one GGUF file.

    Of kind "q8_0", blocks of 32 weights are in 8 bits with a scale of their
    own; vectors are float32 in both kinds.
    """
    check_gguf(path, kind, overwrite)
    import gguf

    source, left_out = backbone_of(source)
    config = source_config(source)
    _check_kind(config, source)
    with quiet_loading():
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False
        )
    vocabulary = read_vocabulary(tokenizer, config.vocab_size, source)
    weights = _weights(source, config)
    with atomic_write(path, "wb") as stream:
        # The library opens files by name alone.
        writer = gguf.GGUFWriter(stream.name, config.model_type)
        _describe(writer, config, source, kind)
        _describe_tokens(writer, vocabulary, tokenizer, source)
        _write_tensors(writer, config, weights, kind)
        writer.close()
    return {
        "file": path,
        "bytes": os.path.getsize(path),
        "layers": config.num_hidden_layers,
        "tensors": len(weights),
        "kind": kind,
        "tokenizer": vocabulary.pre,
        "left_out": left_out,
    }


def backbone_of(source: str) -> tuple[str, list[str]]:
    """An export's backbone and what it leaves out; else the source itself."""
    if not os.path.isfile(os.path.join(source, MANIFEST)):
        return source, []
    export = ExportFolder(source)
    parts = ["encoder", "projector"]
    for part in (ADAPTER, BASELINE_ADAPTER, "bridge"):
        if any(getattr(task, part) for task in export.tasks.values()):
            parts.append(part)
    return export.backbone, parts


def check_gguf(path: str, kind: str, overwrite: bool) -> None:
    """Refuse a place or a kind, or a missing library, before long work."""
    if kind not in KINDS:
        raise ValueError(f"gguf: {kind!r}: choose {', '.join(KINDS)}")
    if not path.endswith(".gguf"):
        raise ValueError(
            f"{path}: with --gguf and a model, give a file that ends in .gguf"
        )
    if os.path.exists(path) and not overwrite:
        raise ValueError(f"{path}: is there already: add --overwrite")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: no such folder: make it first")
    if find_spec("gguf") is None:
        raise ImportError("--gguf needs the gguf package: pip install gguf")


def _check_kind(config, source):
    """Refuse what llama.cpp would read as something else."""
    ropes = ROPES.get(config.model_type)
    if ropes is None:
        raise ValueError(
            f"{source}: a {config.model_type} model; GGUF is written of "
            f"{', '.join(ROPES)}"
        )
    rope = config.rope_parameters.get("rope_type", "default")
    if rope not in ropes:
        raise ValueError(
            f"{source}: its rotary embedding is of the kind {rope}; of "
            f"{config.model_type} llama.cpp has {', '.join(ropes)}"
        )
    if getattr(config, "use_sliding_window", False):
        raise ValueError(
            f"{source}: some of its layers look back through a window "
            "(use_sliding_window), which llama.cpp does not have for qwen2"
        )


def _describe(writer, config, source, kind):
    """Shapes and numbers, under the converter's keys."""
    import gguf

    heads, width = config.num_attention_heads, config.hidden_size
    head_dim = getattr(config, "head_dim", None) or width // heads
    rope = config.rope_parameters
    writer.add_type("model")
    writer.add_name(os.path.basename(os.path.abspath(source)))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(width)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        length = rope["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(length)


def _describe_tokens(
    writer: Any, vocabulary: Vocabulary, tokenizer: Any, source: str
) -> None:
    """The vocabulary, its special tokens and the chat template."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges is None:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.space_prefix)
    else:
        writer.add_token_merges(vocabulary.merges)
    for kind in ("bos", "eos", "unk", "pad"):
        token = getattr(tokenizer, f"{kind}_token_id")
        if token is not None and token < len(vocabulary.tokens):
            getattr(writer, f"add_{kind}_token_id")(token)
    # What it does, not what it says that it does.
    begun = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(begun[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(begun[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


# ----------------------------------------------------------------------------
# Weights.


def _weights(source, config):
    """Each tensor of the model by its name, still on disk."""
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        shapes = model_class(config).state_dict()
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    files = weight_files(source)
    found = {
        name: value
        for _, name, value in wanted_weights(
            files, source, None, lambda name: name in shapes, torch.float32
        )
    }
    missing = [name for name in shapes if name not in found]
    if missing:
        raise ValueError(
            f"{source}: {len(missing)} weights are missing, first {missing[0]}"
        )
    return {name: (shapes[name].shape, found[name]) for name in shapes}


def _write_tensors(writer, config, weights, kind):
    """Heads of all tensors, then their values, one at a time."""
    import gguf

    architecture = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    types = {}
    for name, (shape, _) in weights.items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        types[name], size = _stored(shape, kind)
        writer.add_tensor_info(
            known, shape, np.dtype(np.float32), size, types[name]
        )
    factors = rope_factors(config)
    if factors is not None:
        about = factors.shape, factors.dtype, factors.nbytes
        writer.add_tensor_info("rope_freqs.weight", *about)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, (shape, value) in weights.items():
        values = value[...].to(torch.float32)
        if values.shape != shape:
            raise ValueError(
                f"{name}: has the shape {list(values.shape)}, but the "
                f"configuration says {list(shape)}"
            )
        part = name.split(".")[-2]
        if config.model_type == "llama" and part in TURNED:
            values = turned(values, getattr(config, TURNED[part]))
        packed = gguf.quants.quantize(values.contiguous().numpy(), types[name])
        if packed.dtype == np.float16 and not np.isfinite(packed).all():
            raise ValueError(f"{name}: does not fit float16: take q8_0")
        writer.write_tensor_data(packed)
    if factors is not None:
        writer.write_tensor_data(factors)


def _stored(shape, kind):
    """A tensor's type and bytes: vectors whole, matrices as asked for."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    stored = GGMLQuantizationType[kind.upper()]
    if len(shape) == 1:
        stored = GGMLQuantizationType.F32
    elif shape[-1] % GGML_QUANT_SIZES[stored][0]:
        # Rows that do not fill their blocks stay as the converter leaves them.
        stored = GGMLQuantizationType.F16
    values, size = GGML_QUANT_SIZES[stored]
    return stored, shape.numel() // values * size


def turned(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k in llama.cpp's order of rotated pairs.

    Hugging Face's Llama turns value i of a head with value i + half of it,
    llama.cpp value 2 i with 2 i + 1.
    """
    rows = values.shape[0] // heads // 2
    parts = values.reshape(heads, 2, rows, *values.shape[1:])
    return parts.transpose(1, 2).reshape(values.shape)


def rope_factors(config: PretrainedConfig) -> np.ndarray | None:
    """By what Llama 3 divides each frequency (float32); None elsewhere."""
    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = 2 * len(scaled)
    steps = torch.arange(0, size, 2, dtype=torch.float32) / size
    return (1.0 / rope["rope_theta"] ** steps / scaled).numpy()
