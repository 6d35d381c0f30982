"""Reads what other systems know into ``raw_<source>``: files, shops, CRMs.

Nothing here imports Airflow, and importing this package imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from kundenkreis.errors import ConfigError, DataError

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

    Returns ``{"source": name, "tables": {table: rows loaded}, "rejected": rows quarantined}``, and
    ``"erased"``, the rows of erased persons that were left out, where anybody was erased.
    Raises ConfigError (no such source), CredentialError, VendorError, DataError, WarehouseError.
    """
    from kundenkreis.privacy.keys import find_key
    from kundenkreis.sources.base import Run

    source_settings = settings.sources.get(source_name)
    if source_settings is None:
        raise ConfigError(
            f"sources.yml has no source '{source_name}'. It has: "
            f"{', '.join(sorted(settings.sources)) or 'none'}."
        )
    region = settings.model.phone_default_region
    run = Run(
        source_name,
        dsn,
        run_id,
        as_of_date,
        progress,
        region,
        erasure_key=lambda: find_key(resolve),
        test_email_domains=tuple(settings.model.test_email_domains),
    )
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


def probe(source_name: str, settings: Settings, resolve: Resolver, **options: Any) -> None:
    """Reach one source and read a record or find its files, to see that it answers. Loads nothing.

    Args:
        options: passed to the HTTP client, where the source has one.

    Raises ConfigError, CredentialError, VendorError, DataError.
    """
    source_settings = settings.sources[source_name]
    if source_name == "files":
        from kundenkreis.sources import files

        files.probe(source_settings, settings.folder)
    elif source_name == "woocommerce":
        from kundenkreis.sources import woocommerce

        woocommerce.probe(source_settings, resolve, **options)
    elif source_name == "hubspot":
        from kundenkreis.sources import hubspot

        hubspot.probe(source_settings, resolve, **options)


def check_released(
    source_name: str,
    table: str,
    payload: Mapping[str, Any],
    corrections: Mapping[str, Any],
    settings: Settings,
) -> None:
    """Validate a record that was rejected when it was loaded, as the source's next extract will.

    Args:
        payload: the record as the quarantine keeps it.
        corrections: field to the value to use instead.

    Raises:
        DataError: it is still wrong; says which field breaks which rule.
        ConfigError: the source, or the dataset the row came from, is not configured any more.
    """
    source_settings = settings.sources.get(source_name)
    region = settings.model.phone_default_region
    if source_settings is None:
        raise ConfigError(f"sources.yml has no source '{source_name}' any more.")
    if source_name == "files":
        from kundenkreis.sources import files

        name = payload.get("dataset")
        dataset = next((one for one in source_settings.datasets if one.name == name), None)
        if dataset is None:
            raise ConfigError(f"sources.yml: files has no dataset '{name}' any more.")
        files.check_released(dataset, payload, corrections, region)
        return
    from kundenkreis.sources import hubspot, woocommerce
    from kundenkreis.sources.base import Table, released_row

    tables: dict[str, Table] = {}
    if source_name == "woocommerce":
        tables = woocommerce.tables(source_settings, region)
    elif source_name == "hubspot":
        tables = hubspot.tables(source_settings, region)
    if table not in tables:
        raise DataError(f"{source_name} loads no table '{table}', so nothing can come back to it.")
    released_row(payload, corrections, tables[table])
