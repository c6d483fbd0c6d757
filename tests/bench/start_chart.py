"""Draws the parts of starts: as text for a terminal, and as SVG for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tests.bench import machine
from tests.bench.start_parts import PARTS, Part

# One letter and one color for each part. The colors of Okabe and Ito, which the color-blind can tell apart:
# https://jfly.uni-koeln.de/color/
_LETTERS = dict(zip(PARTS, "iflpo1", strict=True))
_COLORS = dict(zip(PARTS, ("#999999", "#56b4e9", "#009e73", "#f0e442", "#e69f00", "#d55e00"), strict=True))
_COLUMNS = 100
# Pixels.
_WIDTH, _ROW, _BAR, _BESIDE, _LETTER = 560, 30, 14, 6, 7


@dataclass(frozen=True)
class Bar:
    """The parts of one start."""

    label: str
    parts: Sequence[Part]

    @property
    def seconds(self) -> float:
        """Length of the start."""
        return max(part.end for part in self.parts)

    def milliseconds(self, name: str) -> str:
        """The time of all parts of that name; empty if there is none."""
        found = [part.end - part.begin for part in self.parts if part.name == name]
        return f"{1000 * sum(found):.0f}" if found else ""

    def in_turn(self) -> list[Part]:
        """The parts one after the other. Opening the model counts from where nothing else is left to do."""
        others = [part for part in self.parts if part.name != "open"]
        opened = max((part.end for part in self.opening()), default=0.0)
        before = max(part.end for part in others if part.name != "first reply")
        wait = [Part("open", before, opened)] if opened > before else []
        return sorted([*others, *wait], key=lambda part: part.begin)

    def opening(self) -> list[Part]:
        """When the model was opened."""
        return [part for part in self.parts if part.name == "open"]

    def opening_beside(self) -> list[Part]:
        """When the model was opened, if other parts went on beside."""
        before = max(part.end for part in self.parts if part.name not in ("open", "first reply"))
        return [part for part in self.opening() if part.begin < before - 0.005]


def text(bars: Sequence[Bar]) -> str:
    """The milliseconds of each part as a table, and a line of letters for each start."""
    rows: list[tuple[str, ...]] = [("milliseconds", *PARTS, "start")]
    for bar in bars:
        rows.append((bar.label, *map(bar.milliseconds, PARTS), f"{1000 * bar.seconds:.0f}"))
    scale = max(bar.seconds for bar in bars) / _COLUMNS
    width = max(len(bar.label) for bar in bars)
    lines = [f"A letter is {1000 * scale:.0f} ms: {', '.join(f'{_LETTERS[name]} {name}' for name in PARTS)}"]
    for bar in bars:
        lines.append(f"{bar.label:{width}}  {_letters(bar.in_turn(), scale)}")
        if beside := _letters(bar.opening_beside(), scale):
            lines.append(f"{'':{width}}  {beside}")
    return "\n\n".join([machine.markdown(rows), "\n".join(lines)])


def _letters(parts: Sequence[Part], scale: float) -> str:
    line = ""
    for part in parts:
        line = line.ljust(round(part.begin / scale))
        line += _LETTERS[part.name] * (round(part.end / scale) - len(line))
    return line


def svg(bars: Sequence[Bar]) -> str:
    """The same as a picture: a bar for each start, and a thin one for the time in which the model opens."""
    longest = max(bar.seconds for bar in bars)
    left = 20 + _LETTER * max(len(bar.label) for bar in bars)
    top, height = 34, 34 + _ROW * len(bars) + 30

    def rectangle(part: Part, y: float, tall: int) -> str:
        x, width = left + part.begin / longest * _WIDTH, (part.end - part.begin) / longest * _WIDTH
        title = f"{part.name}: {1000 * (part.end - part.begin):.0f} ms"
        place = f'x="{x:.1f}" y="{y}" width="{max(width, 0):.1f}" height="{tall}"'
        return f'<rect {place} fill="{_COLORS[part.name]}"><title>{escape(title)}</title></rect>'

    drawn = []
    for number, name in enumerate(PARTS):
        x = 12 + number * 120
        drawn.append(f'<rect x="{x}" y="10" width="12" height="12" fill="{_COLORS[name]}"/>')
        drawn.append(f'<text x="{x + 18}" y="20">{escape(name)}</text>')
    for number, bar in enumerate(bars):
        y = top + number * _ROW
        drawn.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(bar.label)}</text>')
        drawn += [rectangle(part, y + 2, _BAR) for part in bar.in_turn()]
        drawn += [rectangle(part, y + 2 + _BAR, _BESIDE) for part in bar.opening_beside()]
        end = left + bar.seconds / longest * _WIDTH
        drawn.append(f'<text x="{end + 6:.1f}" y="{y + 13}">{bar.seconds:.2f} s</text>')
    drawn.append(
        f'<text x="12" y="{height - 10}">From the start of the process to its first vector. '
        "The thin bars: the model is opened beside the rest.</text>"
    )
    size = f'width="{left + _WIDTH + 60}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        "<title>The parts of a start</title>",
        f'<rect {size} fill="#ffffff"/>',
        *drawn,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
