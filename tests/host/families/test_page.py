"""docs/families.md says what the table and the suite say."""

import runpy
from pathlib import Path

GENERATOR = Path(__file__).parents[3] / "docs/generate_families.py"


def test_page_on_families_is_up_to_date():
    page = runpy.run_path(str(GENERATOR))
    assert page["PAGE"].read_text(encoding="utf-8") == page["render"](), "run: python docs/generate_families.py"
