"""What should the numbers be? The papers' equations in float64, slow and obvious, numpy only.

Everything fast in this project is compared with what stands here. Symbols and numbers of
equations are those of the Fast-ParC paper; `docs/operator.md` has the table.
"""

from parc_hw.reference.algorithm import algorithm_1_fourier, algorithm_1_spatial
from parc_hw.reference.bound import UNIT_ROUNDOFF, depth_bound, direct_depth, parc_bound
from parc_hw.reference.dft import dft, inverse_dft, theorem_1
from parc_hw.reference.equations import equation_2, equation_3, equation_4, parc
from parc_hw.reference.fold import BatchNorm, fold_batch_norm, fold_position_embedding
from parc_hw.reference.resize import RESIZES, resize
from parc_hw.reference.split import split_correlate

__all__ = [
    "RESIZES",
    "UNIT_ROUNDOFF",
    "BatchNorm",
    "algorithm_1_fourier",
    "algorithm_1_spatial",
    "depth_bound",
    "dft",
    "direct_depth",
    "equation_2",
    "equation_3",
    "equation_4",
    "fold_batch_norm",
    "fold_position_embedding",
    "inverse_dft",
    "parc",
    "parc_bound",
    "resize",
    "split_correlate",
    "theorem_1",
]
