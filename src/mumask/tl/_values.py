"""Values of a modality, whatever their storage."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from mumask.data import canonical


def in_memory(matrix):
    """The values, read if they are in a file: sparse ones as CSR matrix, others as array.

    A ``csr_matrix`` even from a ``csr_array``, which scanpy's normalisation cannot take.
    """
    matrix = matrix.to_memory() if hasattr(matrix, "to_memory") else matrix
    return canonical(sp.csr_matrix(matrix)) if sp.issparse(matrix) else np.asarray(matrix)
