"""The statement of a problem: labels, losses, models, and the problem that they make."""

from . import batches, labels, losses, models
from .checks import check_kind, check_problem, check_tolerance, project
from .classes import class_logits, class_means, class_outputs, class_spectrum
from .contrastive import BatchedSupCon, Sigmoid, Spread, SupCon, convert
from .gram import (
    GramProgram,
    GroupGram,
    class_program,
    gram_program,
    group_program,
    why_no_gram_program,
    why_not_gram,
)
from .groups import LogitGroups, group_of_classes, grouped, logit_groups, why_not_groups
from .labels import Labels
from .losses import CrossEntropy, Focal, Loss, MeanSquaredError, WeightedTargets, register_loss
from .models import Model, Params
from .params import as_params
from .problem import Decay, Problem, Reduction, equal_classes, is_explicit, why_not_convex, why_not_logits
from .state import contrastive, deep, shallow, stack, state

__all__ = [
    "BatchedSupCon",
    "CrossEntropy",
    "Decay",
    "Focal",
    "GramProgram",
    "GroupGram",
    "Labels",
    "LogitGroups",
    "Loss",
    "MeanSquaredError",
    "Model",
    "Params",
    "Problem",
    "Reduction",
    "Sigmoid",
    "Spread",
    "SupCon",
    "WeightedTargets",
    "as_params",
    "batches",
    "check_kind",
    "check_problem",
    "check_tolerance",
    "class_logits",
    "class_means",
    "class_outputs",
    "class_program",
    "class_spectrum",
    "contrastive",
    "convert",
    "deep",
    "equal_classes",
    "gram_program",
    "group_of_classes",
    "group_program",
    "grouped",
    "is_explicit",
    "labels",
    "logit_groups",
    "losses",
    "models",
    "project",
    "register_loss",
    "shallow",
    "stack",
    "state",
    "why_no_gram_program",
    "why_not_convex",
    "why_not_gram",
    "why_not_groups",
    "why_not_logits",
]
