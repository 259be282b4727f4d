"""What has to be asked of the process before torch is loaded: products that do not depend on the number of threads, and
idle threads that do not ask for work for long.

Everything else here adds up in an order of its own: the kernels share a sum out in a fixed number of parts, torch's
deterministic mode orders what its own threads add. Products of matrices are the maths library's. Intel's MKL (which
torch's builds for x86 use for float32 and float64) shares the inner dimension of a product out among its threads where
that is long, as in the gradient of a weight, and may choose by where a matrix lies in memory. ``MKL_CBWR=AUTO,STRICT``
(its "conditional numerical reproducibility") forbids both. It is read once, at the process's first product.
"""

from __future__ import annotations

import os
import sys

VARIABLE = "MKL_CBWR"
SPIN = "GOMP_SPINCOUNT"


def before_torch() -> None:
    """Ask for all of it, unless the user has said something else. Of use before torch is loaded only."""
    if "torch" in sys.modules:
        return
    ask_for_same_bits()
    if "OMP_WAIT_POLICY" not in os.environ:
        # How long an idle thread keeps asking for work. By default for milliseconds, which on a machine that has
        # something else to do costs a small model most of its speed; briefly costs nothing where it has not.
        os.environ.setdefault(SPIN, "3000")


def ask_for_same_bits() -> None:
    """Let MKL give the same bits on any number of threads, unless the user has asked it for something. Only of use
    before the first product of this process; on processors and builds without MKL it changes nothing."""
    os.environ.setdefault(VARIABLE, "AUTO,STRICT")


def same_bits_on_any_threads() -> bool:
    """Whether MKL was asked so (by ``ask_for_same_bits`` or by the user), or is not there."""
    import torch

    asked = "STRICT" in os.environ.get(VARIABLE, "").upper()
    return asked or not torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
