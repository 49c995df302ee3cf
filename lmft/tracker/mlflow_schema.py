"""A SQLite store looked at before MLflow is let near it, which would try for minutes or fill it.

Only its schema is read, with SQLite alone: importing mlflow takes longer.
"""

import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from lmft.errors import UserError

TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"

REVISION = "SELECT version_num FROM alembic_version"


def check_schema(place: Path) -> None:
    """Refuse a file that is there and no store that this MLflow can use.

    Raises:
        UserError: with the reason.
    """
    if not place.exists():
        return
    if not place.is_file():
        raise UserError(_refusal(place, "is no file; name one, as in sqlite:////path/mlflow.db."))
    try:
        tables, revision = _read(place)
    except sqlite3.OperationalError:  # locked: it may be free by the time that it is needed
        return
    except sqlite3.DatabaseError as error:
        raise UserError(_refusal(place, f"is no SQLite store ({error}); choose another.")) from None
    if tables and "experiments" not in tables:
        raise UserError(_refusal(place, "is another program's database; choose another file."))
    if revision is not None and revision not in known_revisions():
        raise UserError(
            _refusal(
                place,
                f"was made by a newer MLflow (schema {revision}, unknown to this one); upgrade "
                "mlflow, or choose another store.",
            )
        )


def known_revisions() -> set[str]:
    """The schemas that the installed MLflow can make of one another."""
    found = find_spec("mlflow")
    assert found is not None and found.origin is not None
    scripts = Path(found.origin).parent / "store" / "db_migrations" / "versions"
    return {path.name.partition("_")[0] for path in scripts.glob("*.py")}


def _read(place: Path) -> tuple[set[str], str | None]:
    """The names of the tables, and the schema's revision."""
    with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True)) as connection:
        tables = {name for (name,) in connection.execute(TABLES)}
        row = connection.execute(REVISION).fetchone() if "alembic_version" in tables else None
    return tables, None if row is None else str(row[0])


def _refusal(place: Path, reason: str) -> str:
    return f"tracker.uri leads to {place}, which {reason}"
