"""A flat map of feature vectors: principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """Feature vectors in few dimensions.

    Attributes
    ----------
    points : array (records, components)
        Principal components of the standardised features.
    explained : array (components,)
        Share of the whole variance that each explains, 0 to 1.
    """

    points: NDArray[np.float64]
    explained: NDArray[np.float64]


def principal_components(vectors: NDArray[Any], count: int = 2) -> FeatureMap:
    """Project feature vectors on the directions of their largest variance.

    Parameters
    ----------
    vectors : array (records, features)
        Finite; they are standardised first, as the choice of frames does.
    count : int
        How many components; where there are fewer, the rest is zero.

    Notes
    -----
    The sign of each component is fixed by its largest loading (scikit-learn's ``svd_flip``).
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(np.asarray(vectors, dtype=np.float64))
    found = min(count, *scaled.shape)
    points, explained = np.zeros((len(scaled), count)), np.zeros(count)
    if found and np.any(scaled):
        solver = "full" if scaled.shape[0] < scaled.shape[1] else "covariance_eigh"
        model = PCA(found, svd_solver=solver)
        points[:, :found] = model.fit_transform(scaled)
        explained[:found] = model.explained_variance_ratio_
    return FeatureMap(points, explained)
