"""Writes quantised.json: int8 as PyTorch and NF4 as bitsandbytes quantise it, on a CPU.

    python quantised.py        # torch 2.x, bitsandbytes 0.50

Values are decimals of three digits, read as binary32 by both sides; 200 of them: three blocks of 64 and one of 8. The last element of the
second block is its largest and negative; the third block is zeros.
"""

import json
import pathlib

import bitsandbytes.functional as bnb
import torch

torch.manual_seed(11)
x = (torch.randn(200) * 1000).round() / 1000
x[127] = -9.5
x[128:192] = 0.0
blocks = torch.cat([x, torch.zeros(56)]).view(4, 64)

scales = blocks.abs().amax(1) / 127
safe = torch.where(scales > 0, scales, torch.ones(()))
int8 = torch.quantize_per_channel(blocks, safe.double(), torch.zeros(4, dtype=torch.long), 0, torch.qint8)

codes, state = bnb.quantize_4bit(x, blocksize=64, quant_type="nf4")
out = {
    "versions": {"torch": torch.__version__, "bitsandbytes": __import__("bitsandbytes").__version__},
    "values": [round(v, 3) for v in x.tolist()],
    "int8": {
        "codes": int8.int_repr().flatten()[:200].tolist(),
        "scales": [float(f"{s:.9g}") for s in scales.tolist()],
        "widened": [float(f"{v:.9g}") for v in int8.dequantize().flatten()[:200].tolist()],
    },
    "nf4": {
        "codes": codes.flatten().tolist(),
        "scales": [float(f"{s:.9g}") for s in state.absmax.tolist()],
        "widened": [float(f"{v:.9g}") for v in bnb.dequantize_4bit(codes, state).flatten().tolist()],
    },
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n")
