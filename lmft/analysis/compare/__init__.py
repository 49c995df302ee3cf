"""Compare runs: which is better, by how much, and whether the difference is significant.

In the terminal, as Markdown and as an HTML page.
"""
