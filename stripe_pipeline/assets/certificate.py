"""The asset `proof/certificate`: the certificate of the last closed month, made once and verified every night.

What a certificate states belongs to `proof.certificate`, its files to `sync.certifying`.
"""

from typing import Any

import dagster as dg

from stripe_pipeline.assets.failure import failure
from stripe_pipeline.assets.freshness import EVERY_NIGHT
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.proof.certificate import Month
from stripe_pipeline.resources.pipeline import OpensPipeline
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.certifying import Certificates

_SHOWN = 50


class CertificateConfig(dg.Config):
    """Which month to certify."""

    month: str = ""
    """A closed month such as 2026-10, whose certificate is made again; by default the last one, if it has none."""


def build_certificate_asset(settings: Settings, names: Names) -> dg.AssetsDefinition:
    """The asset `proof/certificate`."""

    @dg.asset(
        key=names.certificate,
        deps=[dg.AssetDep(names.key_of(of), partition_mapping=dg.AllPartitionMapping()) for of in settings.enabled],
        description="The certificate of the last closed month, as JSON and as an HTML page: what the tables hold of the"
        " month, and what proves that this is right. Once made, the tables are compared with it every night.",
        group_name=names.own("proof"),
        kinds={"json"},
        required_resource_keys={names.resource},
        freshness_policy=EVERY_NIGHT,
    )
    def certificate(context: dg.AssetExecutionContext, config: CertificateConfig) -> dg.MaterializeResult[Any]:
        opens: OpensPipeline = getattr(context.resources, names.resource)
        try:
            wanted = Month.parse(config.month) if config.month else None
        except ValueError:
            raise dg.Failure(f"{config.month!r} is not a month such as 2026-10", allow_retries=False) from None
        try:
            with opens.open() as pipeline, opens.run_locks.holding(context.run.run_id):
                certificates = Certificates(pipeline.warehouse, pipeline.settings)
                month = wanted or certificates.last_closed()
                if wanted or certificates.lacking():
                    made = certificates.make(month)
                    changed = [row for certified in made for row in certified.changed]
                    shown = [(certified.certificate, certified.html) for certified in made]
                    for certified in made:
                        context.log.info("\n".join(certified.lines()))
                    sentences: list[str] = []
                else:
                    shown, sentences, changed = [], [], []
                    for path in certificates.files(month):
                        certificate, differences, rows = certificates.verify(path)
                        shown.append((certificate, path.with_suffix(".html")))
                        sentences += differences
                        changed += rows
        except StripePipelineError as error:
            raise failure(error) from None
        for sentence in sentences:
            context.log.warning(sentence)
        metadata: dict[str, Any] = {"month": str(month)}
        if not shown:
            metadata["note"] = f"The tables do not hold {month} up to its end: there is nothing to certify."
        for certificate, page in shown:
            mode = certificate["mode"]
            metadata |= {
                f"{mode}: verdict": certificate["sentence"],
                f"{mode}: rows (SHA-256)": certificate["rows_sha256"],
                f"{mode}: page": dg.MetadataValue.path(page),
            }
        if sentences:
            metadata["differs from the tables"] = "; ".join(sentences[:_SHOWN])
        if changed:
            metadata["rows that changed since"] = dg.MetadataValue.table(
                [
                    dg.TableRecord({"table": row.table, "day": str(row.day), "id": row.id, "why": row.why})
                    for row in changed[:_SHOWN]
                ]
            )
        return dg.MaterializeResult(metadata=metadata)

    return certificate
