"""HTTP: the server, its guards (TLS, users, limits), and `/api/v1`."""
