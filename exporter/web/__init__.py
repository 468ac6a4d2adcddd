"""HTTP: the server, what stands before it, and `/api/v1`."""
