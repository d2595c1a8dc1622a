"""Looks at finished clips before anybody else does: classifiers, and what their word means."""
