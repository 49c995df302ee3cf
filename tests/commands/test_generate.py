"""`lmft generate`: a text is continued, or its masks are filled."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

QUICK = [
    "dataset.block_size=16",
    "model.dropout=0",
    "trainer.evaluate_every=99",
    "hardware.micro_batch_size=32",
    "trainer.epochs=40",
    "trainer.max_steps=50",
    "optimizer.lr=0.003",
]


@pytest.fixture
def generate(command, capsys):
    def run(folder, words):
        capsys.readouterr()  # what training said
        code, printed, complaint = command(f"generate run={folder} hardware=cpu {words}")
        assert (code, complaint) == (0, "")
        return printed

    return run


def test_a_text_is_continued_as_transformers_does(stories, command):
    words = f"generate model=pretrained model.name={stories} hardware=cpu hardware.precision=fp32"
    for prompt in (
        "The little girl",
        "Once",
        "She said",
    ):  # SentencePiece: the next word has a space
        printed = command(f"{words} prompt='{prompt}' temperature=0 tokens=12")[1]
        tokenizer = AutoTokenizer.from_pretrained(stories)
        model = AutoModelForCausalLM.from_pretrained(stories)
        ids = model.generate(
            **tokenizer(prompt, return_tensors="pt"), do_sample=False, max_new_tokens=12
        )
        assert printed == tokenizer.decode(ids[0], skip_special_tokens=True) + "\n"


def test_a_text_is_continued_as_the_seed_decides(fit, corpus, generate, command):
    folder = fit(*corpus, *QUICK, "model.config={n_layer:1}")
    greedy = generate(folder, "prompt='and saw one' temperature=0 tokens=5")
    assert greedy.startswith("and saw one red dog")
    hot = "prompt='the cat' temperature=2 tokens=20"
    assert generate(folder, hot) == generate(folder, hot)
    assert generate(folder, hot) != generate(folder, f"{hot} seed=1")
    assert generate(folder, "tokens=3").strip()  # a new document, after the separator
    for words, complaint in {
        "prompt=a tokens=600": "set tokens=",
        "prompt=a tokens=x": "tokens must be a number",
        "prompt=a top_p=0": "top_p must be a number",
        "prompt=a temperature=nan": "temperature must be a number",
        "prompt=a tokenz=3": "no knob 'tokenz'",
    }.items():
        code, _, said = command(f"generate run={folder} hardware=cpu {words}")
        assert code == 2 and complaint in said and said.count("\n") == 1


@pytest.mark.parametrize("separator", ["eos", "model"])
def test_a_checkpoint_continues_a_text_in_transformers_as_here(
    separator, fit, corpus, generate, command
):
    more = [*QUICK, "model.config={n_layer:1}", f"dataset.separator={separator}"]
    folder = fit(*corpus, *more)
    here = generate(folder, "prompt='and saw one' temperature=0 tokens=9 hardware.precision=fp32")
    pipe = pipeline("text-generation", model=str(folder / "checkpoint"))
    (there,) = pipe("and saw one", do_sample=False, max_new_tokens=9)
    assert here == there["generated_text"] + "\n" and " dog" in here
    assert "</s>" not in pipe.tokenizer.convert_ids_to_tokens(pipe.tokenizer("the cat").input_ids)
    assert "known already" in command(f"evaluate run={folder} hardware=cpu tracker=none")[1]


def test_masks_are_filled_with_the_likeliest_tokens(fit, corpus, generate, command):
    folder = fit(*corpus, *QUICK, "objective=mlm", "model=bert_tiny", "trainer.max_steps=2")
    printed = generate(folder, "prompt='the cat <mask> on a <mask>'")
    first, second = printed.splitlines()[1:]
    assert first.count("%") == 3 and second.startswith("<mask> 2: ")
    pipe = pipeline("fill-mask", model=str(folder / "checkpoint"))
    assert len(pipe("the cat <mask> on a <mask>")) == 2
    (folder / "prompts.txt").write_text("the cat <mask> on a <mask>\n")
    (entry,) = map(json.loads, generate(folder, f"prompts={folder}/prompts.txt").splitlines())
    assert f"<mask> 1: {entry['masks'][0][0][0]} {entry['masks'][0][0][1]:.1%}" in first
    code, _, complaint = command(f"chat {folder} hardware=cpu")
    assert code == 2 and "needs a causal model; lmft generate fills masks." in complaint
    code, _, complaint = command(f"generate run={folder} hardware=cpu prompt='the cat'")
    assert code == 2 and "put it into the prompt" in complaint


def test_generate_needs_trained_weights(command):
    code, _, complaint = command("generate prompt=a")
    assert code == 2 and "add run=FOLDER" in complaint


def test_a_file_of_prompts_is_answered_as_each_prompt_alone(stories, command, tmp_path):
    start = f"generate model=pretrained model.name={stories} hardware=cpu tokens=12"
    prompts = ["Once", "The little girl", "The big", "A"]
    (tmp_path / "prompts.txt").write_text("\n\n".join(prompts))
    records = "".join(json.dumps({"ask": prompt}) + "\n" for prompt in prompts)
    (tmp_path / "prompts.jsonl").write_text(records)
    code, printed, complaint = command(f"{start} prompts=prompts.txt n=2")
    assert (code, complaint) == (0, "")
    answers = [json.loads(line) for line in printed.splitlines()]
    assert [entry["prompt"] for entry in answers] == prompts
    both = command(f"{start} prompt='The big' n=2")[1]
    assert both == "\n\n".join(f"The big{text}" for text in answers[2]["continuations"]) + "\n"
    alone = command(f"{start} prompt='The big' seed=1")[1]
    assert alone == f"The big{answers[2]['continuations'][1]}\n"
    command(f"{start} prompts=prompts.jsonl dataset.text_column=ask n=2 out=answers.jsonl")
    assert (tmp_path / "answers.jsonl").read_text() == printed
    long = "word " * 600
    (tmp_path / "prompts.txt").write_text(f"Once\n{long}\n")
    code, printed, complaint = command(f"{start} prompts=prompts.txt out=none.jsonl")
    assert code == 2 and "Prompt 2 of prompts.txt: The prompt's" in complaint
    assert not (tmp_path / "none.jsonl").exists()


def test_sampling_knobs_choose_tokens_and_where_to_end(stories, command):
    start = f"generate model=pretrained model.name={stories} hardware=cpu prompt='The little girl'"
    greedy = command(f"{start} temperature=0 tokens=20")[1]
    assert command(f"{start} temperature=5 top_p=1 top_k=1 tokens=20")[1] == greedy
    stop = greedy.split()[5]
    ended = command(f"{start} temperature=0 tokens=20 stop={stop}")[1]
    assert ended == greedy.partition(stop)[0] + "\n"
