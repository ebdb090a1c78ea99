"""What options of several programs' commands have in common."""

import typer

MOST_TEXT = 400  # privacy.fields.Text, whose import takes long


def text_on_record(text: str | None) -> str | None:
    """An option's callback: its text is of the length that a ledger takes, and prints. Raises BadParameter."""
    if text is None:
        return None
    if not 1 <= len(text) <= MOST_TEXT:
        raise typer.BadParameter(f"give 1 to {MOST_TEXT} characters; these are {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter("its bytes are no UTF-8 text") from error
    if not text.isprintable():
        raise typer.BadParameter("give printable characters alone: no control characters, no line breaks")
    return text
