"""A figure that shows itself in a notebook, also where pyplot is not used."""

from matplotlib.figure import Figure

from lmft.output.plots import as_svg


class ShownFigure(Figure):
    """A figure of matplotlib."""

    def _repr_svg_(self) -> str:
        """Return the figure as SVG."""
        return as_svg(self)
