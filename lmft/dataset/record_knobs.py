"""What the knobs say of records: which columns hold the documents, and what of them is learnt."""

import json
from dataclasses import dataclass

from lmft.config.dataset_knobs import DataKind, Learn
from lmft.dataset.chat_template import BUILT_IN, NONE, OWN, read_template
from lmft.dataset.conversations import Chat, Example
from lmft.dataset.layouts import DEFAULT_COLUMN, Layout, find_layout
from lmft.dataset.sources import Rows
from lmft.errors import UserError


@dataclass(frozen=True)
class RecordKnobs:
    """The knobs of the `dataset` group about records; by default, what they did before."""

    kind: DataKind = DataKind.auto
    text_column: str = DEFAULT_COLUMN
    learn: Learn = Learn.auto
    chat_template: str = OWN
    prompt_template: str = NONE

    def layout(self, part: Rows, kind: DataKind | None = None) -> Layout | None:
        """Return the layout of a part's records; None if it is text.

        Args:
            part: rows of a source.
            kind: instead of dataset.kind.

        Raises:
            UserError: the records lack the columns that dataset.kind needs.
        """
        if part.table is None:
            if (kind or self.kind) in (DataKind.completion, DataKind.chat):
                raise UserError(
                    f"dataset.kind is {self.kind.value}, but lines of text have no columns; name "
                    "files of records, or set dataset.kind=auto."
                )
            return None
        return find_layout(part.table, kind or self.kind, self.text_column)

    def as_key(self, parts: list[Rows], layouts: list[Layout | None]) -> list[str]:
        """Return what of the knobs changes the text, beside what decided it before they existed."""
        key = []
        if self.kind is not DataKind.auto:
            by_itself = [self.layout(part, DataKind.auto) for part in parts]
            key += [f"kind={self.kind.value}"] if layouts != by_itself else []
        if any(layout is not None and not layout.has_messages for layout in layouts):
            template = read_template("dataset.prompt_template", self.prompt_template)
            key += [f"prompt_template={template}"] if template is not None else []
        return key

    def compared(self, example: Example) -> str:
        """Return the text by which examples are equal, whatever a template makes of them."""
        if isinstance(example, Chat):
            return json.dumps([example.messages, example.tools], sort_keys=True, default=str)
        if self.prompt_template in (NONE, *BUILT_IN["dataset.prompt_template"]):
            return example.text
        return json.dumps([example.text, example.columns], sort_keys=True)

    def learnt(self, layouts: list[Layout | None], where: str) -> Learn:
        """Return what is learnt of parts with these layouts; auto if it is what auto means.

        Raises:
            UserError: some are text, which has no completion.
        """
        texts = layouts.count(None)
        if self.learn in (Learn.completion, Learn.last) and texts:
            raise UserError(
                f"dataset.learn is {self.learn.value}, but {where!r} is text, which has no "
                "completion; leave dataset.learn out."
            )
        is_default = self.learn is (Learn.all if texts == len(layouts) else Learn.completion)
        return Learn.auto if is_default else self.learn
