"""Models on disk and on the Hub: weight files, state dicts, records, model cards."""
