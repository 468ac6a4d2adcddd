"""Prometheus exporter for the job runs of hosted systems."""

__version__ = "0.1.0"
