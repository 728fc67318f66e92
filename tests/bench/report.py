"""Rows, and what is made of them: a table in Markdown, the same in JSON, a chart in SVG."""
import json
import time
from dataclasses import asdict, dataclass

from svg import Svg


@dataclass
class Row:
    """One figure with what it is compared with. `goal` is ("<=" or ">=", number), or None: told for information."""
    part: str
    what: str
    net: str
    precision: str = "f32"
    threads: int = 2
    ours: float = None
    theirs: float = None
    unit: str = "ms"
    ratio: float = None
    low: float = None       # of the rounds' own ratios
    high: float = None
    shortest: float = None  # ratio of the shortest times: less moved by other programs
    goal: tuple = None
    note: str = ""
    load: float = None
    when: str = ""

    def __post_init__(self):
        self.goal = tuple(self.goal) if self.goal else None

    @property
    def key(self):
        return (self.part, self.what, self.net, self.precision, self.threads)

    @property
    def met(self):
        """None: no goal, or not measured."""
        if self.goal is None or self.ratio is None:
            return None
        sign, bound = self.goal
        return self.ratio >= bound if sign == ">=" else self.ratio <= bound

    @property
    def score(self):
        """1 just meets the goal, more is better."""
        sign, bound = self.goal
        if sign == ">=":
            return self.ratio / bound
        return 2.0 if self.ratio <= 0 else min(bound / self.ratio, 2.0)


def load_average():
    with open("/proc/loadavg") as f:
        return float(f.read().split()[0])


class Report:
    def __init__(self, machine):
        self.machine, self.rows, self.merged = machine, {}, None

    def add(self, row):
        row.load, row.when = load_average(), time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        self.rows[row.key] = row

    def keep(self, path):
        """Takes over the rows of an earlier report; what is measured now replaces them."""
        if path.exists():
            self.rows = read(path)[1]

    def merge(self, path):
        self.merged = read(path)

    def ordered(self):
        keys = list(self.rows)
        if self.merged:
            keys += [k for k in self.merged[1] if k not in self.rows]
        return sorted(keys, key=lambda k: k[0])

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        data = {"machine": self.machine, "rows": [asdict(r) | {"met": r.met} for r in self.rows.values()]}
        (folder / "report.json").write_text(json.dumps(data, indent=1) + "\n")
        (folder / "report.md").write_text(self.markdown())
        (folder / "report.svg").write_text(self.chart())

    # ---- the table ----

    def markdown(self):
        lines = ["# Speed", "", "Medians of rounds in which all took turns. A ratio with a goal of at least something is "
                 "theirs / ours, with a goal of at most something ours / theirs; behind it the range of the rounds' own "
                 "ratios, in the column after it the ratio of the shortest times, which other programs move least.", ""]
        lines += [f"- {name}: {value}" for name, value in self.machine.items()]
        if self.merged:
            other = self.merged[0]["oneDNN"]
            lines += ["", f"Last two columns: the same on oneDNN {other}.", ""]
            lines += [f"- there, {name}: {value}" for name, value in self.merged[0].items()
                      if value != self.machine.get(name)]
        met = [r.met for r in self.rows.values() if r.goal]
        lines += ["", f"Goals met: {met.count(True)}, missed: {met.count(False)}, not measured: {met.count(None)}.", ""]
        head = ["", "what", "net", "precision", "threads", "ours", "theirs", "ratio", "shortest", "goal", "met", "load",
                "note"]
        if self.merged:
            head += [f"ratio, {other}", f"met, {other}"]
        lines += [table_line(head), table_line(["---"] * len(head))]
        for key in self.ordered():
            lines.append(table_line(self.cells(key)))
        return "\n".join(lines) + "\n"

    def cells(self, key):
        other = self.merged[1].get(key) if self.merged else None
        row = self.rows.get(key) or Row(*key, goal=other.goal, note="only in the other report")
        cells = [row.part, row.what, row.net, row.precision, row.threads, amount(row.ours, row.unit),
                 amount(row.theirs, row.unit), with_range(row), number(row.shortest), goal_text(row.goal),
                 yes(row), number(row.load), row.note]
        if self.merged:
            cells += [with_range(other), yes(other)] if other else ["", ""]
        return cells

    # ---- the chart ----

    def chart(self):
        rows = [self.rows[k] for k in self.ordered() if k in self.rows and self.rows[k].met is not None]
        left, width, step = 420, 460, 17
        svg = Svg(left + width + 160, 50 + step * len(rows))
        svg.text(left, 18, "how far each goal is reached: 1 just meets it, more is better", bold=True)
        unit = width / 2
        for i, row in enumerate(rows):
            y = 34 + i * step
            score = min(row.score, 2.0)
            svg.text(left - 8, y + 10, f"{row.part}  {row.what}, {row.net}, {row.precision}", anchor="end")
            svg.rect(left, y, score * unit, step - 5, "#2a7f62" if row.met else "#c44536")
            svg.text(left + score * unit + 6, y + 10, f"{number(row.ratio)} ({goal_text(row.goal)})")
        svg.line(left + unit, 26, left + unit, 34 + step * len(rows), "#333333")
        return svg.text_of()


def read(path):
    """(machine, {key: row}) of a report.json."""
    data = json.loads(path.read_text())
    rows = [Row(**{k: v for k, v in r.items() if k != "met"}) for r in data["rows"]]
    return data["machine"], {row.key: row for row in rows}


def number(value):
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"


def amount(value, unit):
    return "" if value is None else f"{number(value)} {unit}".strip()


def with_range(row):
    if row.ratio is None:
        return ""
    return number(row.ratio) + (f" ({number(row.low)} to {number(row.high)})" if row.low is not None else "")


def goal_text(goal):
    return f"{'≥' if goal[0] == '>=' else '≤'} {goal[1]:g}" if goal else ""


def yes(row):
    return {True: "yes", False: "**no**", None: ""}[row.met]


def table_line(cells):
    return "| " + " | ".join(str(c).replace("|", "/").replace("\n", " ") for c in cells) + " |"
