"""Citations of documentation resolve: in code, tests and configuration, and in links between Markdown files.

A citation is the path of a Markdown file below the folder `docs`, seen from the repository, with or without a heading's
anchor as GitHub makes it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = "docs"
SUFFIXES = (".py", ".md", ".yaml", ".toml")
NAMES = ("Makefile", ".ci/run")
NOT_OURS = {"data", "node_modules", "__pycache__"}
"""Folders that hold no sources, besides hidden ones."""

_CITATION = re.compile(rf"(?<![\w/.-])({DOCS}/[\w./-]*\w\.md)\b(?:#([\w-]+))?")
_HEADING = re.compile(r"#{1,6}\s+(.+?)(?:\s+#+)?\s*")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)>\s]+)>?(?:\s+[\"'][^)]*)?\)|^\s*\[[^\]]+\]:\s+<?([^>\s]+)>?")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


def sources(root: Path) -> Iterator[Path]:
    """The files below `root` that may cite documentation."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(it for it in names if it not in NOT_OURS and (not it.startswith(".") or it == ".ci"))
        for file in sorted(Path(folder, name) for name in files):
            if file.suffix in SUFFIXES or file.relative_to(root).as_posix() in NAMES:
                yield file


def prose(markdown: str) -> list[str]:
    """The lines of a Markdown text; those of fenced blocks are empty."""
    lines = []
    fence = ""
    for line in markdown.splitlines():
        mark = _FENCE.match(line)
        if fence:
            lines.append("")
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
        elif mark:
            fence = mark[1]
            lines.append("")
        else:
            lines.append(line)
    return lines


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a Markdown text, and those that it sets itself."""
    found: set[str] = set()
    repeated: Counter[str] = Counter()
    for line in prose(markdown):
        found.update(re.findall(r"<a\s+(?:id|name)=\"([^\"]+)\"", line))
        if heading := _HEADING.fullmatch(line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{anchor}-{repeated[anchor]}" if repeated[anchor] else anchor)
            repeated[anchor] += 1
    return found


def trouble(file: Path, anchor: str | None) -> str:
    """Why this file, or a heading in it, cannot be cited; empty if it can."""
    if not file.exists():
        return "the file does not exist"
    if not anchor or (file.suffix == ".md" and anchor in anchors(file.read_text(encoding="utf-8"))):
        return ""
    return f"{file.name} has no heading with this anchor"


def citations(root: Path) -> Iterator[tuple[str, str, str]]:
    """The citations below `root`: file and line, the citation, and what is wrong with it, if anything."""
    for file in sources(root):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            for cited in _CITATION.finditer(line):
                yield f"{file.relative_to(root)}:{number}", cited[0], trouble(root / cited[1], cited[2])


def links(root: Path) -> Iterator[tuple[str, str, str]]:
    """The relative links in README.md and below `docs`, as `citations` has them."""
    for file in (root / "README.md", *sorted((root / DOCS).rglob("*.md"))):
        for number, line in enumerate(prose(file.read_text(encoding="utf-8")), start=1):
            for link in _LINK.finditer(re.sub(r"`[^`]*`", "", line)):
                target = link[1] or link[2]
                if _SCHEME.match(target):
                    continue
                path, _, anchor = target.partition("#")
                where = f"{file.relative_to(root)}:{number}"
                yield where, target, trouble(file.parent / path if path else file, anchor)


def broken(found: list[tuple[str, str, str]]) -> str:
    """What is wrong, a line for each."""
    return "".join(f"\n{where}: {cited}: {why}" for where, cited, why in found if why)


def test_citations_of_documentation_resolve() -> None:
    found = list(citations(REPOSITORY))
    assert len(found) > 20
    if problems := broken(found):
        pytest.fail(f"Citations that do not resolve:{problems}", pytrace=False)


def test_links_between_documents_resolve() -> None:
    found = list(links(REPOSITORY))
    assert found
    if problems := broken(found):
        pytest.fail(f"Links that do not resolve:{problems}", pytrace=False)


def test_what_does_not_resolve_is_named_with_its_place(tmp_path: Path) -> None:
    docs = tmp_path / DOCS
    docs.mkdir()
    (docs / "one.md").write_text("# One\n\n[a](#one) [b](two.md#one) [c](https://example.com/no.md) `[d](no.md)`\n")
    cited = [f"{DOCS}/{name}" for name in ("one.md#one", "one.md", "one.md#two", "two.md")]
    (tmp_path / "README.md").write_text("\n".join(cited))
    assert broken(list(citations(tmp_path))) == (
        f"\nREADME.md:3: {DOCS}/one.md#two: one.md has no heading with this anchor"
        f"\nREADME.md:4: {DOCS}/two.md: the file does not exist"
    )
    assert broken(list(links(tmp_path))) == f"\n{DOCS}/one.md:3: two.md#one: the file does not exist"


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("## API versions", {"api-versions"}),
        ("### Trap 1: invoices, more than ten `lines`", {"trap-1-invoices-more-than-ten-lines"}),
        ("# stripe-python ##\n# a_b", {"stripe-python", "a_b"}),
        ("# Same\n# Same\n# [Same](https://example.com)", {"same", "same-1", "same-2"}),
        ("```sh\n# a comment\n```\n#no heading\n# One", {"one"}),
        ("~~~~\n~~~\n# not one\n~~~~\n# One", {"one"}),
    ],
)
def test_anchors_are_made_as_github_makes_them(markdown: str, expected: set[str]) -> None:
    assert anchors(markdown) == expected
