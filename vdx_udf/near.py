"""All pairs of two sets of vectors that are near each other: matrix products of tiles, exact."""

import numpy as np

TILE = 2_048  # left vectors a product: its result is then 64 MiB for the 8,192 right ones of a block
# float32 products of unit vectors of 512 to 1,024 numbers are off by less; pairs this close to the limit are computed again.
SLACK = 1e-5


def near(left: np.ndarray, right: np.ndarray, k: int, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs with an inner product of at least `least`; of each left vector only the k largest unless k is 0.

    `left` and `right` are float32 (N, dimension) and (M, dimension). Returns their numbers from 1, uint32 (pairs,) each,
    and the products, float32 (pairs,): by left vector, largest product first. The limit is applied to products in float64.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, len(left) if len(right) else 0, TILE):
        tile = left[start : start + TILE]
        products = tile @ right.T
        if 0 < k < len(right):
            columns = np.argpartition(products, len(right) - k, axis=1)[:, len(right) - k :].ravel()
            rows = np.repeat(np.arange(len(tile)), k)
            close = products[rows, columns] >= least - SLACK
            rows, columns = rows[close], columns[close]
        else:
            rows, columns = np.nonzero(products >= least - SLACK)
        exact = _products(tile, right, rows, columns)
        kept = exact >= least
        rows, columns, exact = rows[kept], columns[kept], exact[kept]
        order = np.lexsort((-exact, rows))
        found.append((rows[order] + start + 1, columns[order] + 1, exact[order]))
    rows, columns, exact = (np.concatenate(part) for part in zip(*found, strict=True)) if found else ([], [], [])
    return np.asarray(rows, np.uint32), np.asarray(columns, np.uint32), np.asarray(exact, np.float32)


def _products(left: np.ndarray, right: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float64 (pairs,): the inner product of each pair, a few pairs at a time."""
    parts = [
        np.einsum("ij,ij->i", left[rows[at : at + TILE]].astype(np.float64), right[columns[at : at + TILE]], dtype=np.float64)
        for at in range(0, len(rows), TILE)
    ]
    return np.concatenate(parts) if parts else np.empty(0)
