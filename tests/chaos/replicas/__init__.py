"""Replicas that share a state in PostgreSQL, in real time. Everything goes wrong at once, and no counter may fall."""
