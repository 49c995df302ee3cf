"""Broken files and folders, and a few intact ones."""

import gzip
import io
import json
import os
import shutil
import sqlite3

import pyarrow
import pyarrow.parquet
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from lmft.dataset.tokenizer import train_tokenizer

TEXT = b"the cat sat on a mat\nand saw one red dog run by\n" * 20
RECORDS = [{"number": number, "text": "the cat sat on a mat"} for number in range(40)]
CHAT = (
    b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n'
)
FILES = {
    "fine.txt": TEXT,
    "fine.csv": b"number,text\n1,the cat\n",
    "semicolons.csv": b"number;text\n1;the cat\n",
    "nested.jsonl": b'{"article": {"body": "the cat"}}\n',
    "empty.txt": b"",
    "one_token.txt": b"a",
    "one_line.txt": b"the cat sat on a mat",
    "picture.png": b"\x89PNG\r\n\x1a\n",
    "nul.txt": TEXT[:100] + b"\0" + TEXT,
    "nul.txt.gz": gzip.compress(TEXT[:100] + b"\0" + TEXT),
    "late_nul.txt": TEXT * 2000 + b"\0",
    "latin1.txt": TEXT[:100] + b"caf\xe9\n" + TEXT,
    "latin1.md": b"caf\xe9\n",
    "latin1.csv": b"number,text\n1,caf\xe9\n",
    "latin1.jsonl": b'{"text": "caf\xe9"}\n',
    "latin1.json": b'[{"text": "caf\xe9"}]',
    "cut_character.txt": TEXT + "\N{CAT FACE}".encode()[:2],
    "utf16.txt": TEXT.decode().encode("utf-16"),
    "utf16_no_bom.txt": TEXT.decode().encode("utf-16-le"),
    "surrogate.txt": TEXT + b"\xed\xa0\x80",
    "nul.jsonl": b'{"text": "fine"}\n{"text": "a\\u0000b"}\n',
    "half.jsonl": b'{"text": "fine"}\n{"text": "\\ud83d"}\n',
    "cut.txt.gz": gzip.compress(os.urandom(4000))[:2000],
    "not.txt.gz": TEXT * 2,
    "not.txt.xz": TEXT * 2,
    "not.txt.zst": TEXT * 2,
    "not.txt.bz2": TEXT * 2,
    "not.arrow": TEXT,
    "open.tsv": b'text\n"open\n',
    "not.parquet": TEXT,
    "broken.jsonl": b'{"text": "fine"}\n{"text": \n',
    "broken.json": b'[{"text": "fine"},',
    "deep.json": b"[" * 100_000,
    "long_number.json": b"[" + b"1" * 5000 + b"]",
    "object.json": b'{"data": [{"text": "fine"}, "text"]}',
    "texts.jsonl": b'"only a text"\n',
    "other.jsonl": b'{"body": "fine", "title": "one"}\n',
    "other.json": b'[{"body": "fine"}]',
    "other.csv": b"number,body\n1,fine\n",
    "numbers.jsonl": b'{"text": 5}\n',
    "returns.csv": b"number,text\r1,fine\r2,more\r",
    "fields.csv": b"number,text\n1,fine\n2,one, two\n",
    "open.csv": b'number,text\n1,fine\n2,"open\n3,more\n',
    "twice.csv": b"text,number,text\na,1,b\n",
    "no_role.jsonl": b'{"messages": [{"content": "a"}]}\n',
    "roles.jsonl": CHAT + CHAT.replace(b"assistant", b"bot"),
    "no_answer.jsonl": b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": ""}\n',
    "chats.jsonl": CHAT * 9,
    "fails.jinja": b"{{ raise_exception('roles must alternate') }}",
    "broken.jinja": b"{% for message in messages %}\n{{ message.content }\n",
    "hides.jinja": b"{% for message in messages %}{{ message.content | reverse }}{% endfor %}",
    "endless.jinja": b"{% for a in range(99999) %}" * 3 + b"{% endfor %}" * 3,
    "conf/experiment/bare.yaml": b"seed: 1\n",
    "conf/experiment/here.yaml": b"# @package _global_\ndefaults:\n  - model: bert_tiny\n",
    "conf/experiment/latin1.yaml": b"# @package _global_\n# caf\xe9\nseed: 1\n",
    "conf/dataset/broken.yaml": b"name: mine\ntrain: [\n",
    "conf/dataset/listed.yaml": b"- 1\n- 2\n",
    "conf/dataset/binary.yaml": b"\xff\xfe\0",
    "conf/optimizer/other.yaml": b"defaults:\n  - adamw\nlearning_rate: 0.1\n",
    "conf/trainer/other.yaml": b"epochs: 3\nepoch: 4\nmax_steps: 2\n",
    "conf/trainer/typed.yaml": b"defaults:\n  - finetune\nepochs: three\n",
    "conf/trainer/few.yaml": b"epochs: 3\nmax_steps: 2\n",
    "conf/experiment/lost.yaml": b"# @package _global_\ndefaults:\n  - override /model: gpt5\n",
    "broken.db": TEXT,
    "masked_run/checkpoint/config.json": b"{}",
    "masked_run/.hydra/config.yaml": (
        b"model: {label: masked, name: any}\n"
        b"objective: {_target_: lmft.objective.MaskedLM, mask_fraction: 0.2}\n"
    ),
}


def write_bad_files(folder):
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "nothing_to_read").mkdir()
    (folder / "folder.txt").mkdir()
    (folder / "unreadable.txt").symlink_to("/proc/self/mem")
    (folder / "dangling.txt").symlink_to(folder / "gone.txt")
    write_parquet(folder)
    write_stores(folder)
    write_models(folder)


def write_parquet(folder):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), buffer)
    content = buffer.getvalue()
    (folder / "fine.parquet").write_bytes(content)
    (folder / "cut.parquet").write_bytes(content[: len(content) // 2])
    bodies = pyarrow.table({"body": ["the cat"], "number": [1]})
    pyarrow.parquet.write_table(bodies, folder / "other.parquet")
    bytes_of = pyarrow.array([b"fine", b"caf\xe9"], pyarrow.binary())
    wrong = pyarrow.Array.from_buffers(pyarrow.string(), 2, bytes_of.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": wrong}), folder / "latin1.parquet")


def write_stores(folder):
    for name, table in {
        "newer.db": "alembic_version (version_num TEXT)",
        "other.db": "customers (name TEXT)",
    }.items():
        with sqlite3.connect(folder / name) as connection:
            connection.execute(f"CREATE TABLE {table}")
            if name == "newer.db":
                connection.execute("CREATE TABLE experiments (name TEXT)")
                connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
        connection.close()


def write_models(folder):
    """A whole model of two layers, and copies with something wrong in them."""
    whole = folder / "model"
    tokenizer = train_tokenizer(iter([TEXT.decode()]), 300)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(whole)
    tokenizer.save_pretrained(whole)
    weights = load_file(whole / "model.safetensors")
    first = "transformer.h.0.attn.c_attn.weight"

    def copy(name):
        return shutil.copytree(whole, folder / name)

    def save(name, changed):
        save_file(changed, copy(name) / "model.safetensors", {"format": "pt"})

    save("lacks_a_weight", {name: weight for name, weight in weights.items() if name != first})
    save("lacks_all", {"other.weight": weights[first].clone()})
    save("wrong_shape", weights | {first: weights[first][:, :8].contiguous()})
    cut = copy("cut_weights") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:5000])
    (copy("text_for_weights") / "model.safetensors").write_bytes(TEXT)
    (copy("no_weights") / "model.safetensors").unlink()
    (copy("pickled") / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    (copy("no_config") / "config.json").unlink()
    (copy("broken_config") / "config.json").write_text("{")
    other = copy("unknown_kind") / "config.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"model_type": "gpt9"}))
    bare = copy("no_tokenizer")
    for path in bare.glob("token*"):
        path.unlink()
    (copy("broken_tokenizer") / "tokenizer.json").write_text("{")
    train_tokenizer(iter(["".join(map(chr, range(0x3B1, 0x3FF))) * 9]), 400).save_pretrained(
        copy("more_tokens")
    )
