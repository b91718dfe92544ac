"""Name the lines that use words the project's English leaves out (CONTRIBUTING.md); exit with 1 if there are any."""

from __future__ import annotations

import re
import subprocess
import sys
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


def main() -> int:
    """The exit status."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *(f":!{it}" for it in EXCEPT)]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    problems = [
        f"{name}:{number}: {line.strip()}\n    write: {better}"
        for name in files
        if (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        for word, better in WORDS.items()
        if re.search(word, line, re.IGNORECASE)
    ]
    print("\n".join(problems), end="\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
