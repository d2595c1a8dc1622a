"""Pages and pictures that a person opens: files that need no server, no script and no network."""
