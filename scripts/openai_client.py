"""The real `openai` client, `curl`, and torch against `antiphon serve`.

    python3 scripts/openai_client.py [--antiphon target/release/antiphon] [--model assets/base]

Needs `pip install openai`; with torch and safetensors it also sends input vectors as vLLM's users do. Starts the server on
a free port with a key, asks every endpoint in every way, compares the ways with one another, and exits with 1 at the first
difference.
"""

import argparse
import base64
import io
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-local-check"


def check(name, truth):
    print(f"{'ok  ' if truth else 'FAIL'} {name}")
    if not truth:
        sys.exit(1)


def completions(client, model):
    ask = lambda **k: client.completions.create(model=model, **k)
    greedy = ask(prompt="Once upon a time", max_tokens=12, temperature=0, logprobs=5)
    choice = greedy.choices[0]
    check("completion: text, usage, fingerprint", choice.text and greedy.usage.completion_tokens > 0 and greedy.system_fingerprint)
    check("completion: lists of one length", len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset))
    check("completion: greedy takes the likeliest", all(math.isclose(max(t.values()), lp) for t, lp in zip(choice.logprobs.top_logprobs, choice.logprobs.token_logprobs)))

    streamed = list(ask(prompt="Once upon a time", max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}))
    check("completion: a stream says the same", "".join(c.choices[0].text for c in streamed if c.choices) == choice.text)
    check("completion: usage at the end of the stream", streamed[-1].usage == greedy.usage)

    echo = ask(prompt="Once upon a time", max_tokens=0, echo=True, logprobs=2)
    scores = echo.choices[0].logprobs.token_logprobs
    check("completion: echo scores the prompt alone", scores[0] is None and all(s < 0 for s in scores[1:]) and echo.usage.completion_tokens == 0)
    vllm = ask(prompt="Once upon a time", max_tokens=1, extra_body={"prompt_logprobs": 0})
    listed = vllm.choices[0].model_extra["prompt_logprobs"]
    check("completion: prompt_logprobs are the same numbers", [next(iter(p.values()))["logprob"] for p in listed[1:]] == scores[1:])

    two = ask(prompt=["A dog", "A cat"], n=2, max_tokens=4, seed=3)
    check("completion: two prompts, two choices each", [c.index for c in two.choices] == [0, 1, 2, 3])
    with ThreadPoolExecutor(16) as pool:
        same = list(pool.map(lambda i: ask(prompt="A dog", n=2, max_tokens=4, seed=3).choices, range(32)))
    check("completion: 32 requests at once, one answer", all([c.text for c in s] == [c.text for c in two.choices[:2]] for s in same))
    stop = ask(prompt="Once upon a time", max_tokens=12, temperature=0, stop=[choice.text[4:7]])
    check("completion: a stop text", stop.choices[0].text == choice.text[: choice.text.index(choice.text[4:7])] and stop.choices[0].finish_reason == "stop")


def chat(client, model):
    ask = lambda **k: client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Say hello."}], **k)
    whole = ask(max_tokens=10, temperature=0, logprobs=True, top_logprobs=3)
    content = whole.choices[0].logprobs.content
    check("chat: message, logprobs", whole.choices[0].message.role == "assistant" and all(len(t.top_logprobs) == 3 for t in content))
    streamed = ask(max_tokens=10, temperature=0, stream=True)
    check("chat: a stream says the same", "".join(c.choices[0].delta.content or "" for c in streamed) == whole.choices[0].message.content)


def errors(client, url, model):
    def raises(kind, call):
        try:
            call()
        except kind as e:
            return e
        return None

    ask = lambda **k: client.completions.create(**{"model": model, "prompt": "a", "max_tokens": 1, **k})
    check("error: NotFoundError for another model", raises(openai.NotFoundError, lambda: ask(model="other")))
    bad = raises(openai.BadRequestError, lambda: ask(temperature=-1))
    check("error: BadRequestError names the parameter", bad and bad.param == "temperature")
    long = raises(openai.BadRequestError, lambda: ask(max_tokens=10**6))
    check("error: context_length_exceeded", long and long.code == "context_length_exceeded")
    stranger = openai.OpenAI(base_url=url, api_key="sk-other", max_retries=0)
    check("error: AuthenticationError for a wrong key", raises(openai.AuthenticationError, stranger.models.list))


def vectors(client, url, model, directory):
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError:
        print("skipped: vectors (no torch or safetensors)")
        return
    table = load_file(directory / "model.safetensors")["model.embed_tokens.weight"]
    body = json.dumps({"prompt": "Once upon a time"}).encode()
    request = urllib.request.Request(url.removesuffix("/v1") + "/tokenize", body, {"Authorization": f"Bearer {KEY}"})
    ids = json.load(urllib.request.urlopen(request))["tokens"]

    def packed(tensor):
        buffer = io.BytesIO()
        torch.save(tensor, buffer)
        return base64.b64encode(buffer.getvalue()).decode()

    ask = lambda **k: client.completions.create(model=model, max_tokens=8, temperature=0, logprobs=2, **k).choices[0]
    by_ids = ask(prompt=ids)
    rows = table[ids].contiguous()
    by_rows = ask(prompt=None, extra_body={"prompt_embeds": packed(rows)})
    check("vectors: prompt_embeds of the table are the tokens", by_rows.logprobs.token_logprobs == by_ids.logprobs.token_logprobs)
    mixed = ask(prompt=ids[2:], extra_body={"soft_prompt": packed(rows[:2].contiguous())})
    check("vectors: soft_prompt before tokens", mixed.logprobs.token_logprobs == by_ids.logprobs.token_logprobs)


def curl(url, model):
    if not shutil.which("curl"):
        print("skipped: curl (not installed)")
        return
    run = lambda *a: subprocess.run(["curl", "-sS", "-m", "60", *a], capture_output=True, text=True, check=True).stdout
    auth = ["-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json"]
    check("curl: models", json.loads(run(*auth, f"{url}/models"))["data"][0]["id"] == model)
    body = json.dumps({"model": model, "prompt": "A dog", "max_tokens": 4, "stream": True})
    lines = run("-N", *auth, "-d", body, f"{url}/completions").strip().split("\n\n")
    check("curl: a stream", lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1]))
    check("curl: no key, no answer", "invalid_api_key" in run(f"{url}/models"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--antiphon", default=str(ROOT / "target/release/antiphon"))
    parser.add_argument("--model", type=Path, default=ROOT / "assets/base")
    args = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".key") as key:
        key.write(KEY + "\n")
        key.flush()
        command = [args.antiphon, "serve", str(args.model), "--listen", "127.0.0.1:0", "--api-key-file", key.name]
        command += ["--enable-prompt-embeds", "--json", "--chat-template", "chatml"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            about = json.loads(server.stdout.readline())
            url, model = about["url"], about["model"]
            client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
            check("models: listed and found", client.models.list().data[0].id == client.models.retrieve(model).id == model)
            completions(client, model)
            chat(client, model)
            errors(client, url, model)
            vectors(client, url, model, args.model)
            curl(url, model)
        finally:
            server.send_signal(signal.SIGINT)
            code = server.wait(timeout=60)
        check("Ctrl+C ends the server in order", code == 0)


if __name__ == "__main__":
    main()
