"""The configuration: what a file may say, read with all its problems at once."""

from exporter.config.config import Config, Objective, Settings, load, loads, schema, secrets
from exporter.config.problems import ConfigError, ConfigProblem

__all__ = ["Config", "ConfigError", "ConfigProblem", "Objective", "Settings", "load", "loads", "schema", "secrets"]
