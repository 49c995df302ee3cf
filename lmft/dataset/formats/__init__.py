"""Formats of files with records: JSON, CSV and TSV, Parquet and Arrow.

Records are read one after another, so memory does not grow with the file.
"""
