"""``python -m cellpost`` is the ``cellpost`` command."""

from cellpost.cli import app

if __name__ == "__main__":
    app(prog_name="cellpost")
