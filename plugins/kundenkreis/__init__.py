"""Kundenkreis: customer lifecycle segments, built nightly and kept in step with the email tools."""

__version__ = "0.1.0"
