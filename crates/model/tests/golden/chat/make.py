"""Conversations rendered by transformers' apply_chat_template, for tests/ckpt_template.rs.

The templates follow well-known formats in our own words and use what such templates use: slices, namespaces, Python's
string methods, white-space control, line-eating blocks, loop variables, tojson, generation blocks, loop controls.
Made with transformers 5.23.0, jinja2 3.1.6:  python make.py > golden.json
"""
import json
from transformers.utils.chat_template_utils import render_jinja_template

T = {}
T["chatml"] = """{% for message in messages %}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{%- endif %}"""

T["llama2"] = """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set system = false %}{% endif %}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('turns must alternate between user and assistant') }}
    {%- endif -%}
    {%- if loop.index0 == 0 and system != false -%}
        {%- set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] -%}
    {%- else -%}
        {%- set content = message['content'] -%}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' -%}
        {{ ' ' + content.strip() + ' ' + eos_token }}
    {%- endif -%}
{%- endfor -%}"""

T["llama3"] = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}{{- "Environment: tools\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\n\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

T["mistral"] = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(users=0) %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- set ns.users = ns.users + 1 %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
{{- "#" ~ ns.users }}"""

T["zephyr"] = """{% for message in messages %}
    {% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
    {% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
    {% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
    {% endif %}
    {% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
    {% endif %}
{% endfor %}"""

T["thinking"] = """{%- set ns = namespace(last=-1, seen=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.seen and message.role == "user" and message.content is string and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.seen = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "assistant" %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- if loop.index0 > ns.last %}{{- '(' + thought.upper() + ')' }}{%- endif %}
        {%- endif %}
    {%- endif %}
    {{- '<' + message.role + '>' + content.replace('a', 'A') + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<assistant>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}
{%- endif %}"""

T["marked"] = """{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- generation %}
{{- message.content + eos_token }}
{%- endgeneration %}
{%- else %}
{{- message.role + ': ' + message.content + '\n' }}
{%- endif %}
{%- endfor %}
{% generation %}
tail
{% endgeneration %}"""

T["json"] = """{% for message in messages %}
{% if loop.index > 3 %}{% break %}{% endif %}
{% if message.role == 'system' %}{% continue %}{% endif %}
{{ message | tojson }}
{{ {'n': loop.index, 'flags': [true, none, 1.5], 'text': message.content[:3]} | tojson(indent=2) }}
{{ loop.first }} {{ none }} {{ message.get('name', 'nobody') }} {{ message.content | length }}
{% endfor %}"""

U = {"role": "user", "content": "  Wie geht's, \"Ägypten\"? <b>&amp;</b>\nline two "}
A = {"role": "assistant", "content": "<think>\nplan a\n</think>\n\nDanke, gut. 你好 "}
S = {"role": "system", "content": "Be brief."}
V = {"role": "user", "content": "and now?"}
conversations = {"one": [U], "turns": [S, U, A, V], "ended": [U, A], "wrong": [U, V]}
special = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
cases = []
for name, template in T.items():
    for which, messages in conversations.items():
        for prompt in (False, True):
            try:
                text = render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt, **special)[0][0]
            except Exception as e:
                text = None
            cases.append(dict(template=name, conversation=which, prompt=prompt, text=text))
print(json.dumps(dict(templates=T, conversations=conversations, cases=cases), ensure_ascii=False, indent=1))
