"""The reference pages in `docs/` are up to date with the code's declarations, and their queries run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import generate


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in this language."""
    text = (generate.DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_reference_pages_are_up_to_date() -> None:
    assert [page.name for page in generate.stale()] == [], "run `make docs`"


def test_every_generated_part_is_on_one_page() -> None:
    text = "".join((generate.DOCS / page).read_text(encoding="utf-8") for page in generate.PAGES)
    assert sorted(re.findall("<!-- generated: (.*) -->", text)) == sorted(generate.PARTS)
    assert text.count("<!-- end -->") == len(generate.PARTS)


def test_everything_on_the_reference_pages_is_described() -> None:
    assert generate.undescribed() == []


def test_a_stale_page_is_named_and_renewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for page in generate.PAGES:
        text = generate.renewed((generate.DOCS / page).read_text(encoding="utf-8"))
        (tmp_path / page).write_text(text.replace("| `amount_refunded` |", "| `amount_returned` |"), encoding="utf-8")
    old = tmp_path / "tables.md"
    assert generate.stale(tmp_path) == [old]

    assert generate.main(["--check"], folder=tmp_path) == 1
    assert "tables.md is stale" in capsys.readouterr().err
    assert generate.main([], folder=tmp_path) == 0
    assert "| `amount_refunded` |" in old.read_text(encoding="utf-8")
    assert generate.stale(tmp_path) == []


def test_every_query_of_the_tables_page_can_be_run() -> None:
    queries = blocks("tables.md", "sql")
    assert len(queries) >= 5
    warehouse = generate.empty_warehouse()
    for query in queries:
        warehouse.ask(query)
