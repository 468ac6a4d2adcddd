"""What the commands do, one module or package per command; `exporter.cli` has their flags."""
