"""What people read: terminal, log lines, Markdown and plots.

Text is stripped of secrets and terminal control characters on the way.
"""
