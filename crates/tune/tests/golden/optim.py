"""Writes optim.json: trajectories of torch's optimisers under clipping, and transformers' schedules.

Made with torch 2.15, transformers 5.23: python optim.py > optim.json
"""
import json

import torch
from transformers import get_scheduler

STEPS = 6
THETA = [0.5, -1.25, 2.0, 0.03125, -0.75, 1.5, -3.0]
GRADS = [[(((i * 7 + j * 5) % 11) - 5) / 8 * (1 + i) for j in range(len(THETA))] for i in range(STEPS)]
LRS = [0.1, 0.1, 0.05, 0.05, 0.02, 0.01]

OPTIMIZERS = [
    ("adamw", dict(), None),
    ("adamw", dict(weight_decay=0.1, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-3), 1.0),
    ("sgd", dict(), None),
    ("sgd", dict(momentum=0.9), 2.5),
    ("sgd", dict(momentum=0.5, weight_decay=0.25), 0.5),
]

SCHEDULES = [("constant", "constant_with_warmup", None), ("linear", "linear", None), ("cosine", "cosine", None),
             ("cosine", "cosine_with_min_lr", 0.2)]


def optimizer(kind, s, theta):
    if kind == "sgd":
        return torch.optim.SGD([theta], lr=1.0, **s)
    return torch.optim.AdamW([theta], lr=1.0, weight_decay=s.get("weight_decay", 0.0),
                             betas=(s.get("adam_beta1", 0.9), s.get("adam_beta2", 0.999)),
                             eps=s.get("adam_epsilon", 1e-8))


def trajectory(kind, settings, max_norm):
    theta = torch.nn.Parameter(torch.tensor(THETA, dtype=torch.float32))
    opt = optimizer(kind, settings, theta)
    thetas, norms = [], []
    for grad, lr in zip(GRADS, LRS):
        theta.grad = torch.tensor(grad, dtype=torch.float32)
        if max_norm is not None:
            norms.append(torch.nn.utils.clip_grad_norm_([theta], max_norm).item())
        opt.param_groups[0]["lr"] = lr
        opt.step()
        thetas.append(theta.tolist())
    return dict(id=kind, settings=settings, max_norm=max_norm, norms=norms, theta=thetas)


def schedule(ours, theirs, floor, total=12, warmup=3):
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    extra = {} if floor is None else dict(scheduler_specific_kwargs=dict(min_lr_rate=floor))
    s = get_scheduler(theirs, opt, num_warmup_steps=warmup, num_training_steps=total, **extra)
    factors = []
    for _ in range(total):
        factors.append(s.get_last_lr()[0])
        opt.step()
        s.step()
    return dict(id=ours, min_ratio=floor, total=total, warmup=warmup, factor=factors)


print(json.dumps(dict(
    start=THETA, grads=GRADS, lrs=LRS,
    optimizers=[trajectory(*o) for o in OPTIMIZERS], schedules=[schedule(*s) for s in SCHEDULES])))
