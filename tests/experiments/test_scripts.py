"""Every script behind a published number can still be read: what it imports is there."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "experiments").rglob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_script_finds_what_it_imports(script, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    importlib.import_module(".".join(script.relative_to(ROOT).with_suffix("").parts))
