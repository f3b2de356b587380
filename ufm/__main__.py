"""``python -m ufm`` is the ``ufm`` command."""

from .cli import main

main()
