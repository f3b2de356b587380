"""What is asked: labels, losses, models and the problem they make."""

from . import labels, losses, models
from .labels import Labels
from .losses import CrossEntropy, Focal, Loss, MeanSquaredError
from .models import Model, Params
from .problem import Decay, Problem, Reduction, shallow, stack

__all__ = [
    "CrossEntropy",
    "Decay",
    "Focal",
    "Labels",
    "Loss",
    "MeanSquaredError",
    "Model",
    "Params",
    "Problem",
    "Reduction",
    "labels",
    "losses",
    "models",
    "shallow",
    "stack",
]
