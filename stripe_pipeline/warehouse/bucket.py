"""The copy of the published file in an S3 bucket: immutable versions, and a small object that names the newest.

Which version is sent, and when, belongs to `warehouse`. boto3 is imported only here, and only if a bucket is set.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import filelock
import orjson

from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.days import DAY
from stripe_pipeline.errors import WarehouseError, scrub
from stripe_pipeline.published_folder import VARIABLE
from stripe_pipeline.storage_errors import reason
from stripe_pipeline.warehouse.extensions import load_extensions
from stripe_pipeline.warehouse.publisher import copied_at
from stripe_pipeline.warehouse.s3 import create_secret
from stripe_pipeline.warehouse.sql import literal

POINTER = "newest.json"
_PART = 8 << 20  # S3 allows parts from 5 MB
_PARTS = 10_000  # S3 allows no more
_KEPT = DAY  # seconds that a replaced version is kept
_VERSION = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-r(\d+)\.duckdb")


@dataclass(frozen=True)
class Sent:
    """A version that is in the bucket completely, as the data folder remembers it."""

    address: str = ""
    key: str = ""
    part_size: int = 0
    parts: list[str] = field(default_factory=list)
    """The SHA-256 of each part."""
    seconds: float = 0.0


class Bucket:
    """The place in a bucket, as `s3://bucket/prefix`, that the published file is sent to."""

    def __init__(self, folder: DataFolder, address: str) -> None:
        self.folder = folder
        self.address = address
        self._name, _, prefix = address.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.sent_bytes = 0
        """Bytes of parts that the last `send` uploaded; the others were copied within the bucket."""

    def send(self, version: Path, *, remove_before: int, within: float | None = None) -> None:
        """Sends this published version unless the bucket has it, and removes versions that were replaced a day ago, or
        that have a revision before `remove_before`, at once.

        `within`: nothing is sent if the last time took longer. Raises `WarehouseError`, which says why; the bucket then
        has the previous version, and the next call sends what is missing.
        """
        with self._explained("The published file could not be sent to"), self._turn() as is_ours:
            if not is_ours:
                return  # by a process that sends a version now; the next publish sends this one
            before = self._remembered()
            key = f"{self._prefix}versions/{version.parent.name}.duckdb"
            s3 = _client()
            if before.key != key:
                if within is not None and before.seconds > within:
                    return
                started = time.monotonic()
                self._abort_unfinished(s3)
                with version.open("rb") as file:  # stays readable if the version is removed meanwhile
                    sent = self._upload(s3, file, key, before)
                self._point_to(s3, key)
                self._remember(Sent(self.address, key, sent.part_size, sent.parts, time.monotonic() - started))
            self._remove_old(s3, key, remove_before)

    def newest(self) -> str | None:
        """Says which version the bucket has; None if none was sent yet. Raises `WarehouseError`."""
        with self._explained("The newest version could not be read from"):
            s3 = _client()
            found = s3.list_objects_v2(Bucket=self._name, Prefix=self._prefix + POINTER)
            if not found.get("Contents"):
                return None
            newest = self._pointer(s3)
            size = s3.head_object(Bucket=self._name, Key=newest["key"])["ContentLength"]
            return f"version {newest['revision']}, copied at {newest['copied_at'][:19]} UTC, {size / 1e6:,.0f} MB"

    @contextlib.contextmanager
    def open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yields a connection that has the newest version attached, and reads of it what queries need, with DuckDB's
        extension httpfs. Raises `WarehouseError`."""
        with self._explained("The newest version could not be read from"):
            import boto3
            from botocore.exceptions import NoCredentialsError

            s3, credentials = _client(), boto3.Session().get_credentials()
            if credentials is None:
                raise NoCredentialsError
            key = credentials.get_frozen_credentials()
            newest = self._pointer(s3)
        with duckdb.connect(":memory:") as connection:
            load_extensions(connection, ["httpfs"])
            create_secret(
                connection,
                key_id=key.access_key,
                secret=key.secret_key,
                session_token=key.token,
                region=s3.meta.region_name,
            )
            connection.execute(f"ATTACH {literal(newest['url'])} AS {CATALOG} (READ_ONLY)")
            connection.execute(f"USE {CATALOG}")
            yield connection

    def _pointer(self, s3: Any) -> dict[str, Any]:
        return dict(orjson.loads(s3.get_object(Bucket=self._name, Key=self._prefix + POINTER)["Body"].read()))

    def _upload(self, s3: Any, file: BinaryIO, key: str, before: Sent) -> Sent:
        size, self.sent_bytes = os.fstat(file.fileno()).st_size, 0
        part_size = max(_PART, -(-size // _PARTS // _PART) * _PART)
        if size <= part_size:
            content = file.read()
            s3.put_object(Bucket=self._name, Key=key, Body=content)
            self.sent_bytes = size
            return Sent(part_size=part_size, parts=[hashlib.sha256(content).hexdigest()])
        usable = before.part_size == part_size and before.key
        upload = {"Bucket": self._name, "Key": key}
        upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
        try:
            parts, tags = [], []
            for n, content in enumerate(iter(lambda: file.read(part_size), b"")):
                parts.append(hashlib.sha256(content).hexdigest())
                span = f"bytes={n * part_size}-{n * part_size + len(content) - 1}"
                tag = None
                if usable and n < len(before.parts) and before.parts[n] == parts[n]:
                    tag = self._copy_part(s3, upload, n + 1, before.key, span)
                if tag is None:
                    tag = s3.upload_part(**upload, PartNumber=n + 1, Body=content)["ETag"]
                    self.sent_bytes += len(content)
                tags.append({"PartNumber": n + 1, "ETag": tag})
            s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": tags})
        except BaseException:
            with contextlib.suppress(Exception):
                s3.abort_multipart_upload(**upload)
            raise
        return Sent(part_size=part_size, parts=parts)

    def _copy_part(self, s3: Any, upload: Mapping[str, str], number: int, source: str, span: str) -> str | None:
        """The tag of a part copied from another version; None if that version is gone."""
        from botocore.exceptions import ClientError

        try:
            copied = s3.upload_part_copy(
                **upload, PartNumber=number, CopySource={"Bucket": self._name, "Key": source}, CopySourceRange=span
            )
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return None
            raise
        return str(copied["CopyPartResult"]["ETag"])

    def _point_to(self, s3: Any, key: str) -> None:
        name, revision = _VERSION.fullmatch(key.rpartition("/")[2]).groups()  # type: ignore[union-attr]
        pointer = {
            "url": f"s3://{self._name}/{key}",
            "key": key,
            "revision": int(revision),
            "copied_at": copied_at(name).isoformat(),
        }
        s3.put_object(
            Bucket=self._name,
            Key=self._prefix + POINTER,
            Body=orjson.dumps(pointer),
            ContentType="application/json",
            CacheControl="no-cache",
        )

    def _remove_old(self, s3: Any, newest: str, remove_before: int) -> None:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=f"{self._prefix}versions/")
        found = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        versions = sorted(
            (copied_at(match[1]), int(match[2]), key)
            for key in found
            if (match := _VERSION.fullmatch(key.rpartition("/")[2]))
        )
        replaced = [*(at for at, _, _ in versions[1:]), datetime.now(UTC)]
        for (_, revision, key), replaced_at in zip(versions, replaced, strict=True):
            is_old = time.time() - replaced_at.timestamp() > _KEPT
            if key != newest and (is_old or revision < remove_before):
                s3.delete_object(Bucket=self._name, Key=key)

    def _abort_unfinished(self, s3: Any) -> None:
        """Removes the parts that a killed process has sent."""
        found = s3.list_multipart_uploads(Bucket=self._name, Prefix=f"{self._prefix}versions/")
        for upload in found.get("Uploads", ()):
            s3.abort_multipart_upload(Bucket=self._name, Key=upload["Key"], UploadId=upload["UploadId"])

    @contextlib.contextmanager
    def _turn(self) -> Iterator[bool]:
        lock = filelock.FileLock(self.folder.sent.with_suffix(".lock"), timeout=0, mode=0o600)
        try:
            lock.acquire()
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _remembered(self) -> Sent:
        try:
            sent = Sent(**orjson.loads(self.folder.sent.read_bytes()))
        except (OSError, ValueError, TypeError):
            return Sent()
        return sent if sent.address == self.address else Sent()

    def _remember(self, sent: Sent) -> None:
        new = self.folder.sent.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(orjson.dumps(asdict(sent)))
        new.replace(self.folder.sent)

    @contextlib.contextmanager
    def _explained(self, failure: str) -> Iterator[None]:
        """Turns errors of boto3 and of files into a `WarehouseError` without anything secret."""
        try:
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise WarehouseError(
                f"{failure} {self.address}, because boto3 is not installed", "Run `pip install 'stripe-pipeline[s3]'`"
            ) from None
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "an unknown error")
            raise WarehouseError(
                f"{failure} {self.address}: {error.operation_name} was answered with {code}",
                f"See that {VARIABLE} names an existing bucket, and that the credentials (AWS_ACCESS_KEY_ID and"
                " others) may list, read, write and delete objects in it; the next run tries again",
            ) from None
        except (BotoCoreError, ValueError, LookupError, TypeError) as error:
            raise WarehouseError(
                f"{failure} {self.address}: {scrub(str(error))}",
                "See that the AWS_… variables are right and the address can be reached; the next run tries again",
            ) from None
        except OSError as error:
            raise WarehouseError(f"{failure} {self.address}: {reason(error)}", "The next run tries again") from None


def _client() -> Any:
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 4})
    return boto3.client("s3", config=config)
