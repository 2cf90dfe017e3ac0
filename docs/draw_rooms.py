"""Draw the rooms of the package and the imports between them, from the code.

python docs/draw_rooms.py    writes docs/rooms.png and prints the arrows
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.test_imports import FLOORS, _files, _imported  # noqa: E402


def arrows() -> dict[tuple[str, str], int]:
    """Return how many files of each room import each other room."""
    rooms = {room for floor in FLOORS for room in floor}
    found: dict[tuple[str, str], int] = {}
    for room in rooms:
        for file in _files(room):
            for other in (_imported(file) & rooms) - {room}:
                found[room, other] = found.get((room, other), 0) + 1
    return found


def draw(found: dict[tuple[str, str], int], out: Path) -> None:
    """Draw one row per floor, the ground at the bottom; the darker an arrow, the more files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    place = {}
    for height, floor in enumerate(FLOORS):
        for index, room in enumerate(sorted(floor)):
            place[room] = (3.2 * (index - (len(floor) - 1) / 2) + 0.5 * (-1) ** height, height)
    figure, axes = plt.subplots(figsize=(9, 9), layout="constrained")
    most = max(found.values())
    for (room, other), files in sorted(found.items(), key=lambda item: item[1]):
        axes.annotate(
            "",
            xy=place[other],
            xytext=place[room],
            arrowprops={
                "arrowstyle": "->",
                "color": "tab:blue",
                "alpha": 0.12 + 0.7 * files / most,
                "shrinkA": 14,
                "shrinkB": 14,
                "connectionstyle": "arc3,rad=0.15",
            },
        )
    for room, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "black"}
        axes.text(x, y, room, ha="center", va="center", fontsize=11, bbox=box)
    axes.set_xlim(-5, 5)
    axes.set_ylim(-0.6, len(FLOORS) - 0.4)
    axes.axis("off")
    axes.set_title("rooms: an arrow runs from the importer down to what it imports")
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    counted = arrows()
    height = {room: level for level, floor in enumerate(FLOORS) for room in floor}
    print(f"{len(height)} rooms, {len(counted)} arrows")
    print("upwards:", [pair for pair in counted if height[pair[1]] > height[pair[0]]])
    draw(counted, ROOT / "docs" / "rooms.png")
