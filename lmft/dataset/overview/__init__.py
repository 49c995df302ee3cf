"""Show what a model will read, before anything is trained: on a terminal and as a page.

Only cached tokens are read, so it takes a moment, whatever the size of the corpus.
"""
