"""Replicas that share a state in PostgreSQL, in real time: everything goes wrong at once, and one series stays true."""
