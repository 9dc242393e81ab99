"""Writes peft_targets.json: the tensors that real peft makes for LoRA settings on three tiny models.

Made with torch 2.15, transformers 5.23, peft 0.21: python peft_targets.py > peft_targets.json
"""
import json

from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import (BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, LlamaConfig,
                          LlamaForCausalLM)

MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=2, n_head=2, n_positions=32)),
    "bert": lambda: BertForSequenceClassification(BertConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, num_labels=3)),
}

CASES = [
    ("llama", dict(target_modules=["q_proj", "v_proj"])),
    ("llama", dict(target_modules=["v_proj", "q_proj", "down_proj"])),  # the order of the list does not matter
    ("llama", dict(target_modules="all-linear")),
    ("llama", dict(target_modules=["self_attn.k_proj"])),
    ("llama", dict(target_modules=["model.layers.1.mlp.up_proj"])),
    ("llama", dict(target_modules=r".*layers\.[02]\.self_attn\.(q|o)_proj")),
    ("llama", dict(target_modules=r".*\.(?!q_)[a-z]+_proj")),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[0, 2])),
    ("llama", dict(target_modules=["q_proj", "model.layers.1.mlp.up_proj"], layers_to_transform=[2])),
    ("llama", dict(target_modules=["q_proj", "k_proj"], rank_pattern={"k_proj": 3})),
    ("llama", dict(target_modules=["q_proj", "k_proj"], rank_pattern={r"layers\.1\.self_attn\.q_proj": 1},
                   alpha_pattern={r"layers\.[12]\.self_attn\..*": 5})),
    ("llama", dict(target_modules=["q_proj"], rank_pattern={"model.layers.2.self_attn.q_proj": 4},
                   alpha_pattern={"q_proj": 6})),
    ("llama", dict(target_modules=["q_proj"], use_rslora=True, alpha_pattern={r".*0.*q_proj": 7})),
    ("gpt2", dict(target_modules=["c_attn"])),
    ("gpt2", dict(target_modules=["c_proj"])),
    ("gpt2", dict(target_modules=["mlp.c_proj", "c_fc"])),
    ("gpt2", dict(target_modules="all-linear")),
    ("bert", dict(target_modules=["query", "value"])),
    ("bert", dict(target_modules=["attention.output.dense"])),
    ("bert", dict(target_modules=["intermediate.dense", "layer.1.output.dense"])),
]


def run(model, settings):
    base = MODELS[model]()
    config = LoraConfig(r=2, lora_alpha=3, task_type="SEQ_CLS" if model == "bert" else "CAUSAL_LM", **settings)
    peft = get_peft_model(base, config)
    strip = lambda n: n.removeprefix("base_model.model.")
    tensors = [[strip(n), list(t.shape)] for n, t in get_peft_model_state_dict(peft).items()]
    scales = {strip(n): m.scaling["default"] for n, m in peft.named_modules() if hasattr(m, "lora_A") and m.lora_A}
    return dict(model=model, settings=settings, tensors=tensors, scales=scales)


if __name__ == "__main__":
    print("[\n" + ",\n".join(json.dumps(run(m, s)) for m, s in CASES) + "\n]")
