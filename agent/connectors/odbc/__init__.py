"""Databases behind an ODBC driver."""
