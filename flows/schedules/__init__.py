"""Schedules: the workspace's file of them, their ticks, and the Prefect deployments they become.

There is no scheduler of our own: Prefect's decides when, this package says what.
"""
