"""Labelled listings: tables with groups, labelled pairs, what is wrong with their rows, and folds."""
