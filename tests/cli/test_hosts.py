"""Commands on several hosts that share an inbox in Postgres."""

from __future__ import annotations

import platform

import pytest

from tests.cli.test_cli import Project, Run, api, environment, project, run  # noqa: F401


def test_use_settings_makes_all_hosts_go_back(
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
    inbox_in_postgres: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older, newer = "history: 3 days", "history: 3 days\nobjects: {customers: {fields: {exclude: [email]}}}"

    def on_host(name: str, settings: str, command: str) -> tuple[int, str]:
        monkeypatch.setattr(platform, "node", lambda: name)
        project.settings(settings)
        ended = run(command, STRIPE_PIPELINE_INBOX=inbox_in_postgres)
        return ended.status, " ".join(f"{ended.out} {ended.err}".split())

    assert on_host("one", older, "sync")[0] == 0
    assert on_host("two", newer, "sync")[0] == 0
    status, text = on_host("one", older, "sync")
    assert status == 2
    assert "Host two replaced the settings" in text
    assert "run `stripe-pipeline use-settings` here" in text
    assert on_host("one", older, "use-settings") == (
        0,
        "The settings of this host apply from now on; a host with other ones is refused.",
    )
    assert on_host("one", older, "sync")[0] == 0
    status, text = on_host("two", newer, "sync")
    assert status == 2
    assert "Host one replaced the settings that this host has" in text


def test_use_settings_has_nothing_to_do_without_an_inbox_in_postgres(project: Project, run: Run) -> None:  # noqa: F811
    ended = run("use-settings")
    assert ended.status == 0
    assert "The inbox is not in Postgres" in ended.out
