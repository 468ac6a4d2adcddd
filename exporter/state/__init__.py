"""Stores the ledger: in a SQLite file, or in PostgreSQL."""
