"""Golden files of bottleneck adapters, from AdapterHub's `adapters` in binary32, for three of the models of make.py.

    python houlsby.py        # adapters 1.3, transformers 4.57

`houlsby.json` and `houlsby.safetensors` are as make.py's; the configuration is `DoubleSeqBnConfig` (Houlsby et al. 2019) with gelu. Beside them
`houlsby-adapter` is what `save_adapter` wrote of llama's at the start.
"""

import json
import math
import os
import sys
import types

import torch

import adapters
import transformers as tf

# make.py's batches; nothing of peft is used, whose release would want another transformers
sys.modules.setdefault("peft", types.ModuleType("peft"))
import make
from safetensors.torch import save_file

NAME = "antiphon"


def run(model_name):
    config, lm, cls, _, _ = make.MODELS[model_name]
    folder, classify = f"{make.HERE}/{model_name}", lm is None
    c = type(config).from_pretrained(folder)
    if model_name == "llama":
        # transformers 5 keeps it in a table that 4 does not read
        c.rope_theta, c.rope_scaling = json.load(open(f"{folder}/config.json"))["rope_parameters"]["rope_theta"], None
    if classify:
        c.num_labels = make.CLASSES
    model = (lm or cls).from_pretrained(folder, config=c, attn_implementation="eager", dtype=torch.float32)
    adapters.init(model)
    model.add_adapter(NAME, config=adapters.DoubleSeqBnConfig(reduction_factor=4, non_linearity="gelu"))
    model.train_adapter(NAME)
    model.train()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    tensors, g = {}, torch.Generator().manual_seed(13)
    with torch.no_grad():
        for name, p in trained:
            p.copy_(0.3 * torch.randn(p.shape, generator=g))
            tensors[f"start.{name}"] = p.detach().clone()
    if model_name == "llama":
        model.save_adapter(f"{folder}/houlsby-adapter", NAME, with_head=False, use_safetensors=True)
        os.chmod(f"{folder}/houlsby-adapter/adapter.safetensors", 0o644)
    seqs = make.sequences(c.vocab_size, classify, [11, 7, 9])
    inputs = make.batch(seqs, classify)
    optimiser = torch.optim.AdamW([p for _, p in trained], lr=make.LR, weight_decay=make.DECAY)
    losses = []
    for step in range(make.STEPS + 1):
        out = model(**inputs)
        losses.append(out.loss.item())
        if step == make.STEPS:
            break
        optimiser.zero_grad()
        out.loss.backward()
        if step == 0:
            logits = out.logits.detach()
            if not classify:
                logits = torch.cat([logits[i, : len(s["ids"])] for i, s in enumerate(seqs)])
            tensors["logits"] = logits.contiguous()
            tensors |= {f"grad.{n}": p.grad.detach().clone() for n, p in trained}
        optimiser.step()
    tensors |= {f"end.{n}": p.detach().clone() for n, p in trained}
    assert all(math.isfinite(l) for l in losses) and losses[-1] < losses[0], losses
    description = dict(
        houlsby=5, task="classify" if classify else "causal_lm", classes=make.CLASSES if classify else 0, sequences=seqs,
        lr=make.LR, weight_decay=make.DECAY, losses=losses,
        made_with=dict(torch=torch.__version__, transformers=tf.__version__, adapters=adapters.__version__),
    )
    save_file({k: v.float().contiguous() for k, v in tensors.items()}, f"{folder}/houlsby.safetensors")
    os.chmod(f"{folder}/houlsby.safetensors", 0o644)
    json.dump(description, open(f"{folder}/houlsby.json", "w"))
    print(model_name, len(trained), "tensors, loss", losses[0], "->", losses[-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ["llama", "gpt2", "bert"]:
        run(name)
