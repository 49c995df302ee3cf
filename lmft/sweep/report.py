"""Report a sweep when it ends: a table of jobs, leaderboard, plots and comparison."""

import shlex
from pathlib import Path
from typing import Any

from lmft.analysis.compare.ranking import compare_runs
from lmft.analysis.compare.report import report_files
from lmft.metrics import TokenLoss, of_split
from lmft.output.markdown import table
from lmft.output.terminal import Terminal
from lmft.runs.find_run import BEST
from lmft.runs.run import RESULT
from lmft.storage.atomic import read_json, write_json
from lmft.sweep.plots import draw_knobs
from lmft.sweep.records import JobRecord
from lmft.tracker.protocol import BestJob

FILES = ("leaderboard.md", "knobs.svg", "compare.md", "compare.html")  # the most detailed last
SELECTION = "The best job is chosen by validation; test is shown beside it."
DIFFERENT_CONDITIONS = (
    "The jobs were scored under different conditions, so only those of a group are comparable."
)


def report_jobs(jobs: list[JobRecord], folder: Path, terminal: Terminal) -> BestJob:
    """Print each job's state and the best job; write the report into the sweep's folder.

    Args:
        jobs: of all launches.
        folder: of the sweep.
        terminal: to print to.

    Returns:
        For the tracker, the best job, or sentences on that of each group of comparable jobs.
    """
    if not jobs:
        return BestJob()
    terminal.show_jobs([(job.number, job.name, job.state, job.loss, job.reason) for job in jobs])
    groups = group_by_conditions(jobs)
    if len(groups) > 1:
        terminal.print(DIFFERENT_CONDITIONS, style="yellow")
    title = "Best" if len(groups) == 1 else "Best of a group"
    best = [describe_best(group[0]) for group in groups if len(group) > 1 or len(groups) == 1]
    for line in best:
        terminal.print(f"{title}    {line}", style="bold")
    terminal.print(f"Look    {write_report(jobs, groups, folder, terminal)}")
    if len(groups) != 1:  # losses of several groups are not comparable
        return BestJob("; ".join(best))
    best_run = keep_best(groups[0][0], folder)
    show_next(best_run, terminal)
    return BestJob("; ".join(best), result_metrics(groups[0][0]), best_run)


def result_metrics(job: JobRecord) -> dict[str, float]:
    """Return the numbers of a job's best weights, by the names that its run logs."""
    result: dict[str, Any] = read_json(Path(job.folder) / RESULT)
    return {
        name: value
        for split in ("validation", "test")
        for name, value in of_split(split, result[split] or {}).items()
        if isinstance(value, int | float) and name != f"{split}/units"  # which is no metric
    }


def keep_best(job: JobRecord, folder: Path) -> Path:
    """Write the best run into the sweep's folder, and return it.

    Args:
        job: the best one, by validation.
        folder: of the sweep, where `run=` finds the best run; an older lmft kept no other jobs of
            an earlier launch there.
    """
    run, conditions = Path(job.folder), evaluation_fingerprint(job)
    earlier = read_json(folder / BEST)
    if earlier.get("fingerprint") == conditions and earlier["loss"] < job.loss:
        kept = folder.parent / str(earlier["run"])
        if kept.is_dir():
            return kept
    best = {"run": run.name, "loss": job.loss, "fingerprint": conditions}
    write_json(folder / BEST, best)
    return run


def show_next(run: Path, terminal: Terminal) -> None:
    """Print the folder of the best run, and how to use its weights."""
    path = shlex.quote(str(run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run))
    terminal.print(f"Folder  {run}")
    terminal.print(f"Next    lmft generate run={path} prompt=TEXT")
    terminal.print(f"        lmft evaluate run={path}")  # on test, where there is one


def group_by_conditions(jobs: list[JobRecord]) -> list[list[JobRecord]]:
    """Group finished jobs whose losses are comparable, best first; the best job's group is first.

    Two jobs may be the same run.
    """
    groups: dict[str, list[JobRecord]] = {}
    finished = [job for job in jobs if job.state == "finished"]
    for job in sorted(finished, key=lambda job: job.loss):
        groups.setdefault(evaluation_fingerprint(job), []).append(job)
    return list(groups.values())


def evaluation_fingerprint(job: JobRecord) -> str:
    """Return the fingerprint of the conditions of a job's validation loss; empty if it is lost."""
    result = read_json(Path(job.folder) / RESULT)
    return str(result["validation"]["fingerprint"]) if result else ""


def describe_best(job: JobRecord) -> str:
    """Describe the best job in one line."""
    return (
        f"job {job.number}, {job.name or 'no knob'}: validation perplexity "
        f"{TokenLoss(job.loss, 1).perplexity:,.2f}, loss {job.loss:.4f}"
    )


def write_report(
    jobs: list[JobRecord], groups: list[list[JobRecord]], folder: Path, terminal: Terminal
) -> Path:
    """Write the report's files into the sweep's folder; return the most detailed one.

    Args:
        jobs: all jobs.
        groups: the finished ones, best first; those of one group are comparable.
        folder: of the sweep; files of an earlier launch that this report lacks are removed.
        terminal: shows why jobs can't be compared.
    """
    texts = {"leaderboard.md": leaderboard(jobs, groups)}
    page, board = folder / FILES[-1], folder / "leaderboard.md"
    if page.exists() and board.exists() and board.read_text() == texts["leaderboard.md"]:
        return page  # of an earlier launch with the same jobs
    texts |= draw_knobs(groups) | compare_jobs(groups, folder.name, terminal)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if name in texts:
            (folder / name).write_text(texts[name], encoding="utf-8")
        else:
            (folder / name).unlink(missing_ok=True)
    return folder / max(texts, key=FILES.index)


def leaderboard(jobs: list[JobRecord], groups: list[list[JobRecord]]) -> str:
    """Return all jobs as Markdown, best first; those without a result come last."""
    knobs = list(dict.fromkeys(knob for job in jobs for knob in job.knobs))
    tests = {job.folder: find_test(job) for group in groups for job in group}
    has_test, rows = any(tests.values()), []
    for number, group in enumerate(groups, 1):
        for job in group:
            loss = TokenLoss(job.loss, 1)
            numbers = [f"{loss.mean:.4f}", f"{loss.perplexity:,.2f}"]
            numbers += [tests[job.folder]] if has_test else []
            rows.append([str(number), *job_cells(job, knobs), *numbers, job.reason])
    others = [job for job in jobs if job.state != "finished"]
    names = ["validation loss", "perplexity", *(["test perplexity"] if has_test else [])]
    rows += [["", *job_cells(job, knobs), *("" for _ in names), job.reason] for job in others]
    header = ["group", "job", *knobs, "state", *names, "reason"]
    parts = ["# Leaderboard", SELECTION if has_test else "", table(header, rows)]
    if len(groups) > 1:
        parts.insert(1, DIFFERENT_CONDITIONS)
    else:
        parts[-1] = table(header[1:], [row[1:] for row in rows])
    return "\n\n".join(part for part in parts if part) + "\n"


def find_test(job: JobRecord) -> str:
    """Return the test perplexity of a job as text; empty if it has none."""
    test = read_json(Path(job.folder) / "result.json").get("test")
    return f"{test['perplexity']:,.2f}" if test else ""


def job_cells(job: JobRecord, knobs: list[str]) -> list[str]:
    """Return a job's number, its values of these knobs, and its state."""
    return [str(job.number), *(job.knobs.get(knob, "") for knob in knobs), job.state]


def compare_jobs(groups: list[list[JobRecord]], name: str, terminal: Terminal) -> dict[str, str]:
    """Return the files of `lmft compare` on the finished jobs; none if they can't be compared.

    Args:
        groups: the finished jobs.
        name: of the sweep.
        terminal: shows why they can't be compared.
    """
    folders = dict.fromkeys(Path(job.folder) for group in groups for job in group)
    if len(folders) < 2:
        return {}
    try:
        return report_files(compare_runs(list(folders), None), [], name)
    except Exception as error:  # the jobs are done: whatever goes wrong, the sweep must end
        terminal.print(f"The jobs are not compared: {error}", style="yellow")
        return {}
