#!/usr/bin/env python3
"""Writes the GGUF file of a small Llama checkpoint, the embedded base by default, in float32.

    python scripts/make_gguf.py [MODEL_DIR] OUT.gguf

Needs `gguf`, `numpy` and `safetensors`. Query and key rows are put into the order of llama.cpp's rotary embedding: pairs of
neighbours, where Hugging Face pairs the halves of a head. Byte-level BPE tokenizers only.
"""

import json
import sys
from pathlib import Path

import gguf
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent


def paired(weight, heads):
    """Rows of each head from halves to neighbours."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def main(model: Path, out: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    assert config["model_type"] == "llama", config["model_type"]
    assert tokenizer["pre_tokenizer"]["type"] == "ByteLevel", tokenizer["pre_tokenizer"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]

    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_name(model.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)

    vocab = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    special = {t["id"]: t["content"] for t in tokenizer["added_tokens"]}
    vocab.update(special)
    tokens = [vocab.get(i, f"<unused{i}>") for i in range(config["vocab_size"])]
    kind = lambda i: gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([kind(i) for i in range(len(tokens))])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(True)

    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, weight in load_file(model / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem in whole:
            target = whole[stem]
        else:
            _, _, layer, part = stem.split(".", 3)
            target = f"blk.{layer}.{names[part]}"
            if part == "self_attn.q_proj":
                weight = paired(weight, heads)
            elif part == "self_attn.k_proj":
                weight = paired(weight, kv_heads)
        writer.add_tensor(f"{target}.weight", weight.astype("float32").copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    *given, out = sys.argv[1:] or [None]
    if out is None:
        sys.exit(__doc__)
    main(Path(given[0]) if given else ROOT / "assets/base", Path(out))
