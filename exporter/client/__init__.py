"""HTTP client with a request budget."""
