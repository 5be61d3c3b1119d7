"""From bytes and text to unit vectors: the same code for training and for serving."""
