"""References to the specification name a document of its version 1.19."""

import ast
import re
from collections.abc import Iterator

from tests.architecture.sources import PACKAGES, ROOT, Source, all_sources, nodes_of

VERSION = "v1.19"
DOCUMENTS = re.compile(
    r"client-server-api|server-server-api|application-service-api|push-gateway-api"
    r"|identity-service-api|appendices|olm-megolm|proposals|rooms/v([1-9]|1[0-2])"
)
REFERENCE = re.compile(r"\b([a-z][a-z0-9/-]*?)/?#[a-z]")


def references_of(source: Source) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, text, whether of the module) of each paragraph of a docstring with `spec:`."""
    for node in nodes_of(source):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            is_module = isinstance(node, ast.Module)
            line = 1 if is_module else node.lineno  # type: ignore[union-attr]  # modules have none
            for paragraph in docstring.split("\n\n"):
                if "spec:" in paragraph:
                    yield line, paragraph[paragraph.index("spec:") :], is_module


def test_modules_name_the_version_they_were_written_for() -> None:
    wrong = [
        source.name
        for source in all_sources()
        for _, text, is_module in references_of(source)
        if is_module and VERSION not in text
    ]

    assert not wrong, "\n".join(wrong)


def test_no_other_version_is_named() -> None:
    wrong = [
        f"{source.name}:{line} {version}"
        for source in all_sources()
        for line, text, _ in references_of(source)
        for version in re.findall(r"\bv1\.\d+\b", text)
        if version != VERSION
    ]

    assert not wrong, "\n".join(wrong)


def test_references_name_documents_of_the_specification() -> None:
    wrong = [
        f"{source.name}:{line} {document}"
        for source in all_sources()
        for line, text, _ in references_of(source)
        for document in REFERENCE.findall(text)
        if not DOCUMENTS.fullmatch(document)
    ]

    assert not wrong, "\n".join(wrong)


def test_links_point_to_the_version() -> None:
    files = [
        file
        for place in (*PACKAGES, "docs", "config")
        for pattern in ("*.py", "*.md", "*.yaml")
        for file in (ROOT / place).rglob(pattern)
        if "node_modules" not in file.parts
    ]
    wrong = [
        f"{file.relative_to(ROOT)} {link}"
        for file in [*files, ROOT / "README.md"]
        for link in re.findall(r"spec\.matrix\.org/[\w./-]*", file.read_text("utf-8"))
        if not link.startswith(f"spec.matrix.org/{VERSION}/")
    ]

    assert not wrong, "\n".join(wrong)
