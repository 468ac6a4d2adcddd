"""The commands, one module or package per command; `exporter.cli` has their flags."""
