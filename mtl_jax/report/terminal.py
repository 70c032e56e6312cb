"""The output of a run in a terminal."""

from collections.abc import Sequence

from rich import box
from rich import console as console_lib
from rich import table as table_lib
from rich import text as text_lib

from mtl_jax.report import page

_PIPED = 200  # columns of a table that goes to a pipe or a file


def show(records: list[dict], summary: dict, report) -> None:
  """Prints the table, remarks on the results, and the path of the report.

  Args:
    records: records of the learned tasks; see `page`.
    summary: the summary of the run.
    report: path of the page.
  """
  console = _console()
  table = page.table(records, summary)
  caption, table.caption = table.caption, None
  console.print(table)
  lines = str(caption or '').split('\n')
  lines += [f'note: {hint}' for hint in summary.get('hints') or []]
  for line in [*lines, f'report: {report}']:
    console.print(text_lib.Text(line), soft_wrap=not console.is_terminal)


def print_table(columns: Sequence[str], rows: Sequence[Sequence]) -> None:
  """Prints a table at its own width, or at the width of the terminal."""
  table = table_lib.Table(box=box.SIMPLE_HEAD, collapse_padding=True,
                          pad_edge=False)
  for column in columns:
    table.add_column(column, overflow='fold')
  for row in rows:  # as Text: markup in a name is not interpreted
    table.add_row(*(text_lib.Text(str(cell)) for cell in row))
  _console().print(table)


def _console() -> console_lib.Console:
  """The terminal; for a pipe or a file a wide one, so that no line wraps."""
  console = console_lib.Console()
  if console.is_terminal:
    return console
  return console_lib.Console(width=max(_PIPED, console.width))
