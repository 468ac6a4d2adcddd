"""Grafana dashboards as code: `python -m dashboards` writes `grafana/*.json`.

Plain dictionaries rather than an SDK: a dashboard here is a table of panels, the JSON model of Grafana is what both
sides speak, and no dependency decides which Grafana it is written for. A test reads the result with Grafana's own
models (`grafana-foundation-sdk`), which know nothing of this package.
"""
