"""Prometheus exporter for the job runs of hosted systems."""

__version__ = "0.2.0"
