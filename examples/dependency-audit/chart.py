"""Horizontal bar charts as SVG, readable in light and dark surroundings."""

from dataclasses import dataclass
from html import escape

from sources import code_by_module

WIDTH, LABEL, VALUE, ROW, BAR, HEAD, FOOT = 760, 190, 84, 26, 16, 64, 34
BARS_MAX = 16

STYLE = """
  .paper { fill: #ffffff } text { fill: #24292f; font: 13px system-ui, sans-serif }
  .title { font-weight: 600; font-size: 16px } .small { fill: #57606a; font-size: 12px }
  .grid { stroke: #d8dee4 } .main { fill: #2f6f9f } .rest { fill: #a9cbe3 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } text { fill: #e6edf3 } .small { fill: #9198a1 }
    .grid { stroke: #30363d } .main { fill: #58a6d8 } .rest { fill: #274b66 }
  }"""


@dataclass
class Bar:
    label: str
    #: The dark part of the bar.
    main: int
    #: The whole bar; at least `main`.
    whole: int
    note: str


def dependents(graph):
    """The crates that most others need: directly (dark) and through others (light)."""
    ranked = sorted(
        ((len(crate.needed_by_all()), len(crate.needed_by), crate) for crate in graph.crates),
        key=lambda item: (-item[0], -item[1], item[2].name, item[2].version),
    )
    twice = graph.duplicates()
    bars = [
        Bar(
            f"{crate.name} {crate.version}" if crate.name in twice else crate.name,
            direct,
            every,
            f"{direct} + {every - direct}",
        )
        for every, direct, crate in ranked[:BARS_MAX]
    ]
    subtitle = f"Crates that need it: directly (dark) + through others (light). {len(bars)} of {len(graph.crates)} crates."
    return draw("dependents", "What most crates stand on", subtitle, bars)


def modules(files):
    """Lines of code of each module of the project."""
    lines = code_by_module(files)
    bars = [Bar(name, code, code, f"{code:,}") for name, code in lines[:BARS_MAX]]
    subtitle = f"Lines of code per module, without comments. {sum(code for _, code in lines):,} in all."
    return draw("modules", "Where the code is", subtitle, bars)


def draw(name, title, subtitle, bars):
    height = HEAD + ROW * len(bars) + FOOT
    room = WIDTH - LABEL - VALUE
    step = grid_step(max((bar.whole for bar in bars), default=1))
    top = max(step, -(-max((bar.whole for bar in bars), default=1) // step) * step)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-labelledby="{name}-title {name}-text">',
        f'<title id="{name}-title">{escape(title)}</title>',
        f'<desc id="{name}-text">{escape(subtitle)}</desc>',
        f"<style>{STYLE}\n</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>',
        f'<text class="title" x="16" y="28">{escape(title)}</text>',
        f'<text class="small" x="16" y="47">{escape(subtitle)}</text>',
    ]
    bottom = HEAD + ROW * len(bars)
    for value in range(0, top + 1, step):
        x = LABEL + room * value / top
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{HEAD}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="small" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:,}</text>')
    for row, bar in enumerate(bars):
        y = HEAD + ROW * row
        whole, main = room * bar.whole / top, room * bar.main / top
        parts += [
            f'<text x="{LABEL - 10}" y="{y + 17}" text-anchor="end">{escape(shortened(bar.label))}</text>',
            f'<rect class="rest" x="{LABEL}" y="{y + 5}" width="{whole:.1f}" height="{BAR}" rx="2"/>',
            f'<rect class="main" x="{LABEL}" y="{y + 5}" width="{main:.1f}" height="{BAR}" rx="2"/>',
            f'<text class="small" x="{LABEL + whole + 8:.1f}" y="{y + 17}">{escape(bar.note)}</text>',
        ]
    return "\n".join(parts) + "\n</svg>\n"


def grid_step(largest):
    """A step of 1, 2 or 5 times a power of ten that gives at most six lines."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if largest <= step * factor * 5:
                return step * factor
        step *= 10


def shortened(label, longest=24):
    return label if len(label) <= longest else label[: longest - 1] + "…"
