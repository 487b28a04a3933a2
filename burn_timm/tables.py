"""Tables in aligned Markdown, which also reads well in a terminal, and the figures in them."""

from collections.abc import Sequence
from statistics import mean, stdev


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """An aligned Markdown table; the first `text_columns` columns align left, the others (numbers) right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(aligned)} |".rstrip()

    rule = "|".join(
        "-" * (width + 2) if column < text_columns else "-" * (width + 1) + ":" for column, width in enumerate(widths)
    )
    return "\n".join([line(header), f"|{rule}|", *(line(row) for row in rows)])


def number(value: float | None, digits: int, scale: float = 1) -> str:
    """`value * scale` with so many decimals; `n/a` for None."""
    return "n/a" if value is None else f"{value * scale:,.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation (n - 1) of some values; one value alone has no deviation."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
