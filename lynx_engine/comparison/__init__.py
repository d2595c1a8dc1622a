"""Compares the variants of a campaign: measures its clips, and says what the numbers hold."""
