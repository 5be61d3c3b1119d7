"""What commands that do several things at the same time tell the libraries that bring threads of their own."""

from __future__ import annotations

import os

from threadpoolctl import ThreadpoolController


def share_cores() -> None:
    """Keeps helper threads from taking the cores that others need; to be called before FAISS and PyTorch are imported.

    Towers, search, decoding and commits run at the same time. OpenMP (in FAISS and PyTorch) lets threads that have nothing
    to do go round in circles, which it is told before it is loaded; the BLAS of NumPy and SciPy splits products of a few
    thousand numbers among all cores, and then waits for the slowest.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import scipy.linalg  # noqa: F401 - loads both, so that both can be told

    ThreadpoolController().select(prefix="libscipy_openblas").limit(limits=1)
