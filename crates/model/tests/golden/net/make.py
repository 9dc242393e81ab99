"""Golden files of the whole network, from transformers and peft in binary32.

    python make.py [MODEL ...]

Writes, for every tiny random model, a checkpoint directory as `save_pretrained` writes it, and beside it for every method
`METHOD.json` (what is asked: sequences, labels, low-rank pairs with peft's own scaling, losses of ten steps) and
`METHOD.safetensors`: `logits` of the tokens' rows (or classes), and per trainable tensor `start.NAME` (unless it is the
checkpoint's), `grad.NAME` at the start and `end.NAME` after ten steps of torch's AdamW. Names are those of the
`state_dict`, without peft's prefix and infixes. Batches are padded on the right for transformers; the files list the
sequences without padding.
"""

import json
import math
import os
import shutil
import sys

import peft
import torch
import transformers as tf
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, LR, DECAY = 10, 2e-3, 0.01
IGNORE = -100

# no two sizes agree where a transposition could hide
DECODER = dict(
    vocab_size=44, hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=6, max_position_embeddings=32, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, attention_dropout=0.0, tie_word_embeddings=False,
)
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def rope(**more):
    return dict(rope_parameters=dict(rope_theta=50.0, **{"rope_type": "default", **more}))


LLAMA3 = dict(
    rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)
GPT2 = dict(
    vocab_size=44, n_embd=20, n_inner=28, n_layer=2, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=2,
    pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)
BERT = dict(
    vocab_size=44, hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0,
    classifier_dropout=0.0,
)

# name: configuration, language model, classifier, every target, the usual pair of targets
MODELS = {
    "llama": (tf.LlamaConfig(**DECODER, **rope()), tf.LlamaForCausalLM, tf.LlamaForSequenceClassification,
              LLAMA_TARGETS, ["q_proj", "v_proj"]),
    "llama3": (tf.LlamaConfig(**{**DECODER, "tie_word_embeddings": True}, **rope(**LLAMA3)), tf.LlamaForCausalLM, None,
               LLAMA_TARGETS, ["q_proj", "v_proj"]),
    "llama-linear": (tf.LlamaConfig(**DECODER, **rope(rope_type="linear", factor=2.5)), tf.LlamaForCausalLM, None,
                     LLAMA_TARGETS, ["k_proj", "down_proj"]),
    "mistral": (tf.MistralConfig(**DECODER, sliding_window=4, **rope()), tf.MistralForCausalLM, None,
                LLAMA_TARGETS, ["q_proj", "v_proj"]),
    "qwen2": (tf.Qwen2Config(**{k: v for k, v in DECODER.items() if k != "head_dim"}, **rope()), tf.Qwen2ForCausalLM,
              None, LLAMA_TARGETS, ["q_proj", "v_proj"]),
    "qwen3": (tf.Qwen3Config(**DECODER, **rope()), tf.Qwen3ForCausalLM, None, LLAMA_TARGETS, ["q_proj", "v_proj"]),
    "gpt2": (tf.GPT2Config(**GPT2), tf.GPT2LMHeadModel, tf.GPT2ForSequenceClassification,
             ["c_attn", "c_fc", "c_proj"], ["c_attn"]),
    "bert": (tf.BertConfig(**BERT, num_labels=3), None, tf.BertForSequenceClassification,
             # not `dense` alone, which would take the pooler too
             ["query", "key", "value", "intermediate.dense", "output.dense"], ["query", "value"]),
}
# a head dimension must be even to rotate: qwen2 has none of its own, so 4 heads of 6 make a hidden width of 24
MODELS["qwen2"][0].hidden_size = 24
CLASSES = 3


def randomise(model, seed):
    """Every tensor away from its symmetric initial value."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            gain = p.dim() == 1 and name.endswith("weight")
            p.copy_(1 + 0.2 * noise if gain else 0.2 * noise)


def sequences(vocab, classify, lengths):
    """Three sequences; the second's first labels are masked, as of a prompt."""
    g = torch.Generator().manual_seed(5)
    out = []
    for i, length in enumerate(lengths):
        ids = torch.randint(3, vocab, (length,), generator=g).tolist()
        labelled = [t for t in range(1, length) if (i != 1 or t >= 4) and (i != 2 or t % 3)]
        out.append(dict(ids=ids, **(dict(label=[2, 0, 1][i]) if classify else dict(labelled=labelled))))
    return out


def batch(seqs, classify):
    width = max(len(s["ids"]) for s in seqs)
    ids = torch.zeros(len(seqs), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE)
    for i, s in enumerate(seqs):
        n = len(s["ids"])
        ids[i, :n] = torch.tensor(s["ids"])
        mask[i, :n] = 1
        for t in s.get("labelled", []):
            labels[i, t] = s["ids"][t]
    if classify:
        labels = torch.tensor([s["label"] for s in seqs])
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def plain(name):
    """A trainable's name without peft's prefix and infixes."""
    for a, b in [("base_model.model.", ""), (".modules_to_save.default", ""), (".default", ""),
                 ("prompt_encoder.embedding.weight", "prompt_embeddings"), (".base_layer", "")]:
        name = name.replace(a, b)
    return name.removeprefix("base_model.")


def wrap(model, method, classify, every, usual, special):
    """The model of a method, and the file's description of its low-rank pairs or prompt."""
    kind = peft.TaskType.SEQ_CLS if classify else peft.TaskType.CAUSAL_LM
    if method == "full":
        return model, {}
    if method == "prompt":
        c = peft.PromptTuningConfig(task_type=kind, num_virtual_tokens=3, prompt_tuning_init="RANDOM")
        return peft.get_peft_model(model, c), dict(prompt=3)
    more = dict(fan_in_fan_out=isinstance(model, tf.GPT2PreTrainedModel))
    if method == "lora":
        c = peft.LoraConfig(task_type=kind, r=2, lora_alpha=3, target_modules=every, **more)
    elif method == "lora-rslora":
        c = peft.LoraConfig(task_type=kind, r=3, lora_alpha=2, use_rslora=True, target_modules=usual, **more)
    elif method == "lora-ranks":
        # the second layer alone, one map of it at another rank and alpha
        special = f".*1\\.{special}"
        c = peft.LoraConfig(task_type=kind, r=2, lora_alpha=4, target_modules=every, layers_to_transform=[1],
                            rank_pattern={special: 4}, alpha_pattern={special: 10}, **more)
    wrapped = peft.get_peft_model(model, c)
    pairs = {}
    for name, module in wrapped.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            pairs[plain(name)] = dict(rank=module.r["default"], scale=module.scaling["default"])
    return wrapped, dict(lora=pairs)


def run(model_name, method, classify):
    config, lm, cls, every, usual = MODELS[model_name]
    folder = f"{HERE}/{model_name}"
    c = type(config).from_pretrained(folder)
    if classify:
        c.num_labels = CLASSES
    model = (cls if classify else lm).from_pretrained(folder, config=c, attn_implementation="eager",
                                                      dtype=torch.float32)
    special = {"gpt2": r"mlp\.c_fc", "bert": r"attention\.self\.value"}.get(model_name, r"self_attn\.k_proj")
    model, description = wrap(model, method, classify, every, usual, special)
    model.train()
    trained = [(plain(n), p) for n, p in model.named_parameters() if p.requires_grad]
    if method == "full" and classify:
        # what the pooled row does not reach trains too, but the language head is not there
        assert not any("lm_head" in n for n, _ in trained)
    tensors = {}
    with torch.no_grad():
        g = torch.Generator().manual_seed(11)
        for name, p in trained:
            fresh = method != "full" or name.startswith(("score", "classifier"))
            if fresh:
                p.copy_(0.3 * torch.randn(p.shape, generator=g))
                tensors[f"start.{name}"] = p.detach().clone()
    # given embeddings, a decoder's classifier takes the last row for the last token, padding or not
    equal = classify and lm and method == "prompt"
    seqs = sequences(c.vocab_size, classify, [8, 8, 8] if equal else [11, 7, 9])
    inputs = batch(seqs, classify)
    optimiser = torch.optim.AdamW([p for _, p in trained], lr=LR, weight_decay=DECAY)
    losses = []
    for step in range(STEPS + 1):
        out = model(**inputs)
        losses.append(out.loss.item())
        if step == STEPS:
            break
        optimiser.zero_grad()
        out.loss.backward()
        if step == 0:
            logits = out.logits.detach()
            if not classify:
                skip = logits.shape[1] - inputs["input_ids"].shape[1]
                logits = torch.cat([logits[i, skip : skip + len(s["ids"])] for i, s in enumerate(seqs)])
            tensors["logits"] = logits.contiguous()
            tensors |= {f"grad.{n}": p.grad.detach().clone() for n, p in trained}
        optimiser.step()
    tensors |= {f"end.{n}": p.detach().clone() for n, p in trained}
    description |= dict(
        task="classify" if classify else "causal_lm", classes=CLASSES if classify else 0, sequences=seqs,
        lr=LR, weight_decay=DECAY, losses=losses,
        made_with=dict(torch=torch.__version__, transformers=tf.__version__, peft=peft.__version__),
    )
    assert all(math.isfinite(l) for l in losses) and losses[-1] < losses[0], losses
    stem = f"{folder}/{'classify-' if classify and lm else ''}{method}"
    save_file({k: v.float().contiguous() for k, v in tensors.items()}, f"{stem}.safetensors")
    os.chmod(f"{stem}.safetensors", 0o644)
    json.dump(description, open(f"{stem}.json", "w"))
    print(model_name, os.path.basename(stem), len(trained), "tensors, loss", losses[0], "->", losses[-1])


def main(names):
    for i, (name, (config, lm, cls, _, _)) in enumerate(MODELS.items()):
        if names and name not in names:
            continue
        folder = f"{HERE}/{name}"
        shutil.rmtree(folder, ignore_errors=True)
        model = (lm or cls)(config)
        randomise(model, i)
        model.save_pretrained(folder)
        generation = f"{folder}/generation_config.json"
        if os.path.exists(generation):
            os.remove(generation)
        for method in ["full", "lora", "lora-rslora", "lora-ranks", "prompt"]:
            run(name, method, classify=lm is None)
        if lm and cls:
            run(name, "full", classify=True)
            run(name, "lora-rslora", classify=True)
            run(name, "prompt", classify=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
