"""Errors a person may see.

Every message says what went wrong, where (file and key, or system and call) and what to do.
None may carry personal data or a secret: records are named by the vendor's own ids.
"""

from __future__ import annotations


class KundenkreisError(Exception):
    """Base of all errors shown to a person as one message, without a stack trace."""


class ConfigError(KundenkreisError):
    """A config file cannot be used. Names file, line, key, what was found and what is allowed."""


class CredentialError(KundenkreisError):
    """A credential is missing or was refused. Names the connection id."""


class VendorError(KundenkreisError):
    """A vendor's system is unreachable or answered wrongly. Names system, method and path."""


class DataError(KundenkreisError):
    """A whole file or table cannot be used. Names it and, where known, the line."""


class WarehouseError(KundenkreisError):
    """The warehouse cannot do what was asked. Names the object and what to do."""


class PublicationRefused(KundenkreisError):
    """The marts may not be published as they are; trying again changes nothing."""


class TransformError(KundenkreisError):
    """dbt stopped. Names the model or test that failed and the database's message."""


class GateFailure(KundenkreisError):
    """A critical expectation failed, or one raised. Names gate, table and expectation."""


class PlanOutdated(KundenkreisError):
    """The plan belongs to a publication that is no longer the current one."""


class Superseded(KundenkreisError):
    """Another run took over the build that this run had begun."""


class BuildBusy(KundenkreisError):
    """A backfill has to wait for the build of another run; trying again later helps."""
