"""Coverage-guided fuzzing of what reads strangers' bytes: the parsers that are ours, and the Python that they lean on.

    pip install atheris
    python -m tests.fuzzing zip --seconds 180

atheris is no dependency: `tests/unit/test_fuzzing.py` runs every target without it, on its seeds, on damage of those, and on
all that was ever found.
"""
