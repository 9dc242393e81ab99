"""Writes blocks.json: every block, forward and all gradients, as PyTorch, transformers and peft compute it.

    python blocks.py        # made with torch 2.x on a CPU; the versions are written into the file

Inputs are decimals of three digits, read as binary32 by both sides. Blocks run in binary64, so that the file holds the
true numbers to nine digits; optimisers run in binary32, as they do in training. All shapes are non-square.
"""

import json
import pathlib

import peft
import torch
import torch.nn.functional as F
import transformers
from peft.tuners.lora import Linear as LoraLinear
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.pytorch_utils import Conv1D

torch.manual_seed(7)
cases = {}


def draw(*shape, scale=1.0):
    """Decimals of three digits, as binary64 holds the binary32 nearest to them."""
    x = (torch.randn(*shape) * scale * 1000).round() / 1000
    return x.float().double().requires_grad_()


def numbers(x, digits):
    return [float(f"{v:.{digits}g}") for v in x.detach().double().flatten().tolist()]


def case(name, inputs, y, outputs=(), gradients=None, **dims):
    """Records inputs, y, and the gradients of (y * dy).sum() for a random dy."""
    dy = draw(*y.shape).detach()
    gradients = inputs if gradients is None else gradients
    grads = torch.autograd.grad((y * dy).sum(), list(gradients.values()))
    cases[name] = {
        "dims": dims,
        "in": {k: numbers(v, 7) for k, v in inputs.items()} | {"dy": numbers(dy, 7)},
        "out": {"y": numbers(y, 9)}
        | {k: numbers(v, 9) for k, v in dict(outputs).items()}
        | {f"d{k}": numbers(g, 9) for k, g in zip(gradients, grads)},
    }


# ---- elementwise --------------------------------------------------------------------------------------------------
x = draw(23, scale=2.0)
case("tanh", {"x": x}, torch.tanh(x))
case("gelu_erf", {"x": x}, F.gelu(x))
case("gelu_tanh", {"x": x}, F.gelu(x, approximate="tanh"))
gate, up = draw(19, scale=2.0), draw(19)
case("swiglu", {"gate": gate, "up": up}, F.silu(gate) * up)

# ---- normalisation ------------------------------------------------------------------------------------------------
x, w, b = draw(3, 10), draw(10), draw(10)
case("rms_norm", {"x": x, "w": w}, F.rms_norm(x, (10,), w, 1e-5), width=10)
case("layer_norm", {"x": x, "w": w, "b": b}, F.layer_norm(x, (10,), w, b, 1e-5), width=10)

# ---- embedding ----------------------------------------------------------------------------------------------------
table, ids = draw(6, 5), torch.tensor([4, 1, 4, 0])
case("embedding", {"table": table}, F.embedding(ids, table), width=5, ids=ids.tolist())

# ---- linear -------------------------------------------------------------------------------------------------------
x, w, b = draw(4, 5), draw(7, 5), draw(7)
case("linear", {"x": x, "w": w, "b": b}, F.linear(x, w, b), d_in=5, d_out=7)
conv = Conv1D(7, 5).double()
with torch.no_grad():
    conv.weight.copy_(draw(5, 7)), conv.bias.copy_(draw(7))
case("linear_conv1d", {"x": x, "w": conv.weight, "b": conv.bias}, conv(x), d_in=5, d_out=7)

base = torch.nn.Linear(5, 7, bias=False).double()
lora = LoraLinear(base, "default", peft.LoraConfig(), r=3, lora_alpha=5).double()
a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
with torch.no_grad():
    base.weight.copy_(draw(7, 5)), a.copy_(draw(3, 5)), b.copy_(draw(7, 3))
inputs = {"x": x, "a": a, "b": b}
case("lora", inputs | {"w": base.weight}, lora(x), gradients=inputs, d_in=5, d_out=7, rank=3, scale=5 / 3)

# ---- attention ----------------------------------------------------------------------------------------------------
heads, head_dim = 3, 6
x, positions = draw(1, 4, heads, head_dim), torch.tensor([[0, 5, 2, 7]])
angles = torch.outer(torch.arange(8).double(), 10000.0 ** (-torch.arange(0, head_dim, 2).double() / head_dim))
cos, sin = (t.float().double() for t in (angles.cos(), angles.sin()))
full = lambda t: torch.cat([t, t], -1)[positions]
y, _ = apply_rotary_pos_emb(x, x, full(cos), full(sin), unsqueeze_dim=2)
case("rope", {"x": x}, y, heads=heads, head_dim=head_dim, positions=positions[0].tolist(), table=numbers(torch.cat([cos, sin], -1), 9))


def attention(name, lengths, causal, window, padding=0, cached=0, heads=4, kv_heads=2, head_dim=4):
    """Sequences packed one after another, then padding; `cached` more keys than queries in each."""
    n_q, n_k = sum(lengths) + padding, sum(lengths) + cached * len(lengths) + padding
    q, k, v = draw(n_q, heads, head_dim), draw(n_k, kv_heads, head_dim), draw(n_k, kv_heads, head_dim)
    rows, segments, q_at, k_at = [], [], 0, 0
    for q_len in lengths:
        k_len = q_len + cached
        i, j = torch.arange(q_len)[:, None] + cached, torch.arange(k_len)[None, :]
        mask = torch.ones(q_len, k_len, dtype=torch.bool)
        if causal:
            mask &= j <= i
        if window is not None:
            mask &= (j <= i) & (i - j < window)
        part = lambda t, at, n: t[at : at + n].transpose(0, 1)[None]
        y = F.scaled_dot_product_attention(
            part(q, q_at, q_len), part(k, k_at, k_len), part(v, k_at, k_len), attn_mask=mask, enable_gqa=True
        )
        rows.append(y[0].transpose(0, 1))
        segments.append([q_at, q_len, k_at, k_len])
        q_at, k_at = q_at + q_len, k_at + k_len
    y = torch.cat(rows + [torch.zeros(padding, heads, head_dim, dtype=torch.double)])
    dims = dict(heads=heads, kv_heads=kv_heads, head_dim=head_dim, causal=causal, window=window, segments=segments)
    case(f"attention_{name}", {"q": q, "k": k, "v": v}, y, **dims)


attention("causal", [7], True, None)
attention("bidirectional", [6], False, None, heads=3, kv_heads=1)
attention("window", [8], True, 3)
attention("varlen", [3, 1, 4], True, None, padding=2)
attention("cached", [2, 1], True, None, cached=4, kv_heads=4)

# ---- losses -------------------------------------------------------------------------------------------------------
logits, labels = draw(4, 9, scale=2.0), torch.tensor([3, 0, 8, 3])
nll = F.cross_entropy(logits, labels, reduction="none")
case("cross_entropy", {"logits": logits}, nll, classes=9, labels=labels.tolist())
h, w = draw(4, 5), draw(9, 5)
nll = F.cross_entropy(F.linear(h, w), labels, reduction="none")
case("linear_cross_entropy", {"h": h, "w": w}, nll, d_in=5, classes=9, labels=labels.tolist())


# ---- optimisers ---------------------------------------------------------------------------------------------------
def optimiser(name, make, state, **dims):
    theta = torch.nn.Parameter(draw(13).detach().float())
    start, grads = numbers(theta, 7), []
    optim = make([theta])
    for _ in range(10):
        theta.grad = draw(13).detach().float()
        grads.append(numbers(theta.grad, 7))
        optim.step()
    out = {"theta": theta} | {name: optim.state[theta][key] for name, key in state.items()}
    cases[name] = {
        "dims": dims,
        "in": {"theta": start, "grads": sum(grads, [])},
        "out": {k: numbers(v, 9) for k, v in out.items()},
    }


hyper = dict(lr=0.01, weight_decay=0.1)
optimiser(
    "adamw",
    lambda p: torch.optim.AdamW(p, betas=(0.9, 0.999), eps=1e-8, foreach=False, **hyper),
    {"m": "exp_avg", "v": "exp_avg_sq"},
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    **hyper,
)
optimiser(
    "sgd",
    lambda p: torch.optim.SGD(p, momentum=0.9, foreach=False, **hyper),
    {"b": "momentum_buffer"},
    momentum=0.9,
    **hyper,
)

made_with = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
text = json.dumps({"made_with": made_with, "cases": cases}, separators=(",", ":")).replace("},", "},\n")
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
