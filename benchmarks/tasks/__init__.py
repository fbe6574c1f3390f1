"""The tasks: what is hidden, what is asked, how it is scored."""

from .base import Task
from .experiment import EXPERIMENT
from .fusion import FEW_LABELS, FUSION
from .mosaic import MOSAIC
from .query import QUERY
from .rna_atac import RNA_ATAC, UNPAIRED
from .spatial import HIDDEN_GENES, SPATIAL

TASKS = {
    task.name: task
    for task in (
        *(FUSION, FEW_LABELS, MOSAIC, QUERY, EXPERIMENT),
        *(RNA_ATAC, UNPAIRED, SPATIAL, HIDDEN_GENES),
    )
}
