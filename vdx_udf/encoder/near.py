"""All pairs of two sets of vectors that are near each other: matrix products of tiles, exact."""

import numpy as np

TILE = 2_048  # left vectors a product, at most
PRODUCTS = TILE * 8_192  # numbers in a product, 64 MiB: fewer left vectors where there are more right ones than in a block
MOST_PAIRS = 50_000_000  # in an answer: 600 MB
# float32 products of unit vectors of 512 to 1,024 numbers are off by less; pairs this close to the limit are computed again.
SLACK = 1e-5


def near(left: np.ndarray, right: np.ndarray, k: int, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs with an inner product of at least `least`; of each left vector only the k largest unless k is 0.

    `left` and `right` are float32 (N, dimension) and (M, dimension). Returns their numbers from 1, uint32 (pairs,) each,
    and the products, float32 (pairs,): by left vector, largest product first. The limit is applied to products in float64.
    Raises ValueError for more than MOST_PAIRS pairs.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    pairs, step = 0, min(TILE, max(1, PRODUCTS // max(1, len(right))))
    for start in range(0, len(left) if len(right) else 0, step):
        tile = left[start : start + step]
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
        if (pairs := pairs + len(rows)) > MOST_PAIRS:
            raise ValueError(f"more than {MOST_PAIRS:,} pairs; ask for a larger `least`, for k, or of fewer vectors")
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
