"""`lmft evaluate`: a split is scored once, and its result is kept."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tests.helpers.processes import start


@pytest.fixture
def masked(masked_run, tmp_path):
    """A copy of that folder, to be evaluated."""
    return Path(shutil.copytree(masked_run, tmp_path / "runs" / masked_run.name))


def test_an_evaluation_of_a_run_is_kept_in_that_run_and_known_the_next_time(
    fit, store, corpus, command
):
    folder = fit(*corpus, *store.overrides, "trainer.max_steps=4", "dataset.block_size=16")
    trained = json.loads((folder / "result.json").read_text())
    line = f"evaluate run={folder} tracker.uri={store.uri}"
    code, first, complaint = command(line)
    assert (code, complaint) == (0, "")
    assert f"{trained['test']['label']}  (known already)" in first
    code, other, complaint = command(f"{line} evaluation.stride=4")
    assert code == 0 and "stride 4" in other and "is from 6 documents" in complaint
    code, again, complaint = command(f"{line} evaluation.stride=4")
    assert (code, complaint) == (0, "") and "known already" in again
    run = store.run_of(folder)
    assert run.info.status == "FINISHED"
    keys = [key for key in run.data.metrics if key.endswith("/test/bits_per_byte")]
    assert len(keys) == 1 and keys[0].startswith("text_files-")
    (folder / "other.txt").write_text("so the dog sat\n")
    assert command(f"{line} dataset.test={folder / 'other.txt'}")[0] == 0
    texts = [kept.dataset.source for kept in store.run_of(folder).inputs.dataset_inputs]
    assert len(texts) == 4 and any("other.txt" in text for text in texts)
    by_id, printed, _ = command(f"evaluate run={run.info.run_id} tracker.uri={store.uri}")
    assert by_id == 0 and "known already" in printed


def test_a_model_without_a_run_gets_one_of_its_own(scored, store, command, tmp_path):
    words = " ".join(word for word in scored if "cache_root" not in word)
    line = f"evaluate {words} tracker.uri={store.uri} cache_root={tmp_path}"
    code, printed, complaint = command(line)
    assert code == 0 and "fp32" in printed
    (folder,) = tmp_path.glob("runs/*/evaluations.json")
    run = store.run_of(folder.parent)
    assert run.info.run_name == "evaluate stories260k on text_files test"
    assert run.data.tags["lmft.kind"] == "evaluation"
    (scored_text,) = run.inputs.dataset_inputs
    assert (scored_text.tags[0].value, scored_text.dataset.name) == ("test", "text_files")
    (found,) = json.loads(folder.read_text()).values()
    assert run.data.metrics["test/perplexity"] == pytest.approx(found["perplexity"])
    assert run.data.tags["test/fingerprint"] == found["fingerprint"]


@pytest.mark.soak
def test_masked_evaluation_in_another_process_is_the_same_to_the_last_digit(masked, tmp_path):
    trained = json.loads((masked / "result.json").read_text())["test"]
    line = f"evaluate run={masked} tracker=none evaluation.split=test hardware.micro_batch_size=8"
    (masked / "result.json").unlink()  # so that it can't answer from memory
    (process := start(line, tmp_path, tmp_path / "log")).join(60)
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    (again,) = json.loads((masked / "evaluations.json").read_text()).values()
    assert again["nats"] == trained["nats"] and again["label"] == trained["label"]


def test_several_draws_of_masks_give_mean_and_spread(masked, command):
    code, _, _ = command(f"evaluate run={masked} tracker=none evaluation.mask_draws=3")
    assert code == 0
    (drawn,) = json.loads((masked / "evaluations.json").read_text()).values()
    once = json.loads((masked / "result.json").read_text())["test"]
    assert drawn["mask_draws"] == 3 and drawn["loss_deviation"] > 0
    assert drawn["targets"] == 3 * once["targets"] and drawn["nats"] != 3 * once["nats"]


def test_the_label_names_the_text_where_it_is_not_the_run_s_own(masked, command, tmp_path):
    (tmp_path / "other.csv").write_text("body\nthe dog sat on a mat\nand saw one cat\n")
    other = f"dataset.test={tmp_path / 'other.csv'} dataset.text_column=body"
    drawn = "evaluation.mask_draws=3"
    labels = {}
    for words in ("", drawn, other, f"{other} dataset.max_documents=1 {drawn}"):
        code, printed, complaint = command(f"evaluate run={masked} tracker=none {words}")
        assert code == 0, complaint
        labels[words] = " ".join(printed.split())
    trained = json.loads((masked / "result.json").read_text())["test"]
    assert trained["label"] in labels[""] and trained["conditions"]["masks"] == 1
    assert "hidden, 3 draws · text_files test · context" in labels[drawn]
    assert "hidden · text_files test (other.csv, text_column body) · context" in labels[other]
    (both,) = [label for words, label in labels.items() if "max_documents" in words]
    assert "hidden, 3 draws · text_files test (other.csv, text_column body, first 1 doc" in both


def test_masks_of_training_are_one_draw_whatever_evaluate_draws(fit, corpus, command):
    mlm = [*corpus, "model=bert_tiny", "objective=mlm", "trainer.max_steps=1"]
    folder = fit(*mlm, "evaluation.mask_draws=2", "tracker=none")
    trained = json.loads((folder / "result.json").read_text())["test"]
    assert trained["conditions"]["masks"] == 1
    precision = f"hardware.precision={trained['precision']}"
    code, printed, _ = command(f"evaluate run={folder} tracker=none {precision}")
    assert code == 0 and "known already" not in printed and "2 draws" in printed


def test_pseudo_perplexity_hides_each_token_once_alone(masked, corpus, command, tmp_path):
    code, printed, _ = command(f"evaluate run={masked} tracker=none evaluation.pseudo=true")
    assert code == 0 and "hidden alone" in printed
    (found,) = json.loads((masked / "evaluations.json").read_text()).values()

    tokenizer = AutoTokenizer.from_pretrained(masked / "checkpoint")
    model = AutoModelForMaskedLM.from_pretrained(masked / "checkpoint").eval()
    text = (tmp_path / "test.txt").read_text().splitlines(keepends=True)
    end = tokenizer.eos_token_id
    ids = [
        i for line in text for i in [*tokenizer(line, add_special_tokens=False)["input_ids"], end]
    ]
    block = torch.tensor(ids[:-1])
    nats = []
    for position in range(len(block)):
        if int(block[position]) not in tokenizer.all_special_ids:
            hidden = block.clone()
            hidden[position] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(hidden[None]).logits[0, position]
            nats.append(float(torch.nn.functional.cross_entropy(logits, block[position])))
    assert found["targets"] == len(nats)
    assert found["nats"] == pytest.approx(sum(nats), rel=1e-5)
