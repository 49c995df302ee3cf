"""The reference of the knobs: a page for each group, and one that lists all."""

from docs.generator.knob_facts import Fact, as_yaml, choices_of, facts, set_by_choices
from lmft.config import CONF
from lmft.config.comments import top_comment
from lmft.config.knob_metadata import Decides


def other_defaults(fact: Fact) -> list[str]:
    """Return a line for each other default that choices set, but for those computed of others."""
    others = set_by_choices().get(fact.name, {})
    return [
        f"- with {', '.join(choices)}: `{value}`"
        for value, choices in others.items()
        if value != as_yaml(fact.default) and "${" not in value
    ]


def entry(fact: Fact) -> str:
    """Return the section of a knob."""
    about = [
        f"**Default** `{as_yaml(fact.default)}`",
        f"**Value** {fact.allowed}",
        f"**Decides** {fact.decides}",
    ]
    if fact.choices:
        group = fact.name.partition(".")[0]
        about.insert(0, "**Of** " + ", ".join(f"`{group}={choice}`" for choice in fact.choices))
    members = [f"- `{name}`{f': {text}' if text else ''}" for name, text in fact.members.items()]
    lines = [*members, *other_defaults(fact)]
    title = f"### `{fact.name}` {{ #{anchor(fact.name)} }}"
    parts = [title, sentence(fact.meaning), " · ".join(about)]
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])])


def anchor(name: str) -> str:
    """Return the anchor of a knob's section: its name, without what Markdown reads as a sign."""
    return name.replace("._", ".").rstrip("_")


def sentence(text: str) -> str:
    """Return a comment as a sentence, on one line."""
    text = text.replace("\n", " ")
    return f"{text[:1].upper()}{escape(text[1:])}{'' if text.endswith(('.', '?')) else '.'}"


def escape(text: str) -> str:
    """Return a text in which nothing is a sign of Markdown."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("[", "\\[")


def group_page(group: str) -> str:
    """Return the page of a config group: its choices, then its knobs."""
    lines = [f"# Knobs of {group}", f"Choose with `{group}=CHOICE`; the first is the default."]
    lines += ["\n".join(choice_lines(group)), "## Knobs"]
    own = [fact for name, fact in facts().items() if name.partition(".")[0] == group]
    return "\n\n".join([*lines, *map(entry, own)]) + "\n"


def choice_lines(group: str) -> list[str]:
    """Return a line for each choice: its name and the comment at its top."""
    return [f"- `{group}={path.stem}`: {sentence(top_comment(path))}" for path in choices_of(group)]


def index_page() -> str:
    """Return the page that lists all knobs, and describes those of no group."""
    intro = (CONF / "config.yaml").read_text().splitlines()[0].removeprefix("# ")
    lines = ["# All knobs", intro, HOW_TO_SET, "## Knobs of no group"]
    alone = [fact for name, fact in facts().items() if "." not in name]
    lines += [*map(entry, alone), "## Experiments", EXPERIMENTS]
    lines += ["\n".join(choice_lines("experiment")), "## List"]
    rows = ["| knob | default |", "|---|---|"]
    for name, fact in facts().items():
        page = f"{name.partition('.')[0]}.md" if "." in name else ""
        default = as_yaml(fact.default).replace("|", "\\|")
        rows.append(f"| [{name}]({page}#{anchor(name)}) | `{default}` |")
    return "\n\n".join([*lines, "\n".join(rows)]) + "\n"


HOW_TO_SET = f"""\
Set a knob as `GROUP.KNOB=VALUE`, such as `trainer.batch_size=32`; a list as `'[a,b]'`, a mapping
as `'{{n_layer: 4}}'`, and quote a value for the shell where it has spaces or brackets. `lmft -c
job` prints the config that a command composes. A misspelled knob is rejected with a suggestion.

Each knob says what it decides. Those that decide {Decides.numbers.value} are in the run's key, so
that another value is another run; names and paths count by the content of what they name. Those
that decide {Decides.speed.value}, {Decides.location.value} or {Decides.scoring.value} are not:
the same run resumes with another value."""
EXPERIMENTS = """\
An experiment sets knobs of several groups: choose it with `experiment=NAME`; your own are in a
folder that `--config-dir DIR` names."""
