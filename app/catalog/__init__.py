"""Where products live: SQL is the truth, FAISS a view of it."""
