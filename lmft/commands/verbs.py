"""The verbs of the command line, and the knobs that each has alone."""

from dataclasses import dataclass

from lmft.commands.own_knobs import DEFAULT, RUN, SAMPLING, STORE, Knob, flag, number

ANY = ("",)  # every knob of the config begins with it


@dataclass(frozen=True)
class Verb:
    """A verb of the command line."""

    module: str  # of lmft.commands, with a function main(arguments)
    summary: str
    usage: str
    example: str
    knobs: tuple[Knob, ...] = ()
    config: tuple[str, ...] = ()  # how the names of those knobs of the config begin that it takes
    words: tuple[str, ...] = ()  # to choose from, in front of knobs
    takes_runs: bool = False  # by their folders, as words
    loads_torch: bool = False  # so its module takes seconds to import


VERBS = {
    "evaluate": Verb(
        "evaluate",
        "score the best weights of a run, or any model",
        "run=RUN | model=... [KNOB=VALUE ...]",
        "lmft evaluate run=runs/NAME evaluation.stride=64",
        (RUN,),
        ANY,
        loads_torch=True,
    ),
    "generate": Verb(
        "generate",
        "continue a text, or fill its mask tokens",
        "run=RUN | model=... prompt=TEXT [KNOB=VALUE ...]",
        'lmft generate run=runs/NAME prompt="The if statement" tokens=40',
        (
            RUN,
            Knob("prompt", "the text to continue or to fill", "TEXT", ""),
            Knob("prompts", "file of them: one a line, or records (dataset.text_column)", "FILE"),
            Knob("out", "file of the answers to prompts=, JSON lines (default: print)", "FILE"),
            Knob("n", f"continuations of each prompt {DEFAULT}", "N", 1, number(1, 1000, int)),
            Knob("tokens", f"new tokens at most {DEFAULT}", "N", 50, number(1, 1_000_000, int)),
            *SAMPLING,
        ),
        ANY,
        loads_torch=True,
    ),
    "chat": Verb(
        "chat",
        "talk with a model: its chat template, or plain continuation",
        "RUN | model=... [KNOB=VALUE ...]",
        "lmft chat runs/NAME temperature=0.5",
        (
            RUN,
            Knob("tokens", f"of an answer, at most {DEFAULT}", "N", 256, number(1, 1_000_000, int)),
            *SAMPLING,
        ),
        ANY,
        takes_runs=True,
        loads_torch=True,
    ),
    "merge": Verb(
        "merge",
        "write a run's adapter and its base as one ordinary model",
        "RUN [out=PATH]",
        "lmft merge runs/NAME",
        (
            RUN,
            Knob("out", "folder of the model (default: merged, in the run's folder)", "PATH"),
            STORE,
        ),
        takes_runs=True,
        loads_torch=True,
    ),
    "compare": Verb(
        "compare",
        "say which run is better, and whether that is more than chance",
        "RUN RUN ... [KNOB=VALUE ...]",
        "lmft compare runs/ONE runs/OTHER evaluation.split=test",
        (
            Knob(
                "evaluation.split",
                "validation, test or train (default: validation if all have it, else test)",
                "SPLIT",
                choices=("test", "validation", "train"),
            ),
            STORE,
            Knob("tracker.experiment_name", "all finished runs of this experiment", "NAME"),
            Knob("out", "folder of compare.md and compare.html (default: the first run's)", "PATH"),
        ),
        takes_runs=True,
    ),
    "export": Verb(
        "export",
        "write the best weights of a run, and the tokenizer, as a GGUF file",
        "RUN [format=gguf] [out=PATH]",
        "lmft export runs/NAME format=gguf",
        (
            RUN,
            Knob(
                "format",
                f"of llama.cpp, for Llama and GPT-2 {DEFAULT}",
                "gguf",
                "gguf",
                choices=("gguf",),
            ),
            Knob("out", "file or folder to write to (default: beside the run)", "PATH"),
            STORE,
        ),
        takes_runs=True,
        loads_torch=True,
    ),
    "push": Verb(
        "push",
        "publish the best weights of a run on the Hugging Face Hub",
        "RUN repo=OWNER/NAME [private=true] [dry_run=true]",
        "lmft push runs/NAME repo=me/my-model license=apache-2.0",
        (
            RUN,
            Knob("repo", "where to; it is created if it is missing", "OWNER/NAME"),
            Knob("private", "true: a new repository is private", "true", False, flag),
            Knob("dry_run", "true: only show what would be sent", "true", False, flag),
            Knob("license", "for the card, such as apache-2.0", "NAME"),
            Knob("language", "for the card, such as en", "CODE"),
            Knob("samples", "true: the card shows validation texts", "true", False, flag),
            STORE,
        ),
        takes_runs=True,
    ),
    "verify": Verb(
        "verify",
        "check that a resumed run is bit-identical, or that micro-batch sizes agree",
        "resume|batch [KNOB=VALUE ...]",
        "lmft verify resume model=gpt2_tiny trainer.max_steps=20",
        config=ANY,
        words=("resume", "batch"),
    ),
    "data": Verb(
        "data",
        "show what a model will read: sizes, lengths, and blocks with what is learnt",
        "[html=PATH] [KNOB=VALUE ...]",
        "lmft data dataset=text_files dataset.train=chats.jsonl html=data.html",
        (Knob("html", "write it as a page, too", "PATH"),),
        ANY,
        loads_torch=True,
    ),
    "plan": Verb(
        "plan",
        "estimate memory, disk and time of a run",
        "[KNOB=VALUE ...]",
        "lmft plan model=gpt2 trainer.batch_size=32",
        config=ANY,
        loads_torch=True,
    ),
    "profile": Verb(
        "profiling",
        "profile a training step",
        "[steps=5] [KNOB=VALUE ...]",
        "lmft profile model=gpt2 steps=10",
        (Knob("steps", f"steps to measure {DEFAULT}", "N", 5, number(1, 1000, int)),),
        ANY,
        loads_torch=True,
    ),
    "new": Verb(
        "new",
        "write an experiment of your own, with the meaning of each knob",
        "experiment NAME [GROUP=CHOICE ...] [KNOB=VALUE ...] [out=DIR]",
        "lmft new experiment small_steps model=gpt2 optimizer.lr=1e-5",
        (Knob("out", "folder of your groups (default: --config-dir, else conf)", "DIR"),),
        ANY,
        words=("experiment",),
    ),
    "init": Verb(
        "init",
        "begin a project of your own: experiments, data, tests",
        "[DIR]",
        "lmft init my-project",
    ),
    "doctor": Verb(
        "doctor",
        "say what is there, and what would be slow or missing",
        "[KNOB=VALUE ...]",
        "lmft doctor model=gpt2 hardware=cuda",
        config=ANY,
    ),
    "runs": Verb(
        "runs",
        "list runs: state, size, perplexity, what differs",
        "[run_root=PATH]",
        "lmft runs run_root=/scratch/runs",
        config=("run_root",),
    ),
    "ui": Verb(
        "ui",
        "open the MLflow page on the store that runs go to",
        "[tracker.uri=STORE] [port=5000]",
        "lmft ui port=5001",
        (
            Knob("tracker.uri", "the MLflow store (default: where runs go)", "STORE"),
            Knob("tracker.experiment_name", "the experiment to show (default lmft)", "NAME"),
            Knob("port", f"on 127.0.0.1 {DEFAULT}", "N", 5000, number(1, 65535, int)),
        ),
    ),
    "clean": Verb(
        "clean",
        "delete runs (default: unfinished ones) after confirmation",
        "[RUN ...] [cache=true] [yes=true] [KNOB=VALUE ...]",
        "lmft clean cache=true",
        (
            Knob(
                "cache",
                "true: delete the cache of tokens, tokenizers and losses, too",
                "true",
                False,
                flag,
            ),
            Knob("yes", "true: do not ask for confirmation", "true", False, flag),
        ),
        ("run_root", "cache_root"),
        takes_runs=True,
    ),
    "sync": Verb(
        "sync",
        "send MLflow the metrics that it lacks",
        "[RUN ...] [run_root=PATH] [tracker.KNOB=VALUE ...]",
        "lmft sync tracker.uri=http://host:5000",
        config=("run_root", "tracker"),
        takes_runs=True,
    ),
}
