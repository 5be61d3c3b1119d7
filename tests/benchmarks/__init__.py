"""The race: samesku against the plain service that a reader of the article would write. Run: `make bench`."""
