"""Grafana dashboards as code: `python -m dashboards` writes `grafana/*.json`.

They are plain dictionaries; docs/decisions/dashboards-as-tables.md says why. A test parses the result with Grafana's
own models (`grafana-foundation-sdk`).
"""
