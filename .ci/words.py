"""Name the lines that use words the project's English leaves out (CONTRIBUTING.md); exit with 1 if there are any."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORDS = {
    r"\bnews\b": "events or notifications",
    r"\bslips?\b": "typo",
    r"(?<!there )\b(is|are|was|were) no (?!longer\b|more\b|fewer\b|less\b|later\b|earlier\b)": "is not a …",
    r"\bfor ever\b": "forever",
}
"""What to write instead, by regular expression."""
EXCEPT = (".ci/words.py", "*.lock", "LICENSE")
PRONOUNS = {"it", "them"}
"""Names that no variable, parameter or loop may have."""


def words(text: str) -> Iterator[tuple[int, str]]:
    """The number of each line that uses one of `WORDS`, and what to write instead."""
    for number, line in enumerate(text.splitlines(), 1):
        for word, better in WORDS.items():
            if re.search(word, line, re.IGNORECASE):
                yield number, better


def pronouns(code: str) -> Iterator[tuple[int, str]]:
    """The number of each line of Python that gives a variable a pronoun as its name, and what to write instead."""
    for node in ast.walk(ast.parse(code)):
        name = None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            name = node.name
        if name in PRONOUNS:
            yield getattr(node, "lineno", 0), f"the noun that `{name}` stands for"


def problems(name: str) -> Iterator[str]:
    """The problems of one file, each with its line."""
    text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
    places = list(words(text))
    if name.endswith(".py"):
        places += pronouns(text)
    lines = text.splitlines()
    for number, better in sorted(places):
        yield f"{name}:{number}: {lines[number - 1].strip()}\n    write: {better}"


def main() -> int:
    """The exit status."""
    left_out = [f":!{pattern}" for pattern in EXCEPT]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *left_out]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    every = [problem for name in files if (ROOT / name).is_file() for problem in problems(name)]
    print("\n".join(every), end="\n" if every else "")
    return bool(every)


if __name__ == "__main__":
    sys.exit(main())
