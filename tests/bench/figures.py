# SPDX-License-Identifier: Apache-2.0
"""Figures: what runs have found, condensed to medians with their spread, as tables and as JSON.

A run is a dictionary {figure: number or None}; the unit is the end of a figure's name. It may have the key `guarantee`,
a text: what was promised by whoever was measured, at that moment. A row is all runs of one contender, in turn with
those of the others.
"""

import statistics
import textwrap

GUARANTEE = "guarantee"
FEW = 6  # figures without a column that still fit into the row


def condense(runs):
    """{"figures": {name: {median, low, high, values}}, "guarantee": [text]} of the runs of one row."""
    names = [name for run in runs for name in run if name != GUARANTEE]
    found = {}
    for name in dict.fromkeys(names):
        values = [run[name] for run in runs if run.get(name) is not None]
        if values:
            found[name] = {"median": statistics.median(values), "low": min(values), "high": max(values),
                           "values": values}
    return {"figures": found, GUARANTEE: sorted({run[GUARANTEE] for run in runs if GUARANTEE in run})}


def number(value):
    """As many digits as mean something."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def median(row, figure):
    return row["figures"][figure]["median"] if row and figure in row["figures"] else None


def ratio(rows, name, peer, figure):
    """The median of a row divided by its peer's; None where one of them is not there."""
    ours, theirs = median(rows.get(name), figure), median(rows.get(peer), figure)
    return ours / theirs if ours is not None and theirs else None


def spread(row, figure):
    found = row["figures"].get(figure)
    return f"{number(found['low'])}..{number(found['high'])}" if found else "-"


def lines(rows):
    """A table of texts: the first column to the left, the last one as it is, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1])]
        yield ("  " + "  ".join(cells + [row[-1]])).rstrip()


def old_cells(found, old, name):
    """What an earlier run had: the ratio to the first peer, or the figure itself where there is no peer."""
    rows = (old or {}).get("rows", {})
    for peer in found["peers"]:
        value = ratio(rows, name, peer, found["head"])
        if value is not None:
            return number(value)
    return number(median(rows.get(name), found["head"]))


def table(found, old=None):
    """The lines of a measure's result: a row for each contender, and everything that has no column behind it."""
    head, columns, peers = found["head"], found["columns"], found["peers"]
    titles = ["", head, "low..high", *(f"/{peer}" for peer in peers)]
    rows, below = [titles + (["old"] if old else []) + columns + [""]], []
    for name, row in found["rows"].items():
        cells = [name, number(median(row, head)), spread(row, head)]
        cells += [number(ratio(found["rows"], name, peer, head)) for peer in peers]
        cells += [old_cells(found, old, name)] if old else []
        cells += [number(median(row, column)) for column in columns]
        rest = [f"{figure} {number(row['figures'][figure]['median'])}" for figure in row["figures"]
                if figure != head and figure not in columns]
        rows.append(cells + [", ".join(rest) if len(rest) <= FEW else ""])
        if len(rest) > FEW:
            below += textwrap.wrap(f"{name}: {', '.join(rest)}", 116, initial_indent="  ", subsequent_indent="    ")
    return list(lines(rows)) + below


def guarantees(found):
    """One line for each guarantee that was found, with who gave it."""
    return [f"{name}: {text}" for name, row in found["rows"].items() for text in row[GUARANTEE]]
