"""What a run says in a terminal."""

from collections.abc import Sequence

from rich import box
from rich import console as console_lib
from rich import table as table_lib
from rich import text as text_lib

from mtl_jax.report import page

_PIPED = 200  # columns of a table that no terminal limits


def show(records: list[dict], summary: dict, report) -> None:
  """Prints the table, what is to be said of it, and where the report is.

  Args:
    records: of the learned tasks; see `page`.
    summary: of the run.
    report: the path of the page.
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
  """Prints a table as wide as it wants to be, or as the terminal is."""
  table = table_lib.Table(box=box.SIMPLE_HEAD, collapse_padding=True,
                          pad_edge=False)
  for column in columns:
    table.add_column(column, overflow='fold')
  for row in rows:  # as Text: a name is never read as markup
    table.add_row(*(text_lib.Text(str(cell)) for cell in row))
  _console().print(table)


def _console() -> console_lib.Console:
  """The terminal; a pipe or a file is wide, so that nothing is folded."""
  console = console_lib.Console()
  if console.is_terminal:
    return console
  return console_lib.Console(width=max(_PIPED, console.width))
