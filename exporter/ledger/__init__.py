"""The ledger: records all runs, each change in one transaction."""
