import numpy as np

from ufm.measure import norms, register_measure


@register_measure("norm_spread", "longest minus shortest norm of the class means", needs="means")
def norm_spread(M):
    return np.ptp(norms(M))
