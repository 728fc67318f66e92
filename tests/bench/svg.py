"""As much SVG as the charts want, without a library: shapes, and a panel with axes and lines."""
import math
from xml.sax.saxutils import escape

COLOURS = ("#1d3557", "#c44536", "#2a7f62", "#b8860b", "#6a4c93")


class Svg:
    def __init__(self, width, height):
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                      f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
                      f'<rect width="{width}" height="{height}" fill="white"/>']

    def text(self, x, y, text, anchor="start", bold=False, colour="#222222"):
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>'
                          f'{escape(str(text))}</text>')

    def rect(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                          f'fill="{colour}"/>')

    def line(self, x1, y1, x2, y2, colour, dash=""):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"'
                          f'{f" stroke-dasharray={chr(34)}{dash}{chr(34)}" if dash else ""}/>')

    def curve(self, points, colour):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        for x, y in points:
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>')

    def text_of(self):
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def panel(svg, x, y, width, height, title, series, xlabel, ylabel, logarithmic=True):
    """Lines {name: [(x, y), ...]} in a frame; both axes logarithmic, or both linear from zero."""
    scale = math.log10 if logarithmic else float
    xs = [p[0] for line in series.values() for p in line]
    ys = [p[1] for line in series.values() for p in line]
    low = (min(xs), min(ys)) if logarithmic else (0, 0)
    ends = [(scale(low[0]), scale(max(xs))), (scale(low[1]), scale(max(ys)) + (.05 if logarithmic else .05 * max(ys)))]

    def at(px, py):
        parts = [(scale(v) - a) / ((b - a) or 1) for v, (a, b) in zip((px, py), ends)]
        return x + parts[0] * width, y + height - parts[1] * height

    svg.text(x, y - 10, title, bold=True)
    for a, b in (((x, y + height), (x + width, y + height)), ((x, y), (x, y + height))):
        svg.line(*a, *b, "#555555")
    for value in sorted(set(xs)):
        svg.text(at(value, max(ys))[0], y + height + 14, f"{value:g}", anchor="middle")
    for value in _ticks(low[1], max(ys), logarithmic):
        level = at(max(xs), value)[1]
        svg.line(x, level, x + width, level, "#dddddd")
        svg.text(x - 5, level + 4, f"{value:g}", anchor="end")
    svg.text(x + width / 2, y + height + 30, xlabel, anchor="middle")
    svg.text(x - 34, y - 10, ylabel, anchor="end")
    for i, (name, line) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        svg.curve([at(*p) for p in line], colour)
        svg.text(x + (i + .5) * width / len(series), y + height + 48, name, anchor="middle", colour=colour)


def _ticks(low, high, logarithmic):
    if logarithmic:
        steps = [m * 10 ** e for e in range(-4, 7) for m in (1, 2, 5)]
        inside = [v for v in steps if low <= v <= high * 1.1]
        return inside if len(inside) <= 7 else [v for v in inside if f"{v:e}"[0] == "1"]
    step = 10 ** math.floor(math.log10(high or 1))
    step = step / 2 if high / step < 3 else step
    return [step * i for i in range(int(high / step) + 1)]
