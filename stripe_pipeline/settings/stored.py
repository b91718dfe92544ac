"""The settings that decide which rows and fields are stored, for comparison between hosts.

Values are as they take effect: settings files that mean the same give the same values. A key is never among them.
"""

from __future__ import annotations

import hashlib
import hmac

from stripe_pipeline.settings.model import Settings


def stored(settings: Settings, hash_key: bytes | None) -> dict[str, str]:
    """The value of each such setting by its name in the settings file."""
    values = {"account": settings.account} if settings.account else {}
    if hash_key:
        values["STRIPE_PIPELINE_HASH_KEY"] = hmac.digest(hash_key, b"stripe_pipeline settings", hashlib.sha256).hex()
    for object_type in settings.enabled:
        key = f"objects.{object_type.name}"
        values |= {
            f"{key}.enabled": "true",
            f"{key}.fields": settings.rules(object_type).to_json(),
            f"{key}.date_field": str(settings.types[object_type.name].date_field),
            f"{key}.history": str(settings.history_begins(object_type)),
            f"{key}.retention": str(settings.retention_of(object_type)),
            f"{key}.on_delete": settings.on_delete_of(object_type).value,
        }
    return values
