"""The size of the fuzz tests. `JOBRUN_TEST_FUZZ=5000` tries all values, and 5,000 polls per vendor."""

import os

from tests.fuzz.hostile_values import VALUES, WORST_VALUES

FUZZ_CASES = int(os.environ.get("JOBRUN_TEST_FUZZ", "0"))
TESTED_VALUES = VALUES if FUZZ_CASES else WORST_VALUES
