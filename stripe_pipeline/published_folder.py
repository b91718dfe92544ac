"""The folder to share: the published file with its versions, the certificates and the report, and nothing secret.

`data/published` unless `STRIPE_PIPELINE_PUBLISH` names another folder; if it names a bucket, that gets a copy of the
published file. This module holds the paths and what is taken over from an earlier place; who may read them belongs to
`data_folder`, copying the warehouse to `warehouse.publisher`, and sending it to `warehouse.bucket`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stripe_pipeline.errors import SettingsError

NAME = "stripe.duckdb"
VARIABLE = "STRIPE_PIPELINE_PUBLISH"
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/[\w.!*'()/-]*)?", re.ASCII)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


@dataclass(frozen=True)
class PublishedFolder:
    """The layout of the folder to share."""

    root: Path

    @property
    def newest(self) -> Path:
        """A symlink to the file of the newest version."""
        return self.root / NAME

    @property
    def versions(self) -> Path:
        """Immutable copies of the warehouse, one folder each."""
        return self.root / "versions"

    @property
    def unfinished(self) -> Path:
        """The folder of the next version while it is made; a killed publish leaves it behind."""
        return self.versions / "next"

    @property
    def certificates(self) -> Path:
        """The certificates of closed months, as JSON and HTML."""
        return self.root / "certificates"

    @property
    def report(self) -> Path:
        """The report as an HTML page."""
        return self.root / "report.html"

    @property
    def folders(self) -> tuple[Path, ...]:
        """This folder and those in it."""
        return (self.root, self.versions, self.certificates)

    def contents(self) -> list[Path]:
        """The pipeline's files and folders here."""
        # Versions come first: if removing is interrupted, no version must be left to restore the warehouse from.
        known = (self.newest, self.newest.with_suffix(".next"), self.versions, self.certificates, self.report)
        return [path for path in known if path.is_symlink() or path.exists()]

    def holds_only_ours(self) -> bool:
        """Whether the folder exists and has no files of other programs."""
        return self.root.is_dir() and set(self.root.iterdir()) <= set(self.contents())

    def take_certificates(self, earlier: Iterable[Path]) -> None:
        """Moves the certificates in the folders `earlier` to this one, and removes these folders once they are empty.

        A certificate that exists here is newer and stays. Raises `OSError`.
        """
        for folder in earlier:
            if folder == self.certificates or folder.is_symlink() or not folder.is_dir():
                continue
            for file in sorted(folder.iterdir()):
                target = self.certificates / file.name
                if file.suffix not in (".json", ".html", ".next"):
                    continue
                if file.name.startswith(".") or target.exists():
                    file.unlink(missing_ok=True)
                else:
                    _move(file, target)
            with contextlib.suppress(OSError):
                folder.rmdir()


def published_folder(data_root: Path, environment: Mapping[str, str] = os.environ) -> PublishedFolder:
    """The folder that `STRIPE_PIPELINE_PUBLISH` names, else `published` in the data folder.

    Raises `SettingsError` for an address of anything but a folder or a bucket, and for a folder that holds the
    pipeline's other files.
    """
    named = environment.get(VARIABLE, "").strip()
    if named.startswith("file:/") and not urlsplit(named).netloc:
        named = unquote(urlsplit(named).path)
    if not named or published_bucket(environment):
        return PublishedFolder(data_root / "published")
    if url := _URL.match(named):  # the address may hold a password
        raise SettingsError(
            f"{VARIABLE} is an address that begins with {url[1]}:, and only a folder of this machine or"
            " s3://bucket/prefix can be published to",
            "Name one of these; credentials of a bucket belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    root = Path(named).expanduser().absolute()
    mine, data = root.resolve(), data_root.resolve()
    if data.is_relative_to(mine) or (mine.is_relative_to(data) and mine != (data / "published").resolve()):
        raise SettingsError(
            f"{VARIABLE} names {root}, which would share the private files of the data folder {data_root}",
            "Name a folder outside the data folder",
        )
    return PublishedFolder(root)


def published_bucket(environment: Mapping[str, str] = os.environ) -> str | None:
    """The place in a bucket, as `s3://bucket/prefix`, that `STRIPE_PIPELINE_PUBLISH` names."""
    named = environment.get(VARIABLE, "").strip()
    return named.rstrip("/") if _BUCKET.fullmatch(named) else None


def _move(source: Path, target: Path) -> None:
    """Moves a file, also to another file system, so that `target` is complete whenever it exists."""
    with contextlib.suppress(FileNotFoundError):  # another process has just moved it
        try:
            source.replace(target)
        except OSError:
            beside = target.with_name(f".{target.name}.next")
            shutil.copy2(source, beside)
            beside.replace(target)
            source.unlink(missing_ok=True)
