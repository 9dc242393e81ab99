"""Loss and gradients of aligning an emulator with its model, by PyTorch and transformers.

    python make.py        # writes align.json beside itself

A Llama of six layers is the teacher. The student keeps layers 0, 1, 4 and 5 of it; 1 and 4 are the middle, which is trained,
here from values a little off the teacher's. Terms, on labelled rows (next token) of unpadded sequences:

    w_lm   mean cross-entropy of the student
    w_hid  mean over taps of mean(((h_T - h_S) / rms(h_T))^2), rms over all rows of the batch
    w_kl   mean KL(teacher || student)

Taps: the stream after student blocks 2 and 3, against the teacher's after blocks 4 and 5; "end" has the last alone.
"""

import json
import pathlib

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(5)
torch.set_default_dtype(torch.float64)
KEPT, MIDDLE = [0, 1, 4, 5], [1, 4]
config = dict(
    vocab_size=19, hidden_size=8, intermediate_size=12, num_attention_heads=2, num_key_value_heads=1, head_dim=4,
    max_position_embeddings=32, rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=False, attn_implementation="eager",
)
teacher = LlamaForCausalLM(LlamaConfig(num_hidden_layers=6, **config)).double()
student = LlamaForCausalLM(LlamaConfig(num_hidden_layers=4, **config)).double()
with torch.no_grad():
    for p in teacher.parameters():
        p.copy_((torch.randn_like(p) * 0.4 + (1.0 if p.dim() == 1 else 0.0)).float())
    own = dict(teacher.named_parameters())
    for name, p in student.named_parameters():
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(KEPT[int(parts[2])])
        p.copy_(own[".".join(parts)])
    for i, layer in enumerate(KEPT):
        if layer in MIDDLE:
            for p in student.model.layers[i].parameters():
                p.add_((0.1 * torch.randn_like(p)).float())
                p.copy_(p.float())

sequences = [[3, 11, 7, 2, 18, 5, 9], [4, 4, 16, 1], [12, 0, 8, 13, 6]]


def streams(model, ids):
    """The residual stream after each block, and logits."""
    kept = []
    hooks = [l.register_forward_hook(lambda m, i, o: kept.append((o[0] if isinstance(o, tuple) else o)[0])) for l in model.model.layers]
    logits = model(torch.tensor([ids[:-1]])).logits[0]
    for h in hooks:
        h.remove()
    return kept, logits


def loss(lm, hidden, kl, joints):
    nll, apart, rows, h_s, h_t = 0.0, 0.0, 0, [[] for _ in joints], [[] for _ in joints]
    for ids in sequences:
        with torch.no_grad():
            theirs, t = streams(teacher, ids)
        mine, s = streams(student, ids)
        labels = torch.tensor(ids[1:])
        nll = nll + torch.nn.functional.cross_entropy(s, labels, reduction="sum")
        logs, logt = s.log_softmax(-1), t.log_softmax(-1)
        apart = apart + torch.nn.functional.kl_div(logs, logt, reduction="sum", log_target=True)
        rows += len(labels)
        for j, (a, b) in enumerate(joints):
            h_s[j].append(mine[a - 1])
            h_t[j].append(theirs[b - 1])
    terms = []
    for a, b in zip(h_s, h_t):
        a, b = torch.cat(a), torch.cat(b)
        rms = b.pow(2).mean().sqrt()
        terms.append(((b - a) / rms).pow(2).mean())
    return lm * nll / rows + hidden * sum(terms) / len(terms) + kl * apart / rows


def floats(t, digits=9):
    return [float(f"{v:.{digits}g}") for v in t.detach().flatten().tolist()]


cases = []
for name, weights, joints in [
    ("offsite_tuning", (1.0, 30.0, 0.0), [(3, 5)]),
    ("kl", (0.0, 0.0, 1.0), [(3, 5)]),
    ("all", (0.5, 3.0, 0.9), [(2, 4), (3, 5)]),
]:
    student.zero_grad()
    value = loss(*weights, joints)
    value.backward()
    grads = {}
    for i, layer in enumerate(KEPT):
        if layer in MIDDLE:
            for n, p in student.model.layers[i].named_parameters():
                grads[f"model.layers.{layer}.{n}"] = floats(p.grad, 6)
    cases.append({"name": name, "terms": weights, "taps": len(joints), "loss": float(value.detach()), "grads": grads})

middle = {}
for i, layer in enumerate(KEPT):
    if layer in MIDDLE:
        for n, p in student.model.layers[i].named_parameters():
            middle[f"model.layers.{layer}.{n}"] = floats(p)
out = {
    "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
    "sequences": sequences,
    "tensors": {n: floats(p) for n, p in teacher.named_parameters()},
    "middle": middle,
    "cases": cases,
}
path = pathlib.Path(__file__).with_name("align.json")
path.write_text(json.dumps(out, separators=(",", ":")).replace('],"', '],\n"') + "\n")
