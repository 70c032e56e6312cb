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
  if _width(console, table) > console.width:
    table = page.table(records, summary, narrow=True)
    table.caption = None
  console.print(table)
  lines = str(caption or '').split('\n')
  lines += [f'note: {hint}' for hint in summary.get('hints') or []]
  for line in [*lines, f'report: {report}']:
    console.print(text_lib.Text(line), soft_wrap=not console.is_terminal)


def print_table(columns: Sequence[str], rows: Sequence[Sequence],
                optional: int = 0) -> None:
  """Prints a table at its own width, or at the width of the terminal.

  Args:
    columns: the headings.
    rows: a cell for each column.
    optional: how many of the last columns a narrow terminal may leave out; a
      line below the table names them.
  """
  console = _console()
  shown = len(columns)
  while shown > len(columns) - optional and console.width < _width(
      console, _table(columns[:shown], rows)):
    shown -= 1
  console.print(_table(columns[:shown], rows))
  if shown < len(columns):
    console.print('left out, because the terminal is narrow: '
                  f'{", ".join(columns[shown:])}; the output has them in a '
                  'wider terminal or a file', markup=False, highlight=False)


def _table(columns: Sequence[str], rows: Sequence[Sequence]
           ) -> table_lib.Table:
  table = table_lib.Table(box=box.SIMPLE_HEAD, collapse_padding=True,
                          pad_edge=False, show_edge=False)
  for column in columns:
    table.add_column(column, overflow='fold')
  for row in rows:  # as Text: markup in a name is not interpreted
    table.add_row(*(text_lib.Text(str(cell)) for cell in row[:len(columns)]))
  return table


def _width(console: console_lib.Console, table: table_lib.Table) -> int:
  """Columns that a table takes if no cell wraps."""
  endless = console.options.update(max_width=10_000)
  return console.measure(table, options=endless).maximum


def _console() -> console_lib.Console:
  """The terminal; for a pipe or a file a wide one, so that no line wraps."""
  console = console_lib.Console()
  if not console.is_terminal:
    console = console_lib.Console(width=max(_PIPED, console.width))
  return console
