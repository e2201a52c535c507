"""Writes the table of `make soak` into docs/reliability.md, from what its tests saw (output/soak.json).

python docs/generate_reliability.py
"""

import json
from pathlib import Path

PAGE = Path(__file__).with_name("reliability.md")
SEEN = Path(__file__).parents[1] / "output" / "soak.json"
BEGIN, END = "<!-- soak -->\n", "<!-- end of soak -->\n"


def main() -> None:
    """Write the table of the last soak."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    lines = json.loads(SEEN.read_text(encoding="utf-8"))
    rows = "".join(f"| {tried} | {result} | `{test}` |\n" for test, (tried, result) in lines.items())
    table = f"| what was done | what came of it | test |\n|---|---|---|\n{rows}"
    PAGE.write_text(f"{head}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
