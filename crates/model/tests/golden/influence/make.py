"""Block influence by PyTorch and transformers: 1 - mean cosine between what a layer is given and what it gives.

    python make.py SHARED/data/models        # writes influence.json beside itself

Two models: stories260k (Llama) from the shared folder, and a small random BERT, whose weights are in the file. Streams are
those of hooks at the layers, in binary64, so the last one is before the norm before the head. Sequences are run one by one;
means are over all of their tokens.
"""

import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel

torch.manual_seed(9)
torch.set_default_dtype(torch.float64)


def first(x):
    return x[0] if isinstance(x, tuple) else x


def influence(model, layers, sequences):
    sums, tokens = [0.0] * len(layers), 0

    def hook(index):
        def note(_, given, gave):
            x, y = first(given)[0], first(gave).reshape(-1, first(given).shape[-1])
            sums[index] += float((1 - torch.nn.functional.cosine_similarity(x, y, dim=-1, eps=0)).sum())

        return note

    hooks = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
    with torch.no_grad():
        for ids in sequences:
            model(torch.tensor([ids]))
            tokens += len(ids)
    for h in hooks:
        h.remove()
    return [s / tokens for s in sums]


stories = AutoModelForCausalLM.from_pretrained(pathlib.Path(sys.argv[1]) / "stories260k-hf", attn_implementation="eager").double()
story_ids = [[1, 403, 407, 261, 378, 269, 311, 290], [1, 274, 431, 277], [1, 360, 450, 433, 330, 12, 75]]

bert = BertModel(
    BertConfig(
        vocab_size=23, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=12, max_position_embeddings=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
    ),
    add_pooling_layer=False,
).double()
with torch.no_grad():
    for name, p in bert.named_parameters():
        gain = name.endswith("LayerNorm.weight")
        p.copy_(torch.round((torch.randn_like(p) * 0.3 + gain) * 1e4) / 1e4)
bert_ids = [[3, 11, 7, 2, 18], [5, 20, 1, 1, 9, 14, 6], [22]]

golden = {
    "stories260k": {"sequences": story_ids, "influence": influence(stories, stories.model.layers, story_ids)},
    "bert": {
        "sequences": bert_ids,
        "tensors": {n: [round(v, 4) for v in p.flatten().tolist()] for n, p in bert.named_parameters()},
        "influence": influence(bert, bert.encoder.layer, bert_ids),
    },
}
path = pathlib.Path(__file__).with_name("influence.json")
path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
