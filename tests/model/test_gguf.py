"""Models and tokenizers as GGUF files, read back by transformers."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmft.errors import UserError
from lmft.model.gguf import write_gguf
from tests.helpers.architectures import build_tiny

QUICK = [
    "dataset.block_size=16",
    "trainer.max_steps=2",
    "hardware.micro_batch_size=32",
    "model.config={n_layer:2,n_positions:64}",
]


def check_read_back(source, file, text, **settings):
    """What transformers reads from the file has the same tokens and logits as the folder."""
    expected, found = (
        AutoTokenizer.from_pretrained(source),
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name),
    )
    ids = expected(text)["input_ids"]
    assert found(text)["input_ids"] == ids and found.decode(ids) == expected.decode(ids)
    there = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    here = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **settings)
    block = torch.tensor([ids[:60]])
    with torch.no_grad():
        torch.testing.assert_close(here(block).logits, there(block).logits, atol=1e-3, rtol=0)


def test_a_llama_is_read_back(stories, wikitext, command, tmp_path):
    code, printed, complaint = command(f"export {stories} out=.")
    file = tmp_path / "stories260k.gguf"
    assert (code, complaint) == (0, "") and printed == f"1.1 MB  {file}\n"
    text = (wikitext / "test.txt").read_text()[:20_000].strip()
    # After a special token transformers adds no space to what it reads; llama.cpp and lmft do.
    check_read_back(stories, file, text.replace("<unk>", "naïve 你好"))
    command(f"export {stories} out=other.gguf")
    assert (tmp_path / "other.gguf").read_bytes() == file.read_bytes()


def test_a_gpt2_run_is_read_back(fit, corpus, command, tmp_path):
    folder = fit(*corpus, *QUICK, "dataset.separator=model")
    code, _, complaint = command(f"export {folder} format=gguf")
    assert (code, complaint) == (0, "")
    file = tmp_path / "runs" / f"{folder.name}.gguf"
    text = "The if statement of 1984, they're said: \n\n naïve 你好 <unk>"
    # transformers reads a GPT-2's number of positions under another name, and takes 1024.
    check_read_back(folder / "checkpoint", file, text, n_positions=64)
    assert command("clean yes=true")[0] == 0 and file.exists()


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        ("bert", {}, "of the types llama and gpt2, not bert; transformers loads"),
        ("mistral", {}, "not mistral"),
        ("llama", {"attention_bias": True}, "llama models with attention_bias=False, not True"),
        ("gpt2", {"activation_function": "relu"}, "with activation_function=gelu_new, not relu"),
        ("gpt2", {"n_inner": 40}, "n_inner=None, not 40"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "llama models with rope_type=default, not linear",
        ),
    ],
)
def test_what_gguf_cannot_hold_is_refused_by_name(kind, settings, sentence, tmp_path):
    config = build_tiny(kind).config
    for name, value in settings.items():
        setattr(config, name, value)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=sentence):
        write_gguf(tmp_path, tmp_path / "out.gguf", "label")
    assert not list(tmp_path.glob("*gguf*"))


def test_a_tokenizer_that_gguf_cannot_hold_is_refused(command, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    build_tiny("gpt2").save_pretrained(tmp_path / "model")
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "model")
    code, _, complaint = command("export model")
    assert code == 2 and "not this one (WordPiece, None)" in complaint
    assert not list(tmp_path.glob(".*"))
