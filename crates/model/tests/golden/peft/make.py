"""Adapters as real peft writes them, for tests/ckpt_adapter.rs.

Each tensor holds `i * 0.001 + rank of its key among the sorted keys`, so that the test knows every value.
Made with transformers 5.23.0, peft 0.21.2, torch 2.15.0:  python make.py
"""
import json, pathlib, shutil, warnings
import torch
import transformers as T
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

warnings.simplefilter("ignore")
here = pathlib.Path(__file__).parent
llama = dict(vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=32)
gpt2 = dict(vocab_size=20, n_embd=8, n_layer=2, n_head=2, n_positions=32, n_inner=12, bos_token_id=1, eos_token_id=2)
bert = dict(vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=32)
cases = {
    "llama_lora": (T.LlamaForCausalLM, T.LlamaConfig(**llama), LoraConfig(
        task_type="CAUSAL_LM", r=3, lora_alpha=5, lora_dropout=0.1, target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={r"layers\.1\.self_attn\.v_proj": 2, "down_proj": 4}, alpha_pattern={"q_proj": 7})),
    "gpt2_rslora_cls": (T.GPT2ForSequenceClassification, T.GPT2Config(**gpt2, num_labels=3, pad_token_id=0), LoraConfig(
        task_type="SEQ_CLS", r=2, lora_alpha=3, use_rslora=True, target_modules=["c_attn", "mlp.c_proj"])),
    "bert_lora_cls": (T.BertForSequenceClassification, T.BertConfig(**bert, num_labels=5), LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=r".*\.(query|value)", layers_to_transform=None)),
    "llama_prompt": (T.LlamaForCausalLM, T.LlamaConfig(**llama), PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "bert_prompt_cls": (T.BertForSequenceClassification, T.BertConfig(**bert, num_labels=5), PromptTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=3)),
}
for name, (cls, config, peft) in cases.items():
    out = here / name
    shutil.rmtree(out, ignore_errors=True)
    get_peft_model(cls(config), peft).save_pretrained(out)
    (out / "README.md").unlink()
    tensors = load_file(out / "adapter_model.safetensors")
    for k, key in enumerate(sorted(tensors)):
        t = tensors[key]
        tensors[key] = (torch.arange(t.numel(), dtype=torch.float64) * 0.001 + k).float().reshape(t.shape)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    # the model's configuration under another name, so that the directory stays an adapter's
    d = json.loads(config.to_json_string())
    (out / "base.json").write_text(json.dumps(d, indent=1, sort_keys=True) + "\n")
