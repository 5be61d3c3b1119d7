"""HTTP: the only layer that knows requests, statuses and JSON."""
