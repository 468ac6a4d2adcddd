"""The config: reads and validates a file, and reports all its problems at once."""

from exporter.config.config import Config, KnownNames, Objective, load, loads, schema, secrets
from exporter.config.problems import ConfigError, ConfigProblem

__all__ = ["Config", "ConfigError", "ConfigProblem", "KnownNames", "Objective", "load", "loads", "schema", "secrets"]
