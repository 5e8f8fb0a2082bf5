"""What docs/tuning.md and the shipped trust figures say is what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tuning_tables as tables  # noqa: E402


def test_page_and_shipped_figures_are_generated(tmp_path, monkeypatch):
    before = {path: path.read_text(encoding="utf-8") for path in (tables.PAGE, tables.TRUST)}
    for name, path in (("PAGE", tables.PAGE), ("TRUST", tables.TRUST)):
        copy = tmp_path / path.name
        copy.write_text(before[path], encoding="utf-8")
        monkeypatch.setattr(tables, name, copy)
    tables.main()
    for path, text in before.items():
        assert (tmp_path / path.name).read_text(encoding="utf-8") == text, (
            f"{path.name} is old: run python tools/tuning_tables.py"
        )


def test_a_family_is_judged_by_its_median_and_its_worst_losses():
    def case(family, spearman, top1, top3):
        order = {"spearman": spearman, "top1": top1, "top3": top3}
        return {"family": family, "device": "host", "length": 14, "orders": {"static": order}}

    found = tables.families(
        {
            "cases": [
                case("parc direct", 0.9, 1.1, 1.0),
                case("parc two-level", 0.7, 1.0, 1.02),
                case("parc two-level", 0.8, 1.0, 1.0),
                case("matmul", 0.5, 1.0, 1.0),
            ]
        }
    )
    assert found["parc"] == {"spearman": 0.8, "top1": 1.1, "top3": 1.02}
    assert list(found) == ["parc", "matmul"]


def test_shipped_figures_are_complete():
    trust = json.loads(tables.TRUST.read_text(encoding="utf-8"))
    for weights in (*trust["weights"].values(), trust["weights_elsewhere"]):
        assert set(weights) == {"waiting", "access", "line", "fetched", "allocated", "expelled"}
        assert all(value >= 0 for value in weights.values())
