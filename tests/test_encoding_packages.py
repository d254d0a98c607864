"""bgpy.encoding on what pandas and matplotlib really make; numpy is in test_encoding."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest

from bgpy.encoding import other_nulls, to_json, to_json_limited

pd: Any = pytest.importorskip("pandas")


def test_data_frame_is_csv_with_its_index() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["é", None]}, index=["x", "y"])
    assert to_json(frame) == ",a,b\nx,1,é\ny,2,\n" == frame.to_csv(lineterminator="\n")
    assert to_json({"frame": frame}) == {"frame": to_json(frame)}
    assert to_json(pd.DataFrame()) == '""\n'


def test_index_and_series_are_lists() -> None:
    assert to_json(pd.DataFrame({"a": [1], "b": [2]}).columns) == ["a", "b"]
    assert to_json(pd.RangeIndex(2)) == [0, 1]
    assert to_json(pd.MultiIndex.from_tuples([("a", 1)])) == [["a", 1]]
    assert to_json(pd.Series([1.5, None], index=["x", "y"])) == [1.5, None]
    assert to_json(pd.Series(["a", None])) == ["a", None]
    assert to_json(pd.Categorical(["a", "b"])) == ["a", "b"]
    assert to_json(pd.array([1, None])) == [1, None]


def test_it_is_told_what_is_missing() -> None:
    nulls: set[str] = set()
    to_json_limited([pd.NaT, pd.NA, pd.Series([0.5, None])], 100, nulls)
    assert other_nulls(nulls) == ["NA", "NaN", "NaT"]


def test_moments_are_iso_8601_and_spans_are_seconds() -> None:
    assert to_json([pd.Timestamp("2024-05-06T01:02"), pd.NaT, pd.NA, pd.Period("2024-05")]) == [
        "2024-05-06T01:02:00",
        None,
        None,
        "2024-05",
    ]
    assert to_json([pd.Timedelta("1.5s"), pd.Series([pd.Timedelta("1min"), pd.NaT])]) == [1.5, [60.0, None]]
    assert to_json(pd.to_datetime(["2024-05-06"]).tz_localize("UTC")) == ["2024-05-06T00:00:00+00:00"]


def test_large_table_is_described() -> None:
    wide = pd.DataFrame(np.zeros((10_000, 3)))
    assert to_json_limited(wide, 20_000) == {"type": "DataFrame", "shape": [10_000, 3], "truncated": True}  # by its cells
    assert to_json_limited(wide, 50_000) == {"type": "DataFrame", "shape": [10_000, 3], "truncated": True}  # by its text
    size = len(json.dumps(to_json(wide), ensure_ascii=False))
    assert to_json_limited(wide, size) == wide.to_csv(lineterminator="\n")
    assert to_json_limited(pd.Series(range(1000)), 900) == {"type": "Series", "shape": [1000], "truncated": True}


def test_figure_is_a_png(figure: Any) -> None:
    picture = base64.b64decode(to_json(figure), validate=True)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(picture))
    assert base64.b64decode(to_json(image), validate=True).startswith(b"\x89PNG\r\n\x1a\n")
