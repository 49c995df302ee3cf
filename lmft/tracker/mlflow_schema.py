"""Check a SQLite store before MLflow opens it, which would try for minutes or create tables in it.

SQLite is read directly: importing mlflow takes 2 s.
"""

import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from lmft.errors import UserError

TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
REVISION = "SELECT version_num FROM alembic_version"


def check_schema(path: Path) -> None:
    """Check that the file `path` is a store that this MLflow can use, or does not exist.

    Raises:
        UserError: with the reason.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise UserError(_error(path, "is no file; name one, as in sqlite:////path/mlflow.db."))
    try:
        tables, revision = _read_schema(path)
    except sqlite3.OperationalError:  # locked; it may be free when it is needed
        return
    except sqlite3.DatabaseError as error:
        raise UserError(_error(path, f"is no SQLite store ({error}); choose another.")) from None
    if tables and "experiments" not in tables:
        raise UserError(_error(path, "is another program's database; choose another file."))
    if revision is not None and revision not in known_revisions():
        raise UserError(
            _error(
                path,
                f"was made by a newer MLflow (schema {revision}, unknown to this one); upgrade "
                "mlflow, or choose another store.",
            )
        )


def known_revisions() -> set[str]:
    """Return the schema revisions that the installed MLflow knows or can migrate from."""
    spec = find_spec("mlflow")
    assert spec is not None and spec.origin is not None
    scripts = Path(spec.origin).parent / "store" / "db_migrations" / "versions"
    return {path.name.partition("_")[0] for path in scripts.glob("*.py")}


def _read_schema(path: Path) -> tuple[set[str], str | None]:
    """Return the names of the tables, and the schema's revision."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        tables = {name for (name,) in connection.execute(TABLES)}
        row = connection.execute(REVISION).fetchone() if "alembic_version" in tables else None
    return tables, None if row is None else str(row[0])


def _error(path: Path, reason: str) -> str:
    return f"tracker.uri leads to {path}, which {reason}"
