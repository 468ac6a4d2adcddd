"""How much is fuzzed: `JOBRUN_TEST_FUZZ=5000` tries every value, and 5,000 polls per vendor."""

import os

from tests.fuzz.hostile_values import QUICK, VALUES

CASES = int(os.environ.get("JOBRUN_TEST_FUZZ", "0"))
LONG = CASES > 0
VALUES_HERE = VALUES if LONG else QUICK
