"""Names, sizes and constructors: the rules of style that ruff does not know."""

import ast
import re

from tests.architecture.sources import all_sources, nodes_of

FORBIDDEN_WORDS = {"Manager", "Handler", "Helper", "Util", "Utils", "Base", "Impl", "Worker"}
FORBIDDEN_MODULES = {"utils", "util", "common", "misc", "helpers"}
MAX_LINES = 500
MAX_LINES_OF_THE_MAP = 900
"""`server.py` connects everything in one straight line; cut in two, it would be no map."""
MAX_DEPENDENCIES = 6
VALUES = {
    "None", "bool", "bytes", "float", "int", "str", "Path", "Mapping", "Sequence",
    "DeviceID", "EventID", "RoomAlias", "RoomID", "ServerName", "UserID",
}  # fmt: skip
"""Parameters of these types configure; they are not other parts of the system."""


def words_of(class_name: str) -> set[str]:
    return set(re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*", class_name))


def test_no_class_has_a_name_that_says_nothing() -> None:
    wrong = [
        f"{source.name}:{node.lineno} {node.name}"
        for source in all_sources()
        for node in nodes_of(source)
        if isinstance(node, ast.ClassDef) and words_of(node.name) & FORBIDDEN_WORDS
    ]

    assert not wrong, "\n".join(wrong)


def test_no_module_is_a_place_for_anything() -> None:
    wrong = [
        source.name for source in all_sources() if set(source.module.split(".")) & FORBIDDEN_MODULES
    ]

    assert not wrong, "\n".join(wrong)


def test_files_stay_under_the_limit_of_lines() -> None:
    wrong = {
        source.name: lines
        for source in all_sources()
        if (lines := source.text.count("\n"))
        >= (MAX_LINES_OF_THE_MAP if source.module == "homeserver.server" else MAX_LINES)
    }

    assert wrong == {}


def test_every_module_says_what_it_is() -> None:
    wrong = [
        source.name
        for source in all_sources()
        if source.text.strip() and not ast.get_docstring(source.tree)
    ]

    assert not wrong, "\n".join(wrong)


def test_no_constructor_takes_more_than_six_dependencies() -> None:
    wrong = []
    for source in all_sources():
        for node in nodes_of(source):
            if isinstance(node, ast.ClassDef):
                dependencies = dependencies_of(node)
                if len(dependencies) > MAX_DEPENDENCIES:
                    wrong.append(f"{source.name} {node.name}: {', '.join(dependencies)}")

    assert not wrong, "\n".join(wrong)


def dependencies_of(node: ast.ClassDef) -> list[str]:
    """Return the constructor's parameters that are other parts of the system."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            parameters = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs][1:]
            return [p.arg for p in parameters if not is_value(p.annotation)]
    return []


def is_value(annotation: ast.expr | None) -> bool:
    if annotation is None:
        return False
    return set(re.findall(r"[A-Za-z_]\w*", ast.unparse(annotation))) <= VALUES


def test_dependencies_are_told_from_values() -> None:
    tree = ast.parse(
        "class A:\n"
        "    def __init__(self, db: Database, name: str, *, keep: int | None = None,"
        " call: Callable[[int], str], rooms: Mapping[RoomID, int]) -> None: ..."
    )

    node = tree.body[0]
    assert isinstance(node, ast.ClassDef)
    assert dependencies_of(node) == ["db", "call"]


def test_a_name_is_split_into_words() -> None:
    assert words_of("HTTPHandler") == {"HTTP", "Handler"}
    assert words_of("Base64Text") == {"Base64", "Text"}
    assert words_of("Database") == {"Database"}
