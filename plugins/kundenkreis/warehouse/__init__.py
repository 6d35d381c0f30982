"""The warehouse: connection, embedded server, build, publish, quarantine, roles.

Here are only the names of the roles, so that a DAG can name them without loading a database
driver.
"""

from __future__ import annotations

LOADER = "kundenkreis_loader"
TRANSFORMER = "kundenkreis_transformer"
ACTIVATOR = "kundenkreis_activator"
READER = "kundenkreis_reader"
# Members see personal data in full.
SEES_PERSONAL_DATA = "kundenkreis_pii"
