"""Turn what libraries raise for a wrong command into one sentence with the way out."""

import re
from collections.abc import Iterable, Iterator

import yaml
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lmft.config.groups import choices_of, known_groups, known_names
from lmft.config.quoting import is_text, word_to_type
from lmft.config.ranges import RANGES, range_error
from lmft.errors import UserError, did_you_mean, first_line

OTHER_PLUGIN = {  # knobs of Hydra's own plug-in for Optuna: what lmft has instead
    "hydra.sweeper.direction": "a search minimizes the validation loss: leave it out",
    "hydra.sweeper.custom_search_space": "write each knob's values as a sweep, KNOB=interval(1, 9)",
    "hydra.sweeper.search_space": "write each knob's values as a sweep, KNOB=interval(1, 9)",
    "hydra/sweeper/sampler": "set hydra.sweeper.sampler._target_=optuna.samplers.TPESampler",
    "hydra/sweeper/pruner": "set +hydra.sweeper.pruner._target_=optuna.pruners.MedianPruner",
}
EXTRAS = {  # of lmft, by the launcher whose plug-in they bring
    "joblib": "joblib",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
}


def as_user_error(error: BaseException, composing: bool = False) -> UserError | None:
    """Return `error` as a mistake of the user; None if it is not one.

    Whatever goes wrong while Hydra is still `composing` is one.
    """
    chain = [error, *_causes(error)]
    known = next((link for link in chain if isinstance(link, UserError)), None)
    if known is not None:
        return known
    yaml_error = next((link for link in chain if isinstance(link, yaml.MarkedYAMLError)), None)
    if yaml_error is not None:
        return UserError(_yaml_message(yaml_error))
    omegaconf = next((link for link in chain if isinstance(link, OmegaConfBaseException)), None)
    message = (
        _override_message(error)
        or (omegaconf and _value_message(omegaconf))
        or (_is_instantiation(error) and _instantiation_message(error, chain[-1]))
    )
    if message:
        return UserError(message)
    if composing or isinstance(error, HydraException | OmegaConfBaseException):
        return UserError(f"{first_line(error)}; see lmft --help.")
    return None


def _is_instantiation(error: BaseException) -> bool:
    """Return whether Hydra failed to make an object; of `_partial_` it says so by a TypeError."""
    return isinstance(error, InstantiationException) or (
        isinstance(error, TypeError) and str(error).startswith("Instantiation: ")
    )


def _override_message(error: BaseException) -> str | None:
    """Explain a word that Hydra can't read, or that names nothing."""
    text = str(error)
    if plugin := re.search(r"'hydra_plugins\.hydra_(\w+)_launcher\.", text):
        apart = ", in an environment of its own" if plugin[1] == "ray" else ""
        return (
            f"hydra/launcher needs the package hydra-{plugin[1]}-launcher, which is not installed; "
            f"pip install 'lmft[{plugin[1]}]'{apart}."
        )
    if isinstance(error, OverrideParseException):
        return _word_message(str(error.override), first_line(error))
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).partition("/")
        if group == "model" and choice[:1] in ("/", "."):
            return _path_as_model(choice)
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and choice in EXTRAS:
            return f"hydra/launcher={choice} needs a plug-in; pip install 'lmft[{EXTRAS[choice]}]'."
        return _choose(group, choice, list(error.options))
    several = re.search(r"Ambiguous value for argument '(.+)'", text)
    if several:
        key, _, value = several[1].partition("=")
        return _several_values(key, value)
    double = (
        re.search(r"Could not append to config. An item is already at '([^']+)'", text)
        or re.match(r"Multiple values for (\S+)\. To override", text)
        or re.match(r"force-add of config groups is not supported: '\++([^=]+)=", text)
    )
    if double:
        return f"{double[1]} is there already; set it without the +."
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_knob(unknown[1].split("@")[0])
    deleted = re.search(r"Could not delete (?:from config\. )?'?([\w./]+)", text)
    if deleted:
        return _unknown_knob(deleted[1])
    return None


def _yaml_message(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = "A config file" if mark is None else f"{mark.name}, line {mark.line + 1}"
    return f"{where} is not YAML ({error.problem}); fix it."


def _several_values(key: str, value: str) -> str:
    text = f", or write one text as {word_to_type(key, value)}" if is_text(key) else ""
    return (
        f"{key}={value} has several values; add -m for a run of each (in Python, "
        f"lmft.multirun){text}."
    )


def _path_as_model(path: str) -> str:
    return f"model takes a choice, not a path; set model=pretrained model.name={path}."


def _word_message(word: str, reason: str) -> str:
    """Explain a word that is no override, or whose value can't be read."""
    if re.match(r"[+~]*[\w./@-]+=", word) is None:
        return f"{word!r} is not KNOB=VALUE, without spaces around the =; see lmft --help."
    key, _, value = word.partition("=")
    if key in RANGES:
        return range_error(key, value)
    if key == "model":
        return _path_as_model(value)
    if key in known_groups():
        return _choose(key, value, choices_of(key))
    if is_text(key) and "," in value:
        return _several_values(key, value)
    why = "" if word in reason else f" ({reason.removeprefix('LexerNoViableAltException: ')})"
    typed = word_to_type(key, value)
    return f"{word!r} has a value that can't be read{why}; write a text in quotes, as {typed}."


def group_error(words: Iterable[str]) -> UserError:
    """Return the error that a group got a value which is no name, in one of the overrides."""
    groups = known_groups()
    for word in words:
        name, _, value = word.partition("=")
        if name in groups and (not value[:1].isalpha() or value in ("null", "true", "false")):
            return UserError(_choose(name, value, choices_of(name)))
    return UserError("A group takes the name of one of its choices; see lmft --help.")


def _value_message(error: OmegaConfBaseException) -> str | None:
    """Explain a value of the wrong kind, or a missing one."""
    knob = error.full_key
    if not knob:
        return None
    if isinstance(error, MissingMandatoryValue):
        return f"{knob} has no value; set {knob}=..."
    reason = str(error.msg or error).splitlines()[0].rstrip(".")
    if re.match(r"Key '.*' not in '\w+'", reason):
        return _unknown_knob(knob)
    if "nterpolation" in reason:
        return f"{knob}: {reason}; write the value itself."
    if knob in RANGES:
        return range_error(knob, error.value)
    choices = re.fullmatch(r"Invalid value '(.*)', expected one of \[(.*)\]", reason)
    if choices:
        return _choose(knob, choices[1], choices[2].split(", "))
    shown = "null" if error.value is None else repr(error.value)
    if "valid bool" in reason:
        return f"{knob} must be true or false, not {shown}."
    if error.value is None or "to string" in reason:
        return f"{knob} must have a value of its kind, not {shown}; see conf/ for what it takes."
    return f"{knob}: {reason}; see conf/ for what it takes."


def _instantiation_message(error: BaseException, cause: BaseException) -> str:
    """Explain a `_target_` that does not take what it is given."""
    match = re.search(r"full_key: (\S+)", str(error))
    group = match[1] if match else "the config"
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if unknown:
        return f"There is no knob '{group}.{unknown[1]}'; leave it out."
    return f"{group} can't be used: {first_line(cause)}; see conf/ for what it takes."


def _choose(name: str, wrong: str, choices: list[str]) -> str:
    choices = [name for name in choices if not name.startswith("_")]  # not _base
    offered = ", ".join(choices)
    return f"{name} has no choice {wrong!r}; choose {offered}." + did_you_mean(wrong, choices)


def _unknown_knob(knob: str) -> str:
    if knob in OTHER_PLUGIN:
        return f"lmft has no {knob}; {OTHER_PLUGIN[knob]}."
    if re.match(r"hydra\.sweeper\.(sampler|pruner)($|\.(?!_target_$))", knob):
        return f"{knob} must be added with a +, as in '+{knob}=VALUE'."
    known = known_names()
    if knob in known:
        return f"{knob} can't be set, since its group has none here; leave one of the two out."
    group, _, name = knob.rpartition(".")
    if group == "optimizer":  # its file need not name all that the class takes
        names = [other.removeprefix("optimizer.") for other in known if "optimizer." in other]
        way = f"if the optimizer takes it, add it with a +, as in '+{knob}=VALUE'"
        return f"There is no knob {knob!r}; {way}.{did_you_mean(name, names)}"
    full = min((name for name in known if name.endswith(f".{knob}")), key=len, default=None)
    hint = f" Did you mean {full!r}?" if full else did_you_mean(knob, known)
    return f"There is no knob {knob!r}; see lmft --help.{hint}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}  # an error that was raised again may stand in its own way
    while (cause := error.__cause__ or error.__context__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        error = cause
