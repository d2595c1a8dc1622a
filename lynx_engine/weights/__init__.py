"""Weight files as files: which a variant needs, where they come from, whether they are whole."""
