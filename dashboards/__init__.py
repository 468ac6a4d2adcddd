"""Grafana dashboards as code: `python -m dashboards` writes `grafana/*.json`.

Plain dictionaries rather than an SDK: docs/decisions/dashboards-as-tables.md says why. A test reads the result with
Grafana's own models (`grafana-foundation-sdk`), which know nothing of this package.
"""
