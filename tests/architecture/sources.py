"""The source files of the packages, parsed."""

import ast
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("homeserver", "appservices", "agent_bridge")


@dataclass(frozen=True)
class Source:
    module: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))


@functools.cache
def nodes_of(source: Source) -> Sequence[ast.AST]:
    return list(ast.walk(source.tree))


@functools.cache
def list_sources(package: str) -> Sequence[Source]:
    """Return the modules of a package, which must have some."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        if "node_modules" in path.parts:
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text("utf-8")
        found.append(Source(module, path, text, ast.parse(text, str(path))))
    assert found, f"{package} has gone"
    return found


def all_sources() -> list[Source]:
    return [source for package in PACKAGES for source in list_sources(package)]


def imports_of(source: Source, known: set[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import, also inside functions.

    `from a import b` is an import of `a.b` where that is one of the `known` modules.
    """
    for node in nodes_of(source):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = source.module.split(".")
                if source.path.name == "__init__.py":
                    package.append("")
                base = ".".join([*package[: -node.level], *([base] if base else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            yield from ((node.lineno, name) for name in sorted(names & known))
            if names - known:
                yield node.lineno, base
