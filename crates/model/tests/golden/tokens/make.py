"""Token ids by transformers' AutoTokenizer for the shared tokenizers, for tests/ckpt_tokenizer.rs.

Made with transformers 5.23.0, tokenizers 0.23.3:  python make.py SHARED_DATA_DIR > golden.json
"""
import json, sys
from transformers import PreTrainedTokenizerFast

texts = ["One day, a girl.", "  two  spaces and\ttab\n\nlines ", "Ägypten 你好 🙂 naïve", "", "<s> is written</s>", "x"]
out = {}
for name in ["models/stories260k-hf", "models/tinystories-656k", "tokenizers/gpt2", "tokenizers/llama2"]:
    t = PreTrainedTokenizerFast(tokenizer_file=f"{sys.argv[1]}/{name}/tokenizer.json")
    out[name] = [dict(text=x, plain=t.encode(x, add_special_tokens=False), special=t.encode(x),
                      back=t.decode(t.encode(x, add_special_tokens=False), clean_up_tokenization_spaces=False))
                 for x in texts]
print(json.dumps(out, ensure_ascii=False, indent=1))
