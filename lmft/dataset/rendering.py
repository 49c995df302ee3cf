"""Render templates in a process of its own, which an alarm ends if a record takes too long.

A template that never ends can't be stopped in this process: a thread can't be killed, and a signal
reaches the main thread alone. The alarm ends the other one even if nobody waits for it any more.
"""

import gc
import json
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from lmft.config.dataset_knobs import Learn
from lmft.dataset.chat_template import Rendered, Template
from lmft.dataset.conversations import Example
from lmft.errors import UserError

TIME_LIMIT = 10.0  # seconds for one record, which takes less than a millisecond
AT_ONCE = 256  # records sent at once


class RenderingProcess:
    """A process that renders examples with one template, in their order."""

    def __init__(self, template: Template, learn: Learn):
        self.template = template
        # A fork starts at once, and renders nothing but text: no library of this process is used.
        context = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, self._pipe, template, learn), daemon=True
        )
        with warnings.catch_warnings():  # Python 3.12 warns of any fork beside threads
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def render(self, examples: Iterator[Example]) -> Iterator[Rendered]:
        """Yield the documents of the examples.

        Raises:
            UserError: the template fails, or does not end.
        """
        while group := list(islice(examples, AT_ONCE)):
            self._pipe.send(group)
            for example in group:
                yield self._receive(example)

    def _receive(self, example: Example) -> Rendered:
        # JSON, since what a template may have taken over could send any pickle.
        try:
            error, text, learnt = json.loads(self._pipe.recv_bytes())
        except EOFError as ended:
            self._process.join()
            is_late = self._process.exitcode == -signal.SIGALRM
            what = f"did not render {example.place} within {TIME_LIMIT:g} s"
            raise UserError(
                f"{self.template.name} {what if is_late else f'crashed at {example.place}'}; set "
                f"{self.template.knob} to another, or remove the record."
            ) from ended
        if error is not None:
            raise UserError(error)
        return Rendered(text, [(first, last) for first, last in learnt])


def _serve(pipe: Connection, other: Connection, template: Template, learn: Learn) -> None:
    """Answer groups of examples until the pipe is closed."""
    other.close()  # else the end of the process that asks would not close the pipe
    gc.freeze()  # what was inherited is not cleaned up here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends this process, whatever it computes
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    try:
        while True:
            for example in pipe.recv():
                pipe.send_bytes(json.dumps(_render(template, example, learn)).encode())
    except (EOFError, OSError):
        os._exit(0)


def _render(template: Template, example: Example, learn: Learn) -> tuple[object, ...]:
    """Return an error, a text and what of it is learnt, before the alarm goes off."""
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        rendered = template.render(example, learn)
        return None, rendered.text, rendered.learnt
    except UserError as error:
        return str(error), "", []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
