"""Configurations with what transformers makes of them, for tests/ckpt_config.rs.

Each case is a partial `config.json`, so that defaults of missing keys show, the whole `config.json` that transformers
writes for it, and the values that decide the mathematics, read from transformers' own objects and models.
Made with transformers 5.23.0:  python make.py > golden.json
"""
import json
import torch
import transformers as T
from transformers.activations import ACT2FN

tiny = dict(hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=50)
l3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
cases = {
    "llama-defaults": dict(model_type="llama"),
    "llama-no-kv": dict(model_type="llama", hidden_size=24, num_attention_heads=4),
    "llama-null-kv": dict(model_type="llama", **{**tiny, "num_key_value_heads": None, "head_dim": None}),
    "llama-biases": dict(model_type="llama", **tiny, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-head-dim": dict(model_type="llama", **tiny, head_dim=10, rms_norm_eps=1e-5),
    "llama-theta": dict(model_type="llama", **tiny, rope_theta=500000.0, eos_token_id=[7, 8, 9], bos_token_id=3,
                        pad_token_id=-1),
    "llama-linear": dict(model_type="llama", **tiny, rope_theta=2e4, rope_scaling=dict(type="linear", factor=2.5)),
    "llama-llama3": dict(model_type="llama", **tiny, rope_theta=5e5, rope_scaling=l3),
    "llama-llama3-new": dict(model_type="llama", **tiny, rope_parameters=dict(**l3, rope_theta=3e5)),
    "llama-llama3-no-original": dict(model_type="llama", **tiny, max_position_embeddings=99, rope_scaling={
        k: v for k, v in l3.items() if k != "original_max_position_embeddings"}),
    "llama-both-ropes": dict(model_type="llama", **tiny, rope_scaling=dict(rope_type="linear", factor=3.0),
                             rope_parameters=dict(rope_type="default", rope_theta=7e3)),
    "mistral-defaults": dict(model_type="mistral"),
    "mistral-no-window": dict(model_type="mistral", **tiny, sliding_window=None),
    "mistral-window": dict(model_type="mistral", **tiny, sliding_window=7, head_dim=8),
    "qwen2-defaults": dict(model_type="qwen2"),
    "qwen2-switch-off": dict(model_type="qwen2", **tiny, sliding_window=5, max_window_layers=0),
    "qwen2-window": dict(model_type="qwen2", **tiny, use_sliding_window=True, sliding_window=5, max_window_layers=0),
    "qwen2-window-above": dict(model_type="qwen2", **tiny, use_sliding_window=True, sliding_window=5, max_window_layers=3),
    "qwen2-default-window": dict(model_type="qwen2", **tiny, use_sliding_window=True, max_window_layers=0),
    "qwen3-defaults": dict(model_type="qwen3"),
    "qwen3-bias": dict(model_type="qwen3", **tiny, attention_bias=True, head_dim=6, tie_word_embeddings=True),
    "qwen3-layers": dict(model_type="qwen3", **tiny, use_sliding_window=True, sliding_window=9,
                         layer_types=["sliding_attention"] * 3),
    "gpt2-defaults": dict(model_type="gpt2"),
    "gpt2-small": dict(model_type="gpt2", n_embd=24, n_head=4, n_layer=2, n_inner=20, n_positions=16, vocab_size=50,
                       activation_function="gelu", tie_word_embeddings=False, layer_norm_epsilon=1e-6),
    "bert-defaults": dict(model_type="bert"),
    "bert-minilm": dict(model_type="bert", hidden_size=24, intermediate_size=20, num_hidden_layers=3,
                        num_attention_heads=4, hidden_act="gelu_new", type_vocab_size=1, pad_token_id=None,
                        layer_norm_eps=1e-7),
}


def activation(name):
    """silu, tanh or erf, by value."""
    x = torch.linspace(-3, 3, 41, dtype=torch.float64)
    f = ACT2FN[name](x)
    for kind, g in dict(silu=torch.nn.functional.silu(x), erf=torch.nn.functional.gelu(x),
                        tanh=torch.nn.functional.gelu(x, approximate="tanh")).items():
        if torch.allclose(f, g, atol=1e-9):
            return kind
    raise ValueError(name)


def ids(value):
    return [] if value is None else value if isinstance(value, list) else [value]


out = []
for name, given in cases.items():
    config = T.AutoConfig.for_model(**json.loads(json.dumps(given)))
    with torch.device("meta"):
        model = T.AutoModel.from_config(config)
    params = dict(model.named_parameters())
    kind = config.model_type
    bias = lambda leaf: any(k.endswith(leaf + ".bias") for k in params)
    e = dict(vocab=config.vocab_size, hidden=config.hidden_size, layers=config.num_hidden_layers,
             heads=config.num_attention_heads, max_positions=config.max_position_embeddings,
             tied=config.tie_word_embeddings, initializer_range=config.initializer_range,
             bos=ids(config.bos_token_id), eos=ids(config.eos_token_id), pad=ids(config.pad_token_id))
    if kind == "gpt2":
        block = model.h[0]
        e |= dict(eps=config.layer_norm_epsilon, ffn=block.mlp.c_fc.weight.shape[1], kv_heads=e["heads"],
                  head_dim=block.attn.head_dim, act=activation(config.activation_function),
                  biases=[bias("c_attn"), bias("attn.c_proj"), bias("c_fc")], window=None, rope=None)
    elif kind == "bert":
        e |= dict(eps=config.layer_norm_eps, ffn=config.intermediate_size, kv_heads=e["heads"],
                  head_dim=e["hidden"] // e["heads"], act=activation(config.hidden_act),
                  biases=[bias("query"), bias("output.dense"), bias("intermediate.dense")], window=None, rope=None,
                  token_types=config.type_vocab_size)
    else:
        attention = model.layers[0].self_attn
        kinds = getattr(config, "layer_types", None)
        window = config.sliding_window if kind == "mistral" else (
            config.sliding_window if kinds and set(kinds) == {"sliding_attention"} else None)
        rope = {k: v for k, v in config.rope_parameters.items() if k != "type"}
        e |= dict(eps=config.rms_norm_eps, ffn=config.intermediate_size, kv_heads=config.num_key_value_heads,
                  head_dim=attention.head_dim, act=activation(config.hidden_act),
                  biases=[bias("q_proj"), bias("o_proj"), bias("up_proj")], window=window, rope=rope,
                  qk_norm=any("q_norm" in k for k in params))
        assert attention.q_proj.out_features == e["heads"] * e["head_dim"]
        assert attention.k_proj.out_features == e["kv_heads"] * e["head_dim"]
    whole = json.loads(config.to_json_string(use_diff=False))
    out.append(dict(name=name, given=given, written=whole, expected=e))
print(json.dumps(out, indent=1))
