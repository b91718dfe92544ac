"""HTML pages without scripts or other files: style, tables and verdicts; light and dark, for screens and for paper.

What a page says belongs to `proof.certificate_page` and `report.page`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MARKS = {"proved": "✓", "open": "○", "failed": "✗"}
"""The mark of each verdict."""
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.verdict { border-left: .4rem solid; margin: 1rem 0; padding: .5rem 1rem; font-weight: 600; }
.proved { border-color: #2e7d32; } .open { border-color: #b26a00; } .failed { border-color: #c62828; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); padding: .25rem .6rem;
  text-align: left; vertical-align: top; } td.n, th.n { text-align: right; white-space: nowrap; }
code { font-size: .85em; overflow-wrap: anywhere; } dl { display: grid; grid-template-columns: max-content 1fr;
  gap: .2rem 1rem; } dt { opacity: .7; } dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; } }
""".strip()
_RIGHT = ' class="n"'


def document(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """The page with this title (plain text); `parts` are HTML, `style` is CSS beside that of all pages."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}\n{style}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )


def verdict_line(verdict: str, sentence: str) -> str:
    """A verdict in one sentence (plain text)."""
    return f'<p class="verdict {escape(verdict)}">{MARKS[verdict]} {escape(sentence)}</p>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text; a column whose values are all numbers is aligned to the right. Without rows, says so."""
    rows = list(rows)
    if not rows:
        return "<p>None.</p>"
    numeric = [all(_is_number(row[n]) for row in rows) for n in range(len(headings))]

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{_RIGHT if right else ''}>{escape(value)}</{tag}>"
            for value, right in zip(values, numeric, strict=True)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<tr>{cells("th", headings)}</tr>\n{body}\n</table></div>'


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).lstrip("-−").removesuffix("%").isdigit() or text == "–"
