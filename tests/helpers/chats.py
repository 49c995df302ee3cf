"""Chats made by a script, and templates in the shapes of well-known ones."""

import json
import random
from pathlib import Path

MARKS = ("{% generation %}", "{% endgeneration %}")
# Each has what the assistant says between `<<` and `>>`, which become generation marks or nothing.
SHAPES = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% if message['role'] == 'assistant' %}<<{{ message['content'] + '<|im_end|>' }}>>"
        "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{% if message['role'] == 'assistant' %}<<{{ message['content'] | trim + '<|eot_id|>' }}>>"
        "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (  # no system message, no generation prompt, and roles must alternate
        "{{ bos_token }}{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% else %}<<{{ ' ' + message['content'] + eos_token }}>>{% endif %}{% endfor %}"
    ),
    "gemma": (  # the assistant is called model
        "{{ bos_token }}{% for message in messages %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\\n' }}"
        "{% if role == 'model' %}<<{{ message['content'] | trim + '<end_of_turn>' }}>>"
        "{% else %}{{ message['content'] | trim + '<end_of_turn>' }}{% endif %}{{ '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "zephyr": (  # white space of the template itself is part of the text
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n"
        "{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\\n' }}<<{{ message['content'] + eos_token }}>>"
        "{{ '\\n' }}"  # where marks end, jinja takes a line end away
        "{% endif %}\n{% if loop.last and add_generation_prompt %}\n"
        "{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
    ),
    "qwen3": (  # only the last answer has its thoughts
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% if message['role'] == 'assistant' %}<<"
        "{% if loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
        "{{ message['content'] + '<|im_end|>' }}>>"
        "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "bare": (  # a line end is all that ends a turn
        "{% for message in messages %}{{ message['role'] + ': ' }}"
        "{% if message['role'] == 'assistant' %}<<{{ message['content'] + '\\n' }}>>"
        "{% else %}{{ message['content'] + '\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    ),
}
WORDS = (
    "the little cat saw a big red dog > and ran home; Lily's mom said: é 日本 no\n\nyes  <b>".split(
        " "
    )
)


def template(name: str, marks: bool = False) -> str:
    """A template of SHAPES, with or without generation marks."""
    opening, closing = MARKS if marks else ("", "")
    return SHAPES[name].replace("<<", opening).replace(">>", closing)


def write_chats(path: Path, count: int = 200) -> list[list[dict]]:
    """Write a corpus of dialogues as JSON lines; returns their messages."""
    rng = random.Random(0)

    def said() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 9))) + rng.choice([".", ">", " .\n"])

    chats = []
    for number in range(count):
        system = [{"role": "system", "content": "Be kind."}] if number % 3 == 0 else []
        turns = [
            {"role": role, "content": said()}
            for _ in range(rng.randint(1, 3))
            for role in ("user", "assistant")
        ]
        chats.append([*system, *turns])
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return chats
