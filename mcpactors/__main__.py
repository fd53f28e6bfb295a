"""`python -m mcpactors`."""

from mcpactors.cli import main

raise SystemExit(main())
