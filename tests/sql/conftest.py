"""What the tests of the SQL files share."""

import re

import numpy as np

from vdx_udf import statements
from vdx_udf.commands.reference import sql_objects
from vdx_udf.installer.bundle import bundle_folder


def documented(place: str = "") -> list[tuple[str, str, str]]:
    """(kind, name, the comment above it) of every object that the SQL files of a folder, or one file, create."""
    files = statements.sql_files(bundle_folder("sql") / place)
    return [(found.kind, found.name, found.comment) for path in files for found in sql_objects(path)]


def states_its_purpose(name: str, comment: str) -> bool:
    return bool(re.match(rf"{name}(\([\w, ]*\))?: [A-Za-z].*[.:]", comment.replace("\n", " ")))


def exact(client, target: str, leave_out: tuple[int, ...] = (), where: str = "1") -> list[int]:
    """The 9 nearest ids by brute force in numpy."""
    rows = client.query(f"SELECT id, vector FROM images WHERE {where}").result_rows
    if not rows:
        return []
    vectors = np.array([row[1] for row in rows], np.float32)
    query = np.array(client.query(f"SELECT {target}").result_rows[0][0], np.float32)
    distances = 1 - vectors @ query / np.linalg.norm(query)
    order = [rows[i][0] for i in np.argsort(distances, kind="stable")]
    return [id for id in order if id not in leave_out][:9]
