"""The networks and their weights. Importing this package loads none of them, nor torch."""
