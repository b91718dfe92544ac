"""The API of webhook endpoints: the only objects that requests can create, update and delete.

`shop` selects the events for an endpoint, `webhooks` sends the events.
"""

from __future__ import annotations

from stripe_emulator import parameters
from stripe_emulator.access import Access
from stripe_emulator.errors import StripeError
from stripe_emulator.store import Json

_TYPE = "webhook_endpoints"


def create(access: Access, params: Json) -> Json:
    """Answer `POST /v1/webhook_endpoints`."""
    access.permit(_TYPE, "write")
    parameters.allow_only(params, (*parameters.ENDPOINT_FIELDS, "api_version", "connect"))
    for name in ("enabled_events", "url"):
        if not params.get(name):
            raise StripeError(400, f"Missing required param: {name}.", param=name, code="parameter_missing")
    fields = parameters.endpoint_fields(params)
    version = parameters.text(params, "api_version") if "api_version" in params else None
    if version is not None:
        parameters.check_api_version(version, param="api_version")
    url, enabled_events = fields.pop("url"), fields.pop("enabled_events")
    return access.shop.create_webhook_endpoint(
        url, enabled_events, livemode=access.livemode, api_version=version, **fields
    )


def update(access: Access, endpoint_id: str, params: Json) -> Json:
    """Answer `POST /v1/webhook_endpoints/{id}`."""
    access.permit(_TYPE, "write")
    parameters.allow_only(params, (*parameters.ENDPOINT_FIELDS, "disabled"))
    if not access.holds(_TYPE, endpoint_id):
        raise access.missing(_TYPE, endpoint_id)
    fields = parameters.endpoint_fields(params)
    if "disabled" in params:
        fields["status"] = "disabled" if params["disabled"] == "true" else "enabled"
    if "metadata" in fields:
        stored = access.collection(_TYPE).objects[endpoint_id]["metadata"]
        merged = stored | fields["metadata"]
        fields["metadata"] = {name: value for name, value in merged.items() if value != ""}
    return access.shop.update(_TYPE, endpoint_id, livemode=access.livemode, **fields)


def delete(access: Access, endpoint_id: str, params: Json) -> Json:
    """Answer `DELETE /v1/webhook_endpoints/{id}`."""
    access.permit(_TYPE, "write")
    parameters.allow_only(params, ())
    if not access.holds(_TYPE, endpoint_id):
        raise access.missing(_TYPE, endpoint_id)
    access.shop.vanish(_TYPE, endpoint_id, livemode=access.livemode)
    return {"id": endpoint_id, "object": "webhook_endpoint", "deleted": True}
