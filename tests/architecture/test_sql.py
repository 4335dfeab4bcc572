"""SQL stands in the homeserver's storage layer, literally, and each table has one writer."""

import ast
import re
from collections.abc import Iterator

from homeserver.storage import query
from tests.architecture.sources import Source, list_sources, nodes_of

SQL_POSITION = {
    "execute": 1,
    "fetch_value": 2,
    "find_value": 2,
    "find_row": 2,
    "list_rows": 2,
    "list_values": 2,
    "list_tuples": 1,
    "insert_many": 1,
    "insert_columns": 1,
    "copy_rows": 1,
}
"""Which argument of the verbs of storage/query.py is the SQL."""
USES_CURSORS = {
    "homeserver.storage.query",
    # Transactions are begun and ended here; a migration's text comes from its file.
    "homeserver.storage.database",
    "homeserver.storage.migrations",
    # Makes the database itself, before there is anything to run a transaction in.
    "homeserver.storage.embedded",
    # Holds a lock for as long as its connection lives.
    "homeserver.storage.ownership",
}
STATEMENT = re.compile(
    r"^\s*(SELECT\s|INSERT\s+INTO\s|UPDATE\s+\w+\s+(AS\s+\w+\s+)?SET\s|DELETE\s+FROM\s|WITH\s+\w+\s+AS\s*\("
    r"|CREATE\s+(TABLE|INDEX)|ALTER\s+TABLE|TRUNCATE\s|SET\s+LOCAL\s)"
)
WRITTEN = re.compile(
    r"\b(?:INSERT\s+INTO|DELETE\s+FROM|TRUNCATE)\s+(\w+)|\bUPDATE\s+(\w+)\s+(?:AS\s+\w+\s+)?SET\b"
)


def strings_of(source: Source) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every string, and of the constant parts of f-strings."""
    for node in nodes_of(source):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def is_storage(source: Source) -> bool:
    return source.module.startswith("homeserver.storage")


def test_sql_stands_in_storage_alone() -> None:
    wrong = [
        f"{source.name}:{line}"
        for source in list_sources("homeserver")
        if not is_storage(source)
        for line, text in strings_of(source)
        if STATEMENT.match(text)
    ]

    assert not wrong, "\n".join(wrong)


def test_sql_is_given_literally() -> None:
    wrong = []
    for source in list_sources("homeserver"):
        if not is_storage(source) or source.module == "homeserver.storage.query":
            continue
        for node in nodes_of(source):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                position = SQL_POSITION.get(node.func.id)
                if position is not None and not is_literal(node.args[position]):
                    wrong.append(f"{source.name}:{node.lineno}")

    assert not wrong, "\n".join(wrong)


def is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_verb_of_queries_is_checked() -> None:
    verbs = {
        name
        for name, value in vars(query).items()
        if callable(value) and getattr(value, "__module__", "") == query.__name__
        and name[0].islower()
    }  # fmt: skip

    without_sql = {"array_of", "commit_lightly", "copied_json", "copied_number"}
    assert verbs - without_sql <= set(SQL_POSITION)


def test_nobody_else_uses_cursors() -> None:
    wrong = [
        f"{source.name}:{node.lineno}"
        for source in list_sources("homeserver")
        if source.module not in USES_CURSORS
        for node in nodes_of(source)
        if isinstance(node, ast.Attribute) and node.attr in ("cursor", "executemany")
    ]

    assert not wrong, "\n".join(wrong)


def test_each_table_is_written_by_one_module() -> None:
    writers: dict[str, set[str]] = {}
    for source in list_sources("homeserver"):
        for _, text in strings_of(source):
            if is_storage(source) and STATEMENT.match(text):
                for inserted, updated in WRITTEN.findall(text):
                    writers.setdefault(inserted or updated, set()).add(source.module)

    assert writers, "no statement was found: the test is blind"
    assert {table: modules for table, modules in writers.items() if len(modules) > 1} == {}


def test_statements_are_recognized() -> None:
    assert STATEMENT.match("\n        UPDATE receipts AS r SET kind = 1")
    assert not STATEMENT.match("Update your client")
    assert WRITTEN.findall("WITH x AS (DELETE FROM a) INSERT INTO b SELECT 1") == [
        ("a", ""),
        ("b", ""),
    ]
    assert WRITTEN.findall("INSERT INTO c ON CONFLICT DO UPDATE SET d = 1 FOR UPDATE") == [
        ("c", "")
    ]
