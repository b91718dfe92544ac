"""Dagster's web server: on a host without the data folder, commands start their runs through it, where that folder is.

This module submits and follows a run, and shows how it ended. Which run a command needs belongs to `runs`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import typer
import urllib3

from stripe_pipeline.cli.terminal import complain, err, out
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import SettingsError, StripePipelineError
from stripe_pipeline.settings.environment import dagster_url
from stripe_pipeline.stripe_api.connections import connections

if TYPE_CHECKING:
    from dagster import AssetCheckKey, AssetKey

_TIMEOUT = 60.0  # seconds for one request
_POLL = 1.0  # seconds
_UNREACHABLE = 60.0  # seconds that the web server may be away while a run is followed
_STOPPING = 30.0  # seconds in which a run must have begun that is to be stopped
_LONGEST_REASON = 300  # characters of another program's message
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_PLACE = """
query ($asset: [String!]!) {
  assetNodes(assetKeys: [{ path: $asset }]) { repository { name location { name } } }
}
"""
_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_TERMINATE = """
mutation ($id: String!) { terminateRun(runId: $id) { __typename } }
"""
_PROGRESS = """
query ($id: ID!, $after: String) {
  runOrError(runId: $id) {
    ... on Run { status tags { key value } }
    ... on Error { message }
  }
  logsForRun(runId: $id, afterCursor: $after) {
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { message level }
        ... on RunFailureEvent { error { message } }
        ... on ExecutionStepFailureEvent {
          error { message }
          failureMetadata { description metadataEntries { label ... on TextMetadataEntry { text } } }
        }
        ... on MaterializationEvent {
          metadataEntries { label ... on TableMetadataEntry { table { records schema { columns { name } } } } }
        }
      }
    }
  }
}
"""


@dataclass
class Followed:
    """What is known of a run so far."""

    status: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    """What the run logged for information."""
    warnings: list[str] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The records of the tables in the metadata of materializations, by label."""
    failure: str = ""
    """Why the run failed."""
    error: str = ""
    """The class of the error of this package that the run failed with, if any did."""

    def add(self, event: dict[str, Any]) -> None:
        """Take note of an event of the run's log."""
        match event["__typename"]:
            case "LogMessageEvent" if event["level"] == "WARNING":
                self.warnings.append(event["message"])
            case "LogMessageEvent" if event["level"] == "INFO":
                self.messages.append(event["message"])
            case "MaterializationEvent":
                for entry in event["metadataEntries"]:
                    if table := entry.get("table"):
                        columns = [column["name"] for column in table["schema"]["columns"]]
                        records = map(orjson.loads, table["records"])
                        self.tables[entry["label"]] = [{name: record[name] for name in columns} for record in records]
            case "ExecutionStepFailureEvent" | "RunFailureEvent" if not self.failure:
                described = event.get("failureMetadata") or {}
                entries = {entry["label"]: entry.get("text") for entry in described.get("metadataEntries", ())}
                self.error = entries.get("error") or ""
                cause = (event.get("error") or {}).get("message") or event["message"]
                self.failure = described.get("description") or cause.strip().splitlines()[0]


class WebServer:
    """Dagster's web server at `url`. Every method raises `StripePipelineError` if it does not answer as expected."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connections = connections(url, _TIMEOUT)

    def submit(
        self,
        job: str,
        *,
        near: AssetKey,
        tags: Mapping[str, str] | None = None,
        assets: Sequence[AssetKey] | None = None,
        checks: Sequence[AssetCheckKey] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Submit a run of the job in the code location that has the asset `near`, of these `assets` and `checks` or all
        of the job; returns the id of the run."""
        nodes = self._query(_PLACE, asset=near.path)["assetNodes"]
        if not nodes:
            raise StripePipelineError(
                f"Dagster at {self._url} has no asset {near.to_user_string()}, or has not loaded its code location",
                "Let STRIPE_PIPELINE_DAGSTER_URL name the web server of this pipeline, and start its code server",
            )
        repository = nodes[0]["repository"]
        selector: dict[str, Any] = {
            "jobName": job,
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
        }
        if assets is not None:
            selector["assetSelection"] = [{"path": asset.path} for asset in assets]
        if checks is not None:
            selector.setdefault("assetSelection", [])
            selector["assetCheckSelection"] = [
                {"assetKey": {"path": check.asset_key.path}, "name": check.name} for check in checks
            ]
        params = {
            "selector": selector,
            "runConfigData": config or {},
            "executionMetadata": {"tags": [{"key": name, "value": value} for name, value in (tags or {}).items()]},
        }
        answer = self._query(_LAUNCH, params=params)["launchRun"]
        if "run" not in answer:
            messages = [answer.get("message"), *(error["message"] for error in answer.get("errors", ()))]
            reason = "; ".join(filter(None, messages)) or answer["__typename"]
            raise StripePipelineError(
                f"Dagster at {self._url} did not start the run: {_shortened(reason)}",
                f"The page {self._url}/deployment shows the state of the code server",
            )
        run_id: str = answer["run"]["runId"]
        err.print(f"The run {run_id} was submitted to Dagster: {self.page_of(run_id)}")
        return run_id

    def page_of(self, run_id: str) -> str:
        """The address of the page of this run."""
        return f"{self._url}/runs/{run_id}"

    def follow(self, run_id: str) -> Followed:
        """Wait for the end of the run. An interruption also stops the run."""
        followed, cursor, answered = Followed(), None, time.monotonic()
        try:
            while True:
                try:
                    answer = self._query(_PROGRESS, id=run_id, after=cursor)
                except StripePipelineError as error:
                    if time.monotonic() > answered + _UNREACHABLE:
                        raise StripePipelineError(
                            error.what, f"The run goes on: {self.page_of(run_id)} shows how it ends"
                        ) from None
                    time.sleep(_POLL)
                    continue
                answered = time.monotonic()
                run, log = answer["runOrError"], answer["logsForRun"]
                if "status" not in run or "events" not in log:
                    raise StripePipelineError(
                        f"Dagster at {self._url} no longer has the run {run_id}", "Start the command again"
                    )
                followed.status, cursor = run["status"], log["cursor"]
                followed.tags = {tag["key"]: tag["value"] for tag in run["tags"]}
                for event in log["events"]:
                    followed.add(event)
                if followed.status in _ENDED and not log["hasMore"]:
                    return followed
                if not log["hasMore"]:
                    time.sleep(_POLL)
        except KeyboardInterrupt:
            self._stop(run_id)
            raise

    def _stop(self, run_id: str) -> None:
        """Stop the run. Dagster cannot stop a run whose process is just starting."""
        ends = time.monotonic() + _STOPPING
        while time.monotonic() < ends:
            with contextlib.suppress(StripePipelineError):
                if self._query(_TERMINATE, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess":
                    return
            time.sleep(_POLL)
        err.print(f"The run could not be stopped: {self.page_of(run_id)} shows how it ends")

    def _query(self, text: str, **variables: object) -> dict[str, Any]:
        """The data of the answer to a GraphQL query."""
        try:
            answer = self._connections.request(
                "POST", f"{self._url}/graphql", json={"query": text, "variables": variables}, redirect=False
            )
            content = orjson.loads(answer.data)
            data: dict[str, Any] = content["data"]
            if "errors" in content:
                raise ValueError(content["errors"][0]["message"])
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError) as error:
            raise StripePipelineError(
                f"Dagster's web server at {self._url} does not answer as expected ({_shortened(error)})",
                "Start the web server, or correct STRIPE_PIPELINE_DAGSTER_URL",
            ) from error
        return data


def web_server() -> WebServer | None:
    """The web server through which a command starts its run; None if the command works in the data folder: the
    environment names no web server, or the warehouse is here. Raises `SettingsError`."""
    from stripe_pipeline.warehouse.recovery import holds_warehouse

    url = dagster_url()
    return WebServer(url) if url and not holds_warehouse(DataFolder.from_environment()) else None


def succeeded(run: Followed, page: str) -> Followed:
    """Show what a run on another host did; ends the command if the run failed."""
    from stripe_pipeline.assets.raw import SUMMARY_TAG
    from stripe_pipeline.sync.report import HEADINGS

    summary = run.tags.get(SUMMARY_TAG)
    for message in run.messages:
        if message.partition("\n")[0].split() == [*HEADINGS]:
            out.print(message)
    if summary:
        out.print(f"{summary}.")
    for warning in dict.fromkeys(run.warnings):
        out.print(warning)
    if run.status == "SUCCESS":
        return run
    if run.status == "CANCELED":
        raise StripePipelineError("The run was canceled in Dagster", "Start the command again: the run continues")
    if not run.error and not summary:
        raise StripePipelineError(f"The run failed unexpectedly: {run.failure}", f"{page} shows its log")
    complain(run.failure)
    raise typer.Exit(2 if run.error == SettingsError.__name__ else 1)


def refuse_elsewhere(command: str, alternative: str = "") -> None:
    """Raise `SettingsError` for a command that no run of Dagster stands for, if others start their runs through the web
    server here. `alternative` begins the remedy."""
    if web_server():
        raise SettingsError(
            f"`stripe-pipeline {command}` works in the data folder itself, and"
            f" {DataFolder.from_environment().root} holds no warehouse",
            f"{alternative}{'; or run' if alternative else 'Run'} `stripe-pipeline {command}` on the host of Dagster's"
            " code server, which has the warehouse",
        )


def _shortened(reason: object) -> str:
    return " ".join(str(reason).split())[:_LONGEST_REASON]
