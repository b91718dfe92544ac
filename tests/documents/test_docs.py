"""Everything that the documentation names exists: pages that code cites, links, files, commands, options, targets.

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
import typer

import stripe_pipeline.cli.main  # noqa: F401  (registers the commands)
from stripe_pipeline.cli.app import app
from stripe_pipeline.proof.balance import BALANCE
from stripe_pipeline.proof.proving import NAMES as NAMES_OF_CHECKS
from stripe_pipeline.proof.summary import SAMPLED
from stripe_pipeline.settings.model import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = "docs"
SUFFIXES = (".py", ".md", ".yaml", ".toml")
NAMES = ("Makefile", ".ci/run")
NOT_OURS = {"data", "dist", "node_modules", "__pycache__"}
"""Folders that hold no sources, besides hidden ones."""
OF_USERS = {"defs.yaml", "stripe_eu_pipeline.yaml", "workspace.yaml"}
"""Files in the projects of users."""

_CITATION = re.compile(rf"(?<![\w/.-])({DOCS}/[\w./-]*\w\.md)\b(?:#([\w-]+))?")
_HEADING = re.compile(r"#{1,6}\s+(.+?)(?:\s+#+)?\s*")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)>\s]+)>?(?:\s+[\"'][^)]*)?\)|^\s*\[[^\]]+\]:\s+<?([^>\s]+)>?")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_SPAN = re.compile(r"`([^`]+)`")
_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*(?:\.(?:py|md|yaml|toml|lock)|/)")
_DRAWING = re.compile(r"```mermaid\n.*?```", re.DOTALL)
_COMMAND = re.compile(r"\bstripe-pipeline(?![\w-]) ?((?:[a-z]+(?:-[a-z]+)* ?)*)([^#]*)")
_MAKE = re.compile(r"^make((?: [\w./-]+(?![\w./-]*=))+)")
WIDTH = 120


def sources(root: Path) -> Iterator[Path]:
    """The files below `root` that may cite documentation."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(
            name for name in names if name not in NOT_OURS and (not name.startswith(".") or name == ".ci")
        )
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
    """The anchors that GitHub gives to the headings of a Markdown text, and those that the text sets itself."""
    names: set[str] = set()
    repeated: Counter[str] = Counter()
    for line in prose(markdown):
        names.update(re.findall(r"<a\s+(?:id|name)=\"([^\"]+)\"", line))
        if heading := _HEADING.fullmatch(line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            names.add(f"{anchor}-{repeated[anchor]}" if repeated[anchor] else anchor)
            repeated[anchor] += 1
    return names


def trouble(file: Path, anchor: str | None) -> str:
    """The reason why this file, or a heading in it, cannot be cited; empty if there is none."""
    if not file.exists():
        return "the file does not exist"
    if not anchor or (file.suffix == ".md" and anchor in anchors(file.read_text(encoding="utf-8"))):
        return ""
    return f"{file.name} has no heading with this anchor"


def citations(root: Path) -> Iterator[tuple[str, str, str]]:
    """The citations below `root`: file and line, the citation, and the problem with it, empty if there is none."""
    for file in sources(root):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            for cited in _CITATION.finditer(line):
                yield f"{file.relative_to(root)}:{number}", cited[0], trouble(root / cited[1], cited[2])


def pages(root: Path) -> list[Path]:
    """The Markdown files that people read: those beside README.md, and those below `docs`."""
    return [*sorted(root.glob("*.md")), *sorted((root / DOCS).rglob("*.md"))]


def links(root: Path) -> Iterator[tuple[str, str, str]]:
    """The relative links in the pages, as `citations` has them."""
    for file in pages(root):
        for number, line in enumerate(prose(file.read_text(encoding="utf-8")), start=1):
            for link in _LINK.finditer(re.sub(r"`[^`]*`", "", line)):
                target = link[1] or link[2]
                if _SCHEME.match(target):
                    continue
                path, _, anchor = target.partition("#")
                where = f"{file.relative_to(root)}:{number}"
                yield where, target, trouble(file.parent / path if path else file, anchor)


def paths(root: Path) -> Iterator[tuple[str, str, str]]:
    """The files and folders that the pages name as code, as `citations` has them.

    Those of the package may be named by their path in it. The changelog may name files of earlier versions.
    """
    for file in pages(root):
        for number, line in enumerate(prose(file.read_text(encoding="utf-8")), start=1):
            for span in _SPAN.finditer(line):
                name = span[1]
                ours = name.partition("/")[0] not in NOT_OURS and not name.startswith("_")
                if file.name == "CHANGELOG.md" or not ours or name in OF_USERS or not _PATH.fullmatch(name):
                    continue
                exists = any((start / name).exists() for start in (root, root / "stripe_pipeline"))
                yield f"{file.relative_to(root)}:{number}", name, "" if exists else "the file does not exist"


def code(root: Path) -> Iterator[tuple[str, str]]:
    """File and line, and the code there: spans, and the lines of fenced blocks that are not drawings."""
    for file in pages(root):
        text = _DRAWING.sub(lambda drawing: "\n" * drawing[0].count("\n"), file.read_text(encoding="utf-8"))
        for number, (line, outside) in enumerate(zip(text.splitlines(), prose(text), strict=True), start=1):
            where = f"{file.relative_to(root)}:{number}"
            shown = [span[1] for span in _SPAN.finditer(outside)] if outside or not line.strip() else [line.strip()]
            yield from ((where, piece) for piece in shown)


def commands() -> dict[str, set[str]]:
    """The commands of `stripe-pipeline`, for example `webhooks list`, with their options."""
    options: dict[str, set[str]] = {}
    waiting = [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        options[name] = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        waiting += [(f"{name} {sub}".strip(), child) for sub, child in getattr(command, "commands", {}).items()]
    return options


def wrong_command(shown: str, known: dict[str, set[str]]) -> str:
    """What is wrong with the command that a piece of code shows. Empty if the command is right, or if the code shows
    no command."""
    match = _COMMAND.search(re.sub("^(?=webhooks )", "stripe-pipeline ", shown))
    if not match:
        return ""
    words = match[1].split()
    depth = 2 if words[:1] == ["webhooks"] else 1
    name = " ".join(words[:depth])
    if name not in known:
        return f"the command {name} does not exist"
    unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", match[2])) - known[name]
    return f"{name} has no option {', '.join(sorted(unknown))}" if unknown else ""


def broken(places: list[tuple[str, str, str]]) -> str:
    """The problems among these places, one line each."""
    return "".join(f"\n{where}: {cited}: {why}" for where, cited, why in places if why)


def test_citations_of_documentation_resolve() -> None:
    places = list(citations(REPOSITORY))
    assert len(places) > 20
    if problems := broken(places):
        pytest.fail(f"Citations that do not resolve:{problems}", pytrace=False)


def test_links_between_documents_resolve() -> None:
    places = list(links(REPOSITORY))
    assert places
    if problems := broken(places):
        pytest.fail(f"Links that do not resolve:{problems}", pytrace=False)


def test_files_that_the_pages_name_exist() -> None:
    places = list(paths(REPOSITORY))
    assert {where.partition(":")[0] for where, _, _ in places} >= {"CONTRIBUTING.md", f"{DOCS}/settings.md"}
    if problems := broken(places):
        pytest.fail(f"Files that do not exist:{problems}", pytrace=False)


def test_commands_and_options_that_the_pages_show_exist() -> None:
    known = commands()
    places = [(where, shown, wrong_command(shown, known)) for where, shown in code(REPOSITORY)]
    assert len([shown for _, shown, _ in places if "stripe-pipeline" in shown]) > 50
    if problems := broken(places):
        pytest.fail(f"Commands that do not exist:{problems}", pytrace=False)


def test_every_command_is_described() -> None:
    text = (REPOSITORY / DOCS / "operating.md").read_text(encoding="utf-8")
    section = text.partition("\n## Commands\n")[2].partition("\n## ")[0]
    shown = [span[1].removeprefix("stripe-pipeline ") for span in _SPAN.finditer(section)]
    described = {name for name in commands() if any(f"{piece} ".startswith(f"{name} ") for piece in shown)}
    assert commands().keys() - described == {""}


def test_make_targets_that_the_pages_show_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8").replace("$(VENV)", ".venv")
    targets = set(re.findall(r"^([\w./-]+):(?!=)", makefile, re.MULTILINE))
    places = [
        (where, shown, "" if target in targets else f"the target {target} does not exist")
        for where, shown in code(REPOSITORY)
        for make in _MAKE.finditer(shown.split("#")[0])
        for target in make[1].split()
    ]
    assert len(places) > 10
    if problems := broken(places):
        pytest.fail(f"Targets that do not exist:{problems}", pytrace=False)


def test_names_that_the_recipes_mention_exist() -> None:
    names = set()
    for line in prose((REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        names |= {name for name in _SPAN.findall(line) if re.fullmatch(r"[\w.]*[A-Z_][\w.]*", name)}
    names = {name for name in names if not _PATH.fullmatch(name)}
    assert len(names) > 10
    sources_of = [*(REPOSITORY / "stripe_pipeline").rglob("*.py"), *(REPOSITORY / "stripe_emulator").rglob("*.py")]
    others = ("tests/whole/test_real_input.py", "tests/stripe_emulator/test_schemas.py", "Makefile")
    sources_of += [REPOSITORY / name for name in others]
    words = {word for file in sources_of for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))}
    assert {name for name in names if not words.issuperset(name.split("."))} == set()


def test_the_readme_names_every_table() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## The data\n")[2].partition("\n## ")[0]
    assert {object_type.name for object_type in Settings().enabled} <= set(_SPAN.findall(section))


def test_the_page_on_proofs_names_every_check() -> None:
    text = (REPOSITORY / DOCS / "operating.md").read_text(encoding="utf-8")
    section = text.partition("\n## Proofs\n")[2].partition("\n### ")[0]
    assert {BALANCE, SAMPLED, *NAMES_OF_CHECKS} <= set(_SPAN.findall(section))


def test_the_pages_are_easy_to_read_in_a_terminal() -> None:
    """No line is wider than an editor's window, but for tables, which cannot be wrapped."""
    for file in pages(REPOSITORY):
        lines = file.read_text(encoding="utf-8").splitlines()
        wide = [line for line in lines if len(line) > WIDTH and (file.name == "CONTRIBUTING.md" or line[:1] != "|")]
        assert wide == [], file
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_citations_and_links_that_do_not_resolve_are_named_with_their_place(tmp_path: Path) -> None:
    docs = tmp_path / DOCS
    docs.mkdir()
    (docs / "one.md").write_text("# One\n\n[a](#one) [b](two.md#one) [c](https://example.com/no.md) `[d](no.md)`\n")
    cited = [f"{DOCS}/{name}" for name in ("one.md#one", "one.md", "one.md#two", "two.md")]
    (tmp_path / "README.md").write_text("\n".join(cited))
    (tmp_path / "CONTRIBUTING.md").write_text("`one.py`, `data/`, [e](three.md)\n")
    assert broken(list(citations(tmp_path))) == (
        f"\nREADME.md:3: {DOCS}/one.md#two: one.md has no heading with this anchor"
        f"\nREADME.md:4: {DOCS}/two.md: the file does not exist"
    )
    assert broken(list(links(tmp_path))) == (
        f"\nCONTRIBUTING.md:1: three.md: the file does not exist\n{DOCS}/one.md:3: two.md#one: the file does not exist"
    )
    assert broken(list(paths(tmp_path))) == ("\nCONTRIBUTING.md:1: one.py: the file does not exist")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (".venv/bin/stripe-pipeline check", ""),
        ("stripe-pipeline prune --dry-run", ""),
        ("stripe-pipeline prune --dry", "prune has no option --dry"),
        ("stripe-pipeline load", "the command load does not exist"),
        ("webhooks send", "the command webhooks send does not exist"),
        ("stripe-pipeline webhooks register --url URL --replace", ""),
        ("stripe-pipeline --version", ""),
    ],
)
def test_a_command_that_does_not_exist_is_named(shown: str, expected: str) -> None:
    assert wrong_command(shown, commands()) == expected


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
