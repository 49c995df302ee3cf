"""Output for people: terminal, log lines, Markdown and plots.

Secrets and terminal control characters are removed from all text.
"""
