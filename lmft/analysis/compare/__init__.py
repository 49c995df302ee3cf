"""Which of several runs is better, by how much, and whether that is more than chance.

In the terminal, as Markdown and as an HTML page.
"""
