"""Certificates of closed months: which are due, their files, and what changed since an earlier one.

What a certificate states belongs to `proof.certificate`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from zoneinfo import ZoneInfo

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import SETTLED
from stripe_pipeline.errors import SettingsError, WarehouseError
from stripe_pipeline.permissions import Permissions
from stripe_pipeline.proof.certificate import Certificate, Changed, Month, certify, differing, to_json
from stripe_pipeline.proof.certificate_page import page
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.storage_errors import reason, remedy
from stripe_pipeline.warehouse.warehouse import Warehouse


@dataclass(frozen=True)
class Certified:
    """A certificate that was made, and how the tables differ from the one that it replaces."""

    certificate: Certificate
    json: Path
    html: Path
    replaced: Certificate | None
    changed: list[Changed]
    """The rows that changed since the replaced certificate."""

    @property
    def is_new(self) -> bool:
        """Whether the rows differ from those of the replaced certificate, or there was none."""
        return self.replaced is None or self.replaced["rows_sha256"] != self.certificate["rows_sha256"]

    def lines(self, show: Callable[[Path], str] = str) -> list[str]:
        """What was certified, as text; `show` writes the path of a file."""
        certificate, mode = self.certificate, self.certificate["mode"]
        rows = sum(table["rows"] for table in certificate["tables"])
        lines = [
            f"Certificate of {certificate['month']}, {mode} mode: {certificate['verdict']}, {rows:,} rows",
            f"  Rows (SHA-256)  {certificate['rows_sha256']}",
            f"  Page            {show(self.html)}",
            f"  To verify       stripe-pipeline prove --verify {show(self.json)}",
        ]
        if self.replaced:
            same = "differ from those" if self.is_new else "are the same as"
            lines.append(
                f"  The rows {same} in the certificate of {self.replaced['made_at']}, which this one replaces."
            )
        return [*lines, *map(line_of, self.changed)]


def line_of(row: Changed) -> str:
    """A row that changed, as text."""
    return f"  {row.table} {row.id}, created {row.day}: {row.why}"


class Certificates:
    """Makes and reads the certificates of one data folder."""

    def __init__(self, warehouse: Warehouse, settings: Settings) -> None:
        self._warehouse = warehouse
        self._settings = settings
        self._folder = warehouse.folder

    def make(self, month: Month) -> list[Certified]:
        """The certificate of a closed month for each mode that was loaded, written to the data folder.

        Raises `SettingsError` if the month has not ended or nothing of it is kept, and `WarehouseError`.
        """
        with self._warehouse.session():
            return [self._make(month, account, livemode=mode) for account, mode in self._modes(month)]

    def last_closed(self) -> Month:
        """The last month that has ended in the time zone of the settings."""
        return Month.of(datetime.now(ZoneInfo(self._settings.time_zone)).date()).before

    def lacking(self) -> bool:
        """Whether a certificate of the last closed month is missing for a mode that was loaded up to its end."""
        month = self.last_closed()
        modes = self._loaded(month) if month.end > self._settings.first_day else []
        return any(not _path(self._folder, month, livemode=livemode).exists() for _, livemode in modes)

    def files(self, month: Month) -> list[Path]:
        """The certificates of a month, one for each mode."""
        paths = [_path(self._folder, month, livemode=livemode) for livemode in (True, False)]
        return [path for path in paths if path.exists()]

    def verify(self, path: Path) -> tuple[Certificate, list[str], list[Changed]]:
        """The certificate in a file, and how the tables differ from it; raises `SettingsError` for another file."""
        certificate = _read(path)
        if certificate is None:
            raise SettingsError(f"{path} does not exist", "Give the JSON file of a certificate")
        try:
            with self._warehouse.session(only_reads=True):
                sentences, changed = differing(self._warehouse.ask, self._settings, certificate)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError(
                f"{path} is not a certificate ({error})", "Give the JSON file of a certificate"
            ) from None
        return certificate, sentences, changed

    def _loaded(self, month: Month) -> list[tuple[str, bool]]:
        """The accounts and modes whose events were read beyond the month's end."""
        end = datetime.combine(month.end, datetime.min.time(), ZoneInfo(self._settings.time_zone)).timestamp() + SETTLED
        rows = self._warehouse.ask(
            "SELECT account, livemode FROM pipeline.cursors WHERE name = 'events'"
            f" AND epoch_us(read_until) / 1e6 > {end} ORDER BY livemode DESC"
        )
        return [(account, livemode) for account, livemode in rows]

    def _modes(self, month: Month) -> list[tuple[str, bool]]:
        if month.first > self.last_closed().first:
            raise SettingsError(
                f"The month {month} has not ended in {self._settings.time_zone}", f"Name one up to {self.last_closed()}"
            )
        if month.end <= self._settings.first_day:
            raise SettingsError(
                f"The month {month} is before {self._settings.first_day}, where the history begins",
                "Name a later month, or set `history` in the settings file to an earlier day",
            )
        modes = self._loaded(month)
        if not modes:
            raise WarehouseError(f"The month {month} is not loaded up to its end", "Run `stripe-pipeline sync` first")
        return modes

    def _make(self, month: Month, account: str, *, livemode: bool) -> Certified:
        path = _path(self._folder, month, livemode=livemode)
        replaced = _read(path)
        certificate = certify(
            self._warehouse.ask,
            self._settings,
            month,
            livemode=livemode,
            account=account,
            version=version("stripe-pipeline"),
            layout=self._warehouse.file.layout.fingerprint,
            now=time.time(),
            proofs=self._warehouse.proofs.stored(),
            previous=_read(_path(self._folder, month.before, livemode=livemode)),
        )
        changed: list[Changed] = []
        if replaced and replaced["rows_sha256"] != certificate["rows_sha256"]:
            _, changed = differing(self._warehouse.ask, self._settings, replaced)
            certificate["replaces"] = {
                "made_at": replaced["made_at"],
                "rows_sha256": replaced["rows_sha256"],
                "changed": [[row.table, str(row.day), row.id, row.why] for row in changed],
            }
        html = path.with_suffix(".html")
        permissions = Permissions(self._folder, self._settings.published.readable_by)
        try:
            for file, content in ((path, to_json(certificate)), (html, page(certificate).encode())):
                permissions.write_page(file, content)
        except OSError as error:
            raise WarehouseError(f"{path} cannot be written ({reason(error)})", remedy(error, path)) from error
        return Certified(certificate, path, html, replaced, changed)


def _path(folder: DataFolder, month: Month, *, livemode: bool) -> Path:
    return folder.shared.certificates / f"{month}-{'live' if livemode else 'test'}.json"


def _read(path: Path) -> Certificate | None:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read ({error})", "Give the JSON file of a certificate") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} is not a certificate", "Give the JSON file of a certificate")
    return content
