"""The evidence that comes with a bundle: a model card with plots and sheets of photos."""
