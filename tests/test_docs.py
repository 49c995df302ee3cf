"""The documentation: its commands, its links, and what its reference says."""

import re
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

import lmft
from docs.generator.pages import TOP_PAGES, generated_pages
from lmft.commands import console
from lmft.commands.arguments import all_flags, parse_line
from lmft.commands.verbs import ANY, VERBS
from lmft.config.knobs import flatten
from lmft.config.quoting import quote_texts
from lmft.errors import UserError
from tests.helpers.runs import BUSY, MODELS, compose
from tests.helpers.shell_blocks import commands_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *map(ROOT.joinpath, TOP_PAGES.values()), *sorted(DOCS.rglob("*.md"))]
NOT_CHECKED = "bash cat cd curl eval export git hf mlflow pip pre-commit ray source".split()
MAKE = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
RUN_LMFT = re.compile(
    r"^(?:.*/)?(?:python3?|torchrun|srun)(?: .*)? -m lmft(?: |$)|^(?:srun )?(?:.*/)?lmft(?: |$)"
)


@pytest.fixture(scope="module")
def generated():
    """The pages that are generated, by their paths in docs/."""
    return generated_pages()


def first_value(word):
    """The override with the first of the values that a sweep would take."""
    override = OverridesParser.create().parse_override(*quote_texts([word], sweep=True))
    if not override.is_sweep_override():
        return word
    value = override.value()
    first = getattr(value, "start", None)
    if first is None:
        first = override.sweep_string_iterator().__next__()
    return f"{override.key_or_group}={first}"


def check_lmft(words, folder):
    """Parse the words as the command does; return those that set knobs of the config."""
    for flag, value in zip(words, words[1:], strict=False):
        if flag in ("-cd", "--config-dir"):
            (folder / value).mkdir(parents=True, exist_ok=True)
    try:
        arguments = parse_line(words)
    except SystemExit:  # it printed help, or the version
        return []
    verb = VERBS.get(arguments.verb)
    knobs = [word for word in arguments.words if "=" in word]
    if arguments.verb == "new":  # whose experiment may be the reader's
        knobs = [word for word in knobs if not word.startswith("experiment=")]
    if verb is not None and verb.config != ANY:
        assert all(word.startswith(verb.config) for word in knobs)
    elif "--config-dir" not in " ".join(words):  # whose folder has the choices
        return [first_value(word) for word in knobs]
    return []


def check(words, folder):
    """Check a command of a page without running it; return the knobs of the config that it sets."""
    line = " ".join(words)
    if found := RUN_LMFT.match(line):
        return check_lmft(words[len(found[0].split()) :], folder)
    if words[0] == "make":
        assert words[1] in MAKE, line
    elif words[:2] == ["python", "-m"]:
        assert find_spec(words[2]), line
    else:
        assert words[0] in NOT_CHECKED, line
    return []


def merge(commands):
    """The words of many commands as few: composing takes long, and each value is tried once."""
    merged = defaultdict(list)
    for words in commands:
        choices = frozenset(word for word in words if "." not in word.partition("=")[0])
        values = dict(word.partition("=")[::2] for word in words)
        fitting = (
            other
            for other in merged[choices]
            if all(other.get(name, value) == value for name, value in values.items())
        )
        found = next(fitting, None)
        if found is None:
            merged[choices].append(found := {})
        found |= values
    return [[f"{k}={v}" for k, v in values.items()] for each in merged.values() for values in each]


def test_every_command_of_the_documentation_is_one_and_its_config_composes(
    generated, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pages = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES} | generated
    knobs = []
    for name, text in pages.items():
        for words in commands_of(text):
            try:
                knobs.append(check(words, tmp_path))
            except (UserError, AssertionError, HydraException) as error:
                raise AssertionError(f"{name}: {' '.join(words)}") from error
    assert len(knobs) > 80
    for words in merge(knobs):
        compose(*words)


def test_every_verb_has_its_example(generated):
    assert len(list(commands_of(generated["reference/verbs.md"]))) == len(VERBS)


@pytest.mark.parametrize(
    "line",
    ["lmft no.knob=1", "lmft evaluat run=x", "lmft compare a b port=1", "make nothing", "sl -l"],
)
def test_a_command_that_is_none_is_noticed(line, tmp_path):
    (words,) = commands_of(f"```sh\n{line}\n```\n")
    with pytest.raises((UserError, AssertionError, HydraException)):
        compose(*check(words, tmp_path))


def test_pages_that_are_linked_are_there(generated):
    sites = {DOCS / path for path in generated}
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            path = (page.parent / target).resolve()
            assert "://" in target or path.exists() or path in sites, f"{page.name}: {target}"


NOT_SET_OFF = re.compile(  # what Markdown takes for a part of the paragraph
    r"^.+\n#+ .+|^#+ .+\n.+"  # a heading
    r"|^[^|\n].*\n\|.+|^\|.+\n[^|\n].*"  # a table
    r"|^[^-: \n].*\n    .+|^    .+\n[^- \n].*",  # an example
    re.MULTILINE,
)


def test_headings_tables_and_examples_are_set_off_by_blank_lines():
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        assert NOT_SET_OFF.findall(text) == [], page.name


SECTION = re.compile(r"^### `([\w.]+)` \{.*?\n\n(.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)


def test_every_knob_is_on_its_page_with_the_default_that_is_composed(generated):
    shown = {}
    for path, text in generated.items():
        if path.startswith("reference/knobs/") and "hydra" not in path:
            for name, section in SECTION.findall(text):
                assert path.endswith((f"/{name.partition('.')[0]}.md", "index.md")), name
                shown[name] = (
                    section,
                    yaml.safe_load(re.search(r"\*\*Default\*\* `(.*?)` ·", section)[1]),
                )
    defaults = OmegaConf.to_container(compose(), resolve=True)
    documented = flatten({name: value for name, (_, value) in shown.items()})
    for name, value in flatten(defaults).items():
        assert documented[name] == value, name
    for name, (section, _) in shown.items():
        assert "**Value** " in section and "**Decides** " in section
        assert not section.startswith("."), f"{name} has no comment in conf/"


def test_every_choice_of_conf_is_in_the_reference(generated):
    text = "\n".join(generated.values())
    for path in (ROOT / "conf").rglob("[!_]*.yaml"):
        group = path.parent.relative_to(ROOT / "conf").as_posix()
        assert group == "." or f"{group}={path.stem}" in text, path


def test_every_verb_and_flag_is_in_the_reference_with_its_knobs(generated):
    page = generated["reference/verbs.md"]
    for name, verb in VERBS.items():
        (section,) = re.findall(
            rf"^## lmft {name} \{{.*?(?=^## |\Z)", page, re.DOTALL | re.MULTILINE
        )
        assert all(f"- `{knob.name}={knob.metavar}`: " in section for knob in verb.knobs)
    for action in all_flags()._actions:
        assert action.help == "==SUPPRESS==" or action.option_strings[-1] in page


def test_exit_codes_are_in_the_reference():
    codes = re.findall(
        r"^\| (\d+) \|", (DOCS / "reference" / "exit-codes.md").read_text(), re.MULTILINE
    )
    assert set(map(int, codes)) == {
        console.DONE, console.FAILED, console.MISTAKE, console.BUSY, 129, 130, 138, 143,
    }  # fmt: skip


VARIABLE = re.compile(
    r"""environ(?:\.\w+\(|\[)["']([A-Z_]+)|["']([A-Z_]+)["'] (?:not )?in os\.environ|"""
    r"""^\w+ = "((?:MLFLOW|LMFT|CUBLAS)_[A-Z_]+)\"""", re.MULTILINE
)  # fmt: skip


def test_environment_variables_that_lmft_uses_are_in_the_reference():
    page = (DOCS / "reference" / "environment.md").read_text()
    found = {
        name
        for path in (ROOT / "lmft").rglob("*.py")
        for names in VARIABLE.findall(path.read_text())
        for name in names
        if name
    }
    assert len(found) > 15
    # HYDRA_FULL_ERROR is set for Hydra alone, and put back.
    assert {name for name in found if f"`{name}`" not in page} == {"HYDRA_FULL_ERROR"}


def test_every_name_of_the_python_api_is_in_the_reference():
    page = (DOCS / "reference" / "python-api.md").read_text()
    assert set(re.findall(r"^::: lmft\.(\w+)$", page, re.MULTILINE)) == set(lmft.__all__)


def test_files_and_metrics_of_a_run_are_in_the_reference(
    fit, corpus, generated, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # which gets the cache
    folder = fit(*corpus, *BUSY, *MODELS["clm"], "trainer.max_steps=2")
    files = (DOCS / "reference" / "files.md").read_text()
    for path in folder.iterdir():
        name = re.sub(r"sums-\w+-\w+", "sums-<fingerprint>-<precision>", path.name)
        assert f"`{name}{'/' * path.is_dir()}`" in files, path.name
    metrics = generated["reference/metrics.md"]
    for name in re.findall(r'"(\w+/\w+)": ', (folder / "metrics.jsonl").read_text()):
        assert f"`{re.sub('^(validation|test)/', 'SPLIT/', name)}`" in metrics, name
