"""A run begun from another one goes on where that one ended, as a run of its own."""

import json
import shlex
import shutil

import pytest
from safetensors.torch import load_file

import lmft
from lmft.commands import runs as runs_command
from lmft.config.compose import compose_run
from lmft.errors import UserError
from lmft.output.terminal import Terminal
from lmft.runs.finished import offer_to_continue, update_tracker
from lmft.runs.listing import list_runs
from lmft.runs.run import Run
from lmft.storage.atomic import read_json
from lmft.tracker.mlflow_tracker import MlflowTracker
from lmft.trainer.model_card import card_metadata
from tests.helpers.runs import MODELS, compose, read_result, repeatable_metrics

# Every epoch takes the same blocks at the same rate, so that two halves make a whole.
EVEN = [
    "dataset.block_size=16", "trainer.batch_size=4", "trainer.shuffle=false",
    "trainer.schedule=constant", "optimizer.lr=1e-2", "trainer.epochs=1",
]  # fmt: skip


def without_model(words):
    """What of the words of a run may be beside from_run."""
    return [word for word in words if not word.startswith("model")]


@pytest.fixture(scope="module")
def sources(runs_of_module):
    """A run of one epoch of which the state is kept, and one of which it is not."""
    fit, corpus = runs_of_module
    words = [*corpus, *EVEN, *MODELS["clm"], "model.dropout=0"]
    kept = fit(*words, "trainer.keep_state=true")
    lost = kept.with_name("lost")
    shutil.copytree(kept, lost)
    shutil.rmtree(lost / "state")
    return kept, lost


@pytest.fixture(scope="module")
def begun(runs_of_module, sources):
    """For each of them, the run begun from it for one epoch."""
    fit, corpus = runs_of_module
    return [fit(*without_model([*corpus, *EVEN]), f"from_run={source}") for source in sources]


def losses(folder, offset=0):
    metrics = repeatable_metrics(folder)
    return {step + offset: loss for (step, name), loss in metrics.items() if name == "train/loss"}


def test_two_halves_with_the_kept_state_make_the_whole(runs_of_module, sources, begun, capsys):
    fit, corpus = runs_of_module
    whole = fit(*corpus, *EVEN, *MODELS["clm"], "model.dropout=0", "trainer.epochs=2")
    steps = read_result(sources[0])["steps"]
    assert f"is this run with {steps} steps" in capsys.readouterr().out
    assert losses(whole) == losses(sources[0]) | losses(begun[0], steps)  # the same bits
    assert read_result(whole)["validation"] == read_result(begun[0])["validation"]
    weights = [load_file(folder / "checkpoint/model.safetensors") for folder in (whole, begun[0])]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert losses(begun[1], steps) != losses(begun[0], steps), "without moments it is another run"


def test_a_composed_config_is_that_of_the_run(sources):
    words = [f"from_run={sources[0]}", "model.dropout=0.3"]
    config = lmft.compose(*words)
    assert config.model == Run(*compose_run(words)).config.model and config.model.dropout == 0.3
    with pytest.raises(UserError, match="name two models"):
        lmft.compose(*words, model="gpt2_tiny")


def test_a_run_begins_with_the_best_weights_of_another_and_is_linked_to_it(sources, begun):
    for source, folder, weights in zip(sources, begun, ("last", "best"), strict=True):
        result, before = read_result(folder), read_result(source)
        assert result["baseline"] == {k: before["validation"][k] for k in result["baseline"]}
        assert result["steps"] == before["steps"], "epochs are its own"
        key = json.loads((source / "run.json").read_text())["key"]
        assert result["from_run"] == {"run": source.name, "key": key, "weights": weights}
        cards = [(run / "card.md").read_text().splitlines()[2] for run in (folder, source)]
        assert f"It continues {source.name} (run key {key[:10]}) from its {weights} " in cards[0]
        assert "from_run" not in before and "continues" not in cards[1]
    entries = [entry for entry in list_runs(begun[0].parent) if entry.path in begun]
    shown = runs_command.telling_knobs(entries)
    assert [row[0] for row in shown] == [f"from {runs_command.show_value(s.name)}" for s in sources]


def test_the_key_is_of_the_content_not_of_the_path(runs_of_module, sources, begun, tmp_path):
    corpus = without_model(runs_of_module[1])
    for source, folder in zip(sources, begun, strict=True):
        moved = tmp_path / f"{source.name}-moved"
        shutil.copytree(source, moved)
        words = [*corpus, *EVEN, "hardware.precision=fp32", f"run_root={folder.parent}"]
        run = Run(compose(*words, f"from_run={moved}"))
        assert run.folder == folder and run.is_finished
    best = f"model.name={sources[1] / 'checkpoint'}"
    assert Run(compose(*words, "model=pretrained", best)).key == run.key, "the numbers are equal"
    state = json.loads((sources[0] / "state" / "state.json").read_text())
    state["progress"]["seconds"] += 1  # which no number depends on
    copy = tmp_path / f"{sources[0].name}-moved"
    (copy / "state" / "state.json").write_text(json.dumps(state))
    assert Run(compose(*words, f"from_run={copy}")).folder == begun[0]
    weights = copy / "state" / "state.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert Run(compose(*words, f"from_run={copy}")).folder != begun[0]


def test_a_stopped_run_is_resumed_with_the_same_bits(runs_of_module, sources, begun, tmp_path):
    fit, corpus = runs_of_module
    source = tmp_path / sources[0].name
    shutil.copytree(sources[0], source)
    words = [*without_model([*corpus, *EVEN]), f"from_run={source}", "trainer.evaluate_every=2"]
    folder = fit(*words, prune=lambda step, folder: step == 2)
    source.rename(tmp_path / "away")
    with pytest.raises(UserError, match=f"from_run={source} is neither .* lmft runs lists"):
        fit(*words)
    (tmp_path / "away").rename(source)
    assert not read_json(folder / "result.json") and fit(*words) == folder
    assert losses(folder) == losses(begun[0])
    assert read_result(folder)["final"] == read_result(begun[0])["final"]
    assert read_result(folder)["from_run"] == read_result(begun[0])["from_run"]


def test_the_card_names_the_model_of_the_hub_that_the_first_run_began_with(sources, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(sources[1], source)
    card = source / "checkpoint" / "README.md"
    words = [f"from_run={source}", "hardware=cpu", "tracker=none"]
    assert "base_model" not in card_metadata(Run(compose(*words)).config)
    card.write_text("---\nbase_model: owner/name\n---\n" + card.read_text())
    assert card_metadata(Run(compose(*words)).config)["base_model"] == "owner/name"


def test_a_damaged_state_is_no_start(runs_of_module, sources, tmp_path):
    fit, corpus = runs_of_module
    source = tmp_path / "source"
    shutil.copytree(sources[0], source)
    path = source / "state" / "state.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(lmft.Fault, match="failed its checksum.*model.name="):
        fit(*without_model([*corpus, *EVEN]), f"from_run={source}")


def test_the_state_survives_a_kill_at_the_very_end(runs_of_module, sources, tmp_path, capsys):
    fit, corpus = runs_of_module
    words = [*corpus, *EVEN, *MODELS["clm"], "model.dropout=0", f"run_root={tmp_path}"]
    folder = tmp_path / sources[0].name
    shutil.copytree(sources[0], folder)
    (folder / "checkpoints").mkdir()
    (folder / "state").rename(folder / "checkpoints" / f"step-{read_result(folder)['steps']}")
    assert fit(*words, "trainer.keep_state=true") == folder
    assert (folder / "state" / "state.json").exists() and not (folder / "checkpoints").exists()
    assert "was not kept" not in capsys.readouterr().out
    shutil.rmtree(folder / "state")
    fit(*words, "trainer.keep_state=true")
    assert "state was not kept; fresh=true" in capsys.readouterr().out


def test_more_epochs_of_a_finished_run_are_offered_from_its_weights(
    runs_of_module, sources, capsys
):
    fit, corpus = runs_of_module
    taken, lost = read_result(sources[0])["steps"], sources[1]

    def offer(*changes, steps=2 * taken):
        roots = [f"run_root={fit.root / 'runs'}", "hardware=cpu", "hardware.precision=fp32"]
        words = [*corpus, *EVEN, *MODELS["clm"], "model.dropout=0", *changes]
        offer_to_continue(Run(*compose_run([*roots, *words])), steps, Terminal())
        return capsys.readouterr().out

    shutil.move(lost, lost.with_name(f"{sources[0].name}~1"))  # the same key, without a state
    printed = offer("trainer.epochs=1.5", "optimizer.lr=1e-2")
    shutil.move(lost.with_name(f"{sources[0].name}~1"), lost)
    assert f"{sources[0].name} is this run with {taken} steps, and has finished" in printed
    assert "from its last weights and optimizer state" in printed
    words = shlex.split(printed.partition(": lmft ")[2])
    assert words[0] == f"from_run={sources[0].name}" and "trainer.epochs=0.5" in words
    assert "optimizer.lr=0.01" in words, "the default of pretrained weights is another"
    assert Run(*compose_run(words)).config.trainer.epochs == 0.5
    assert f"trainer.max_steps={taken}" in offer(f"trainer.max_steps={2 * taken}")
    assert not offer("trainer.epochs=2", "seed=1") and not offer("trainer.schedule=cosine")
    assert not offer("trainer.epochs=0.1", steps=1)


def test_in_python_a_run_is_named_by_itself_or_by_its_path(runs_of_module, sources, begun):
    fit, corpus = runs_of_module
    words = [*without_model([*corpus, *EVEN]), "hardware=cpu", "hardware.precision=fp32"]
    for source in (lmft.load(sources[0]), sources[0].name):
        run = lmft.train(*words, tracker="none", from_run=source, run_root=begun[0].parent)
        assert run.folder == begun[0]


@pytest.mark.soak
def test_a_sweep_over_runs(runs_of_module, sources, begun):
    fit, corpus = runs_of_module
    words = [*without_model([*corpus, *EVEN]), "hardware=cpu", "hardware.precision=fp32"]
    sweep = lmft.multirun(
        *words, tracker="none", from_run=[str(path) for path in sources], run_root=begun[0].parent
    )
    assert [run.folder for run in sweep.runs] == begun
    assert list(sweep.table["from_run"]) == [str(path) for path in sources]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("model=gpt2", "model=gpt2 name two models; leave one of them out"),
        ("model.config={n_layer:2}", "name two models"),
        ("objective=mlm", "trained with objective=clm, not with objective=mlm; leave it out"),
        ("optimizer=adafactor", "optimizer._target_=torch.optim.Adafactor can't use"),
        ("+optimizer.amsgrad=true", "optimizer.amsgrad=True can't use"),
        ("model.freeze=[embeddings]", "model.freeze=.'embeddings'. can't use"),
        ("adapter=lora", "adapter=lora can't use.* model.name="),
    ],
)
def test_words_that_do_not_fit_the_run_are_refused(words, parts, runs_of_module, sources):
    with pytest.raises(UserError, match=parts):
        Run(*compose_run([*without_model(runs_of_module[1]), f"from_run={sources[0]}", words]))


def test_without_a_state_any_optimizer_will_do(runs_of_module, sources):
    words = [*without_model(runs_of_module[1]), f"from_run={sources[1]}"]
    words += ["optimizer=adafactor", "adapter=lora", "model.dropout=0.3", "objective=clm"]
    model = Run(*compose_run(words)).config.model
    assert model.dropout == 0.3 and model.label == "gpt2_tiny" and not model.from_scratch


def test_mlflow_links_it_to_the_run_and_its_model(runs_of_module, sources, begun, store):
    best = sources[1]
    for folder in (best, begun[1]):
        update_tracker(folder, MlflowTracker(store.uri, None))
    run, source = store.run_of(begun[1]), store.run_of(best)
    assert run.data.tags["lmft.from_run"] == best.name
    assert run.data.tags["lmft.from_run_id"] == source.info.run_id
    (model,) = store.client.get_run(run.info.run_id).inputs.model_inputs
    query = f"source_run_id = '{source.info.run_id}'"
    (logged,) = store.client.search_logged_models([source.info.experiment_id], query)
    assert model.model_id == logged.model_id
    words = [*without_model(runs_of_module[1]), *EVEN, *store.overrides]
    words += ["hardware.precision=fp32", f"run_root={best.parent}"]
    again = Run(*compose_run([*words, f"from_run={source.info.run_id}"]))
    assert again.folder == begun[1], "an id names the run, too"
