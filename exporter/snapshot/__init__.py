"""Snapshots: frozen views of all committed records, shared by all readers."""
