"""From a corpus to batches: sources, documents, tokenizer, token stream, blocks, batches.

Text is streamed, so memory does not grow with the corpus.
"""
