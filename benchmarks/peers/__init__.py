"""Programs that fit and score the same customers, each a process (and environment) of its own."""
