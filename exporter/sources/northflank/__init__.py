"""Northflank."""
