"""What is fitted to data: projections, thresholds."""
