"""One printer of tables: aligned Markdown, which also reads well in a terminal."""

from collections.abc import Sequence


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


def inside(text: str, mark: str, table: str) -> str:
    """`text` with `table` between the comments `<!-- mark:begin -->` and `<!-- mark:end -->`, which must be there."""
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"no {begin} ... {end}")
    return f"{before}{begin}\n{table}\n{end}{after}"
