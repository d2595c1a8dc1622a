"""Prefect only: the flow of a campaign, its thin tasks, and the local server they report to."""
