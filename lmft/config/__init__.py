"""The config: its schema, how it is composed and checked, and what its errors say.

Defaults and comments are in `conf/`; nothing heavy is imported here.
"""

from pathlib import Path

_CANDIDATES = (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf")
CONF = next(path for path in _CANDIDATES if path.is_dir())  # of an installed wheel, or a checkout
