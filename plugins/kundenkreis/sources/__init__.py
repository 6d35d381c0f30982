"""Reads what other systems know into ``raw_<source>``: files, shops, CRMs.

Nothing here imports Airflow, and importing this package imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

from kundenkreis.errors import ConfigError

if TYPE_CHECKING:
    from kundenkreis.connections import Resolver
    from kundenkreis.settings import Settings


def extract(
    source_name: str,
    settings: Settings,
    resolve: Resolver,
    dsn: str,
    run_id: str,
    as_of_date: date,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Load what changed in one source since its last cursor into ``raw_<source_name>``.

    Everything that the source has is loaded, whatever ``as_of_date`` is: which events count for a
    date is the models' decision (design, section 1).

    Returns ``{"source": name, "tables": {table: rows loaded}, "rejected": rows quarantined}``.
    Raises ConfigError (no such source), CredentialError, VendorError, DataError, WarehouseError.
    """
    from kundenkreis.sources.base import Run

    source_settings = settings.sources.get(source_name)
    if source_settings is None:
        raise ConfigError(
            f"sources.yml has no source '{source_name}'. It has: "
            f"{', '.join(sorted(settings.sources)) or 'none'}."
        )
    region = settings.model.phone_default_region
    run = Run(source_name, dsn, run_id, as_of_date, progress, region)
    if source_name == "files":
        from kundenkreis.sources import files

        return files.extract(source_settings, run, settings.folder)
    if source_name == "woocommerce":
        from kundenkreis.sources import woocommerce

        return woocommerce.extract(source_settings, run, resolve)
    if source_name == "hubspot":
        from kundenkreis.sources import hubspot

        return hubspot.extract(source_settings, run, resolve)
    raise ConfigError(f"sources.yml: '{source_name}' is not a source this version can read.")
