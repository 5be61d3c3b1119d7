"""samesku: is this the same product? A matching service for photos and titles."""

__version__ = "0.1.0"
