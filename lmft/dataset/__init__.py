"""From a corpus to batches: sources, documents, the tokenizer, the token stream, blocks.

Everything is streamed, so memory stays flat as the corpus grows.
"""
