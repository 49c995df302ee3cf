"""Write a model and its tokenizer as one GGUF file, for llama.cpp and programs built on it.

The names of weights and metadata are those of the `gguf` package. Layouts are those of llama.cpp's
convert_hf_to_gguf.py: Llama's rotary pairs are adjacent, GPT-2's linear maps are (out, in).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from lmft.errors import UserError
from lmft.model.gguf_tokenizer import WAY_OUT, add_tokenizer
from lmft.model.load import silence_transformers
from lmft.storage.atomic import new_file
from lmft.storage.hub import hub_errors


@dataclass(frozen=True)
class Layout:
    """How GGUF stores the models of one `model_type`."""

    fixed: dict[str, Any]  # settings that GGUF can't express, and the value that readers assume
    add_sizes: Callable[[Any, Any], None]  # to the writer, from the config
    convert: Callable[[str, np.ndarray, Any], np.ndarray]  # a weight, by its GGUF name


def write_gguf(source: Path, target: Path, label: str) -> None:
    """Write the model of a Hugging Face folder to the file `target`, in fp32.

    Args:
        source: the folder.
        target: the file, which appears once it is complete.
        label: the name of the model in the file.

    Raises:
        UserError: GGUF, or lmft's part of it, has no place for this model or tokenizer.
        Fault: the disk is full.
    """
    try:
        from gguf import GGUFWriter, LlamaFileType
    except ImportError as error:
        raise UserError("format=gguf needs the package gguf; pip install 'lmft[gguf]'.") from error
    silence_transformers()
    with hub_errors(f"model {str(source)!r}"):
        config = AutoConfig.from_pretrained(source)
        layout = find_layout(config)
        tokenizer = AutoTokenizer.from_pretrained(source)
    with new_file(target) as temporary:
        writer = GGUFWriter(temporary, config.model_type)
        try:
            writer.add_name(label)
            writer.add_file_type(LlamaFileType.ALL_F32)
            layout.add_sizes(writer, config)
            add_tokenizer(writer, tokenizer, config.vocab_size)
            for name, weight in gguf_weights(source, config):
                writer.add_tensor(name, np.ascontiguousarray(layout.convert(name, weight, config)))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def find_layout(config: PreTrainedConfig) -> Layout:
    """Return how the models of this architecture are stored.

    Raises:
        UserError: they can't be, or a setting can't be.
    """
    kind = config.model_type
    layout = LAYOUTS.get(kind)
    if layout is None:
        raise UserError(
            f"format=gguf takes models of the types {' and '.join(LAYOUTS)}, not {kind}; {WAY_OUT}."
        )
    settings = config.to_dict() | (getattr(config, "rope_parameters", None) or {})
    if settings.get("n_inner") == 4 * settings.get("n_embd", 0):
        settings["n_inner"] = None
    for name, value in layout.fixed.items():
        if settings[name] != value:
            raise UserError(
                f"format=gguf takes {kind} models with {name}={value}, not {settings[name]}; "
                f"{WAY_OUT}."
            )
    return layout


def gguf_weights(source: Path, config: PreTrainedConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each weight in fp32 with its name in GGUF; tied weights once."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, use_safetensors=True, config=config
    )
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        yield found, weight.numpy()


def add_llama_sizes(writer: Any, config: Any) -> None:
    """Add the sizes of a Llama to the metadata."""
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def add_gpt2_sizes(writer: Any, config: Any) -> None:
    """Add the sizes of a GPT-2 to the metadata."""
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def convert_llama(name: str, weight: np.ndarray, config: Any) -> np.ndarray:
    """Return a weight of a Llama with the two halves of each rotary dimension side by side."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    count = heads.get(name.split(".")[-2])
    if count is None:
        return weight
    halves = weight.reshape(count, 2, weight.shape[0] // count // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def convert_gpt2(name: str, weight: np.ndarray, _: Any) -> np.ndarray:
    """Return a weight of a GPT-2; that of a linear map, which is (in, out), as (out, in)."""
    linear = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
    return weight.T if weight.ndim == 2 and name.split(".")[-2] in linear else weight


LAYOUTS = {
    "llama": Layout(
        {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "rope_type": "default"},
        add_llama_sizes,
        convert_llama,
    ),
    "gpt2": Layout(
        {
            "activation_function": "gelu_new",
            "n_inner": None,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
        },
        add_gpt2_sizes,
        convert_gpt2,
    ),
}
