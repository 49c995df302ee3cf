"""The terminal that a person looks at: whatever is shown there, it only shows."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from lmft.plain import plain


class Screen(Console):
    """Rich's console, which reads no text as markup and lets no text steer the terminal."""

    def __init__(self, **more: Any):
        """Takes what rich's console takes."""
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **more})

    def render(self, *what: Any, **more: Any) -> Iterable[Segment]:
        """Its own control codes, and texts without any."""
        for segment in super().render(*what, **more):
            if segment.control:
                yield segment
            else:
                yield Segment(plain(segment.text), segment.style)
