"""Who may read the files of the data folder and of the published folder: their modes and their group.

Only the owner may access the files (folders 0700, files 0600), except those in the published folder, which the setting
`published.readable_by` opens to the group of the data folder or to everyone. `data_folder` holds the paths.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stripe_pipeline.data_folder import DataFolder

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Readers(StrEnum):
    """Who may read the published file."""

    OWNER = "owner"
    GROUP = "group"
    EVERYONE = "everyone"

    @property
    def folder_mode(self) -> int:
        """The mode of the data folder and of the published folder with all folders in it."""
        return {Readers.OWNER: 0o700, Readers.GROUP: 0o750, Readers.EVERYONE: 0o755}[self]

    @property
    def file_mode(self) -> int:
        """The mode of a published file, which is read-only."""
        return {Readers.OWNER: 0o400, Readers.GROUP: 0o440, Readers.EVERYONE: 0o444}[self]

    @property
    def page_mode(self) -> int:
        """The mode of certificates and the report, which are replaced by later ones."""
        return 0o200 | self.file_mode


@dataclass(frozen=True)
class Permissions:
    """Gives the files of a data folder the modes that let these users read what is published."""

    folder: DataFolder
    readers: Readers = Readers.OWNER

    def restrict(self) -> bool:
        """Give all files and folders here their proper modes; True if others had more access than the setting allows.

        Files of other users stay as they are, and so do the data folder and the published folder themselves if they
        hold other files: one may be a home folder.
        """
        opened = False
        if not self.folder.others():
            opened |= _set_mode(self.folder.root, self.readers.folder_mode)
        if self.folder.shared.holds_only_ours():
            opened |= _set_mode(self.folder.shared.root, self.readers.folder_mode)
        for folder in self.folder.private_folders:
            opened |= _set_mode(folder, 0o700)
        for file in self.folder.private_files:
            opened |= _set_mode(file, 0o600)
        for place in (self.folder.shared, *self.folder.earlier_places):
            opened |= _set_mode(place.versions, self.readers.folder_mode)
            for version in place.versions.iterdir() if place.versions.is_dir() else ():
                if version != place.unfinished:
                    opened |= self.open_version(version)
        opened |= _set_mode(self.folder.shared.certificates, self.readers.folder_mode)
        for page in (*self.folder.shared.certificates.glob("*.*"), self.folder.shared.report):
            opened |= self.open_page(page)
        return opened

    def open_version(self, version: Path) -> bool:
        """Let the readers read this version of the published file; True if others could read it before."""
        if self.readers is Readers.GROUP:
            self._give_to_group(version.parent, version, *version.glob("*.duckdb"))
        opened = [_set_mode(file, self.readers.file_mode) for file in version.glob("*.duckdb")]
        return _set_mode(version, self.readers.folder_mode) or any(opened)

    def write_page(self, page: Path, content: bytes) -> None:
        """Replace a certificate or the report at once, so that no reader sees a part of it. Raises `OSError`."""
        page.parent.mkdir(parents=True, exist_ok=True, mode=self.readers.folder_mode)
        beside = page.with_name(f".{page.name}.next")
        beside.unlink(missing_ok=True)
        beside.touch(mode=0o600)
        beside.write_bytes(content)
        self.open_page(beside)
        beside.replace(page)

    def open_page(self, page: Path) -> bool:
        """Let the readers read this certificate or report; True if others could read it before."""
        if self.readers is Readers.GROUP and page.exists():
            self._give_to_group(page.parent, page)
        return _set_mode(page, self.readers.page_mode)

    def _give_to_group(self, *paths: Path) -> None:
        """Give these paths to the group of the data folder, or of a published folder elsewhere: new files in a folder
        without the set-group-ID bit get the process's group."""
        group = (self.folder.elsewhere or self.folder).root.stat().st_gid
        for path in (self.folder.shared.root, *paths):
            with contextlib.suppress(OSError):  # another user's file, or this user is not in that group
                if path.stat().st_gid != group:
                    os.chown(path, -1, group)


def _set_mode(path: Path, mode: int) -> bool:
    """Set the mode of `path` if it exists; True if its old mode gave other users more access than `mode`."""
    with contextlib.suppress(OSError):  # missing, or another user's file
        before = stat.S_IMODE(path.stat().st_mode)
        if before & 0o777 != mode:
            path.chmod(mode | before & ~0o777)  # keeps the set-group-ID bit
            return bool(before & ~mode & _OTHERS)
    return False
